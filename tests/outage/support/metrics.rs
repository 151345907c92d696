//! The text of a node's `/metrics`.

#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The sum of a metric over all series with these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, rest) = series.split_once('{').unwrap_or((series, ""));
            (metric == name && labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))).then_some(value)
        });
        series.map(|value| value.parse::<f64>().unwrap()).sum()
    }
}

#[test]
fn a_sum_is_over_the_series_that_match() {
    let metrics = Metrics("# HELP a b\na_total{source=\"x\",outcome=\"lost\"} 2\na_total{source=\"y\",outcome=\"lost\"} 3\na_total_more 7\n".into());
    assert!((metrics.sum("a_total", &[("outcome", "lost")]) - 5.0).abs() < f64::EPSILON);
    assert!((metrics.sum("a_total", &[("source", "y")]) - 3.0).abs() < f64::EPSILON);
}
