//! Alerts, dashboard and scrape configurations ask for what is exported, and `docs/metrics.md` says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redrive::message::State;
use redrive::telemetry::metrics::Metrics;
use serde_json::{Value, json};

use super::{of, of_compose, text};
use crate::support::yaml::documents;

/// The labels of each series, with the values that they take here.
type Series = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// All that a node exports.
fn exported() -> Series {
    let metrics = Metrics::new("orders".into());
    let lane = metrics.lane("crm");
    lane.due_to_send.observe(0.1);
    lane.send_seconds.observe(0.1);
    for state in State::WAITING {
        metrics.waiting("crm", state.as_str(), 1);
    }
    metrics.overdue("crm", Duration::from_secs(1));
    metrics.store_took("claim", Duration::from_millis(1));
    let mut series = Series::new();
    for line in metrics.render().lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, _) = rest.split_once("} ").unwrap();
        let known = series.entry(name.to_owned()).or_default();
        for label in labels.split(',') {
            let (label, value) = label.split_once('=').unwrap();
            known.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
        }
    }
    series
}

/// What Prometheus has when it scrapes as `scrape.yaml` says: series of its own, and labels that it adds.
fn scraped() -> Series {
    let mut series = exported();
    series.extend(["up", "probe_success"].map(|own| (own.to_owned(), BTreeMap::new())));
    let jobs: BTreeSet<_> = jobs("scrape.yaml").iter().map(|job| job["job_name"].as_str().unwrap().to_owned()).collect();
    for labels in series.values_mut() {
        labels.insert("job".to_owned(), jobs.clone());
        labels.insert("instance".to_owned(), BTreeSet::new());
    }
    series
}

/// What a file has Prometheus scrape.
fn jobs(file: &str) -> Vec<Value> {
    documents(&text(&format!("deploy/prometheus/{file}")))[0]["scrape_configs"].as_array().unwrap().clone()
}

/// A series, and what its labels are held against: label, operator, value.
struct Selector<'a> {
    name: &'a str,
    matchers: Vec<[&'a str; 3]>,
}

/// What an expression asks for, and the labels that it groups by.
#[derive(Default)]
struct Asked<'a> {
    selectors: Vec<Selector<'a>>,
    groups: Vec<&'a str>,
}

/// As much of PromQL as ours use.
fn asked(expression: &str) -> Asked<'_> {
    let mut asked = Asked::default();
    let mut rest = expression;
    while let Some(at) = rest.find(|sign: char| sign.is_ascii_alphabetic() || sign == '[') {
        rest = &rest[at..];
        if rest.starts_with('[') {
            rest = rest.split_once(']').unwrap().1;
            continue;
        }
        let (word, behind) = rest.split_at(rest.find(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_').unwrap_or(rest.len()));
        rest = behind;
        if word == "by" {
            let (labels, behind) = rest.strip_prefix(" (").unwrap().split_once(')').unwrap();
            asked.groups.extend(labels.split(", "));
            rest = behind;
        } else if let Some(braced) = rest.strip_prefix('{') {
            let (matchers, behind) = braced.split_once('}').unwrap();
            asked.selectors.push(Selector { name: word, matchers: matchers.split(',').map(matcher).collect() });
            rest = behind;
        } else if word != "or" && !rest.starts_with('(') && !rest.starts_with(" by (") {
            asked.selectors.push(Selector { name: word, matchers: Vec::new() });
        }
    }
    asked
}

fn matcher(text: &str) -> [&str; 3] {
    let (label, rest) = text.split_at(text.find(['=', '!']).unwrap());
    let (operator, value) = rest.split_at(rest.find('"').unwrap());
    [label, operator, value.trim_matches('"')]
}

/// Holds what an expression asks for to what there is, and every `{{label}}` of a text to the labels that its result has.
fn hold(series: &Series, expression: &str, labels: &[&str]) {
    let Asked { selectors, groups } = asked(expression);
    assert!(!selectors.is_empty(), "{expression}");
    for Selector { name, matchers } in selectors {
        let known = series.get(name).unwrap_or_else(|| panic!("nothing exports `{name}`: {expression}"));
        for [label, operator, value] in matchers {
            let values = known.get(label).unwrap_or_else(|| panic!("`{name}` has no label `{label}`: {expression}"));
            assert!(operator != "=" || values.contains(value), "`{label}` of `{name}` is never `{value}`: {expression}");
        }
        for label in groups.iter().chain(labels) {
            assert!(known.contains_key(*label), "`{name}` has no label `{label}`: {expression}");
        }
    }
    for label in labels {
        assert!(groups.is_empty() || groups.contains(label), "the result has no label `{label}`: {expression}");
    }
    assert!(takes_the_max(expression), "every node tells of the same table: {expression}");
}

/// Gauges that describe the table: all nodes report the same.
const TABLE_WIDE: [&str; 2] = ["redrive_messages", "redrive_oldest_due_seconds"];

fn takes_the_max(expression: &str) -> bool {
    TABLE_WIDE.iter().flat_map(|name| expression.match_indices(*name)).all(|(at, _)| {
        let before = &expression[..at];
        let grouped = before.rsplit_once("max by (").is_some_and(|(_, labels)| labels.ends_with(") (") && labels.matches('(').count() == 1);
        grouped || before.ends_with("max(")
    })
}

/// The rows of a table of the docs, below its head.
fn rows(file: &str, head: &str) -> Vec<Vec<String>> {
    let docs = text(file);
    let (_, table) = docs.split_once(head).unwrap();
    table.lines().skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn cells(row: &str) -> Vec<String> {
    row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
}

#[test]
fn the_metrics_of_the_docs_are_those_of_the_code() {
    let mut told = BTreeMap::new();
    for row in rows("docs/metrics.md", "| metric | labels | meaning |\n") {
        let labels: BTreeSet<_> = row[1].split(", ").map(str::to_owned).collect();
        told.insert(row[0].clone(), labels);
    }
    let mut have = BTreeMap::new();
    for (name, labels) in exported() {
        // A histogram is three series.
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(*part)).unwrap_or(&name);
        have.insert(name.to_owned(), labels.into_keys().filter(|label| label != "le").collect::<BTreeSet<_>>());
    }
    assert_eq!(told, have);
}

fn rules() -> Vec<Value> {
    documents(&text("deploy/prometheus/alerts.yaml"))[0]["groups"][0]["rules"].as_array().unwrap().clone()
}

#[test]
fn the_alerts_of_the_docs_are_those_of_the_file() {
    let told: Vec<_> = rows("docs/metrics.md", "| alert | expression | for | why |\n").iter().map(|row| row[..3].to_vec()).collect();
    let said = |rule: &Value| ["alert", "expr", "for"].map(|key| rule[key].as_str().unwrap_or_default().to_owned()).to_vec();
    assert_eq!(told, rules().iter().map(said).collect::<Vec<_>>());
}

#[test]
fn alerts_ask_for_what_is_exported_and_say_what_to_do() {
    let series = scraped();
    let operations = text("docs/operations.md");
    let sections: Vec<_> =
        operations.lines().filter_map(|line| line.strip_prefix("## ")).map(|title| title.to_lowercase().replace(' ', "-")).collect();
    let end = |sign: char| !sign.is_ascii_alphanumeric() && sign != '-' && sign != '_';
    for rule in rules() {
        let [summary, description] = ["summary", "description"].map(|part| rule["annotations"][part].as_str().unwrap());
        let labels: Vec<_> =
            [summary, description].iter().flat_map(|text| text.split("$labels.").skip(1)).filter_map(|rest| rest.split(end).next()).collect();
        hold(&series, rule["expr"].as_str().unwrap(), &labels);
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        let links: Vec<_> = description.split("docs/operations.md#").skip(1).filter_map(|rest| rest.split(end).next()).collect();
        assert!(!links.is_empty(), "{rule}");
        for link in links {
            assert!(sections.iter().any(|section| section == link), "docs/operations.md has no section #{link}");
        }
    }
}

#[test]
fn each_panel_asks_for_what_is_exported_and_says_when_to_worry() {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/redrive.json")).unwrap();
    let series = scraped();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect::<Vec<_>>(), ["datasource", "project", "source"]);
    for variable in &variables[1..] {
        let query = variable["query"]["query"].as_str().unwrap().strip_prefix("label_values(").unwrap();
        let (selector, label) = query.strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
        let Selector { name, .. } = asked(selector).selectors.remove(0);
        assert!(series[name].contains_key(label), "{query}");
    }

    let mut ids = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().unwrap().to_lowercase().contains("worry"), "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let [expression, legend] = ["expr", "legendFormat"].map(|part| target[part].as_str().unwrap());
            let labels: Vec<_> = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).collect();
            hold(&series, expression, &labels);
            shown.extend(asked(expression).selectors.iter().map(|selector| selector.name));
        }
    }
    // The sum and the number of a histogram are in its buckets.
    for name in series.keys().filter(|name| !name.ends_with("_sum") && !name.ends_with("_count")) {
        assert!(shown.contains(name.as_str()), "no panel shows {name}");
    }
}

#[test]
fn prometheus_finds_redrive_where_it_runs_and_by_the_name_that_the_alerts_have_for_it() {
    // Beside the compose file.
    assert_eq!(documents(&text("deploy/prometheus/scrape.yaml"))[0]["rule_files"], json!(["alerts.yaml"]));
    assert!(documents(&text("compose.yaml"))[0]["services"]["redrive"].is_object());
    let compose = of_compose();
    let node = format!("redrive:{}", compose.health.listen.unwrap().port());
    let jobs_there = jobs("scrape.yaml");
    let [own, ready] = &jobs_there[..] else { panic!("{jobs_there:?}") };
    assert_eq!(own["static_configs"][0]["targets"], json!([node]));
    assert_eq!(ready["static_configs"][0]["targets"], json!([format!("http://{node}/readyz")]));

    // In Kubernetes.
    let manifest = documents(&text("deploy/kubernetes/sidecar.yaml"));
    let template = &of(&manifest, "Deployment")["spec"]["template"];
    let port = &template["spec"]["initContainers"][0]["ports"][0]["name"];
    let jobs_in_cluster = jobs("scrape-kubernetes.yaml");
    assert_eq!(jobs_in_cluster.len(), jobs_there.len());
    for (job, same) in jobs_in_cluster.iter().zip(&jobs_there) {
        assert_eq!(job["job_name"], same["job_name"]);
        assert_eq!(job["metrics_path"], same["metrics_path"]);
        let kept = &job["relabel_configs"][0];
        assert_eq!((&kept["regex"], &kept["action"]), (port, &json!("keep")));
    }
    let monitor = &documents(&text("deploy/prometheus/podmonitor.yaml"))[0]["spec"];
    assert_eq!(monitor["selector"]["matchLabels"], template["metadata"]["labels"]);
    let endpoint = &monitor["podMetricsEndpoints"][0];
    assert_eq!(&endpoint["port"], port);
    assert_eq!(endpoint["relabelings"], json!([{ "targetLabel": "job", "replacement": own["job_name"] }]));
}
