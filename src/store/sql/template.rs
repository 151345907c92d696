//! Statements are written once, as templates; this module turns a template into a database's SQL.
//!
//! `{log}` and the like are table names; `{now}`, `{plus time|micros}`, `{time column}` and the like are phrases of the dialect; `?` is a parameter.

use super::dialect::{Dialect, Kind};
use super::shape;

/// The names of the tables.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// PostgreSQL's schema, if one is configured.
    pub(super) schema: Option<String>,
    /// The prefix of every table's name.
    pub(super) prefix: String,
    /// The configured project, for the column's default.
    pub(super) project: String,
}

impl Names {
    /// The name of a table without its schema.
    pub(super) fn plain(&self, table: &str) -> String {
        format!("{}{table}", self.prefix)
    }

    /// The name of a table as statements write it. Prefix and schema have been validated: nothing in them needs escaping.
    fn full(&self, table: &str) -> String {
        match &self.schema {
            Some(schema) => format!("\"{schema}\".{}{table}", self.prefix),
            None => self.plain(table),
        }
    }
}

/// The SQL of a template. A template that does not parse is a bug that the unit tests would show.
pub(super) fn render<D: Dialect>(names: &Names, template: &str) -> String {
    let text = expand::<D>(names, template);
    if !D::NUMBERED {
        return text;
    }
    let mut numbered = String::with_capacity(text.len() + 32);
    let mut parameters = 0;
    for part in text.split_inclusive('?') {
        match part.strip_suffix('?') {
            Some(before) => {
                parameters += 1;
                numbered.push_str(before);
                numbered.push('$');
                numbered.push_str(&parameters.to_string());
            }
            None => numbered.push_str(part),
        }
    }
    numbered
}

/// The text of a migration: only names are replaced, there are no parameters.
pub(super) fn expand<D: Dialect>(names: &Names, template: &str) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        let Some(end) = matching(from) else {
            out.push_str(from);
            return out;
        };
        out.push_str(&phrase::<D>(names, &from[1..end]));
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    out
}

/// The position of the brace that closes the text's opening one.
fn matching(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(index),
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn phrase<D: Dialect>(names: &Names, inside: &str) -> String {
    let (word, rest) = inside.split_once(' ').unwrap_or((inside, ""));
    let rest = expand::<D>(names, rest);
    let two = || rest.split_once('|').unwrap_or((&rest, ""));
    match word {
        "log" => names.full("resend_log"),
        "attempt" => names.full("attempt_log"),
        "key" => names.full("resend_key"),
        "node" => names.full("redrive_node"),
        "sheet" => names.full("redrive_sheet"),
        "turn" => names.full("redrive_turn"),
        "sample" => names.full("redrive_sample"),
        "migrations" => names.full("redrive_migrations"),
        "p" => names.prefix.clone(),
        "schema" => names.schema.as_ref().map_or_else(String::new, |schema| format!("\"{schema}\".")),
        "project" => format!("'{}'", names.project.replace('\'', "''")),
        "now" => D::NOW.to_owned(),
        "lock" => D::LOCK.to_owned(),
        "skip" => D::SKIP.to_owned(),
        "or-skip" => (if D::LOCK.is_empty() { "" } else { "SKIP LOCKED" }).to_owned(),
        "waiting" => D::WAITING.to_owned(),
        // Phrased so that no planner uses it to find rows that are named by their ids: it would read the whole queue.
        "waits" => "CASE WHEN level IS NOT NULL THEN 1 END = 1".to_owned(),
        "sourceless" => D::sourceless(&rest),
        "dated" => D::DATED.to_owned(),
        "far" => D::FAR.to_owned(),
        "raised" => shape::RAISED.to_owned(),
        "named" => expand::<D>(names, &D::on_sheets()),
        "once" => D::ONCE.to_owned(),
        "on-sheets" => expand::<D>(names, "SELECT {once} {named}"),
        "held" => expand::<D>(names, shape::HELD_OR_LISTED),
        "listed" => expand::<D>(names, if D::RETURNING { shape::LISTED } else { shape::LISTED_BEFORE }),
        "is-listed" => expand::<D>(names, "CASE WHEN level IS NOT NULL AND id IN ({on-sheets}) THEN 1 ELSE 0 END"),
        "free" => expand::<D>(names, "AND id NOT IN ({on-sheets})"),
        "being-sent" => expand::<D>(names, "(SELECT DISTINCT {named}) AS h {join} {log} l {by-key} ON l.id = h.h_id"),
        "claim-index" => expand::<D>(names, D::CLAIM_INDEX),
        "time" => D::select_time(&rest),
        "text" => D::select_text(&rest),
        "bytes" => D::select_bytes(&rest),
        "plus" => D::plus(two().0, two().1),
        "later" => D::later(two().0, two().1),
        "by-key" => D::BY_KEY.to_owned(),
        "row" => D::ROW.to_owned(),
        "tie" => D::TIE.to_owned(),
        "address" => D::ADDRESS.unwrap_or("NULL").to_owned(),
        "join" => D::JOIN.to_owned(),
        "in" => D::within(&rest),
        "table" => table::<D>(&rest),
        _ => format!("{{{inside}}}"),
    }
}

fn table<D: Dialect>(rest: &str) -> String {
    let mut words = rest.split_whitespace();
    let alias = words.next().unwrap_or("b");
    let columns: Vec<_> = words
        .filter_map(|word| {
            let (name, kind) = word.split_once(':')?;
            let kind = match kind {
                "id" => Kind::Id,
                "int" => Kind::Int,
                "time" => Kind::Time,
                "bytes" => Kind::Bytes,
                _ => Kind::Text,
            };
            Some((name, kind))
        })
        .collect();
    D::table(alias, &columns)
}

#[cfg(test)]
mod tests {
    use super::super::mysql::Mysql;
    use super::super::postgres::Postgres;
    use super::super::sqlite::Sqlite;
    use super::*;

    fn names(schema: Option<&str>) -> Names {
        Names { schema: schema.map(str::to_owned), prefix: "rd_".to_owned(), project: "orders".to_owned() }
    }

    #[test]
    fn parameters_are_numbered_where_they_have_to_be() {
        let template = "SELECT {time {now}} FROM {log} WHERE a = ? AND b IN (SELECT x FROM {table t x:id y:int}) AND c = ?";
        let postgres = render::<Postgres>(&names(Some("s")), template);
        assert_eq!(
            postgres,
            "SELECT statement_timestamp() FROM \"s\".rd_resend_log WHERE a = $1 AND b IN (SELECT x FROM (SELECT unnest($2) AS x, unnest($3) AS y) AS t) AND c = $4"
        );
        let sqlite = render::<Sqlite>(&names(None), template);
        assert!(sqlite.contains("json_extract(value, '$[0]') AS x") && sqlite.ends_with("c = ?"), "{sqlite}");
        let mysql = render::<Mysql>(&names(None), template);
        assert!(
            mysql.contains("TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))") && mysql.contains(" FROM rd_resend_log"),
            "{mysql}"
        );
    }

    #[test]
    fn every_migration_is_expanded_whole() {
        fn check<D: Dialect>() {
            for (version, text) in D::MIGRATIONS {
                let sql = expand::<D>(&names(None), text);
                assert!(!sql.contains(['{', '}']), "{version}");
                assert!(sql.contains("rd_re"), "{version}");
            }
            let first = expand::<D>(&names(None), D::MIGRATIONS[0].1);
            assert!(first.contains("rd_resend_log_claim") && first.contains("DEFAULT 'orders'"));
        }
        check::<Postgres>();
        check::<Mysql>();
        check::<Sqlite>();
        let of = |migrations: &[(&'static str, &'static str)]| migrations.iter().map(|(version, _)| *version).collect::<Vec<_>>();
        assert_eq!(of(Postgres::MIGRATIONS), of(Sqlite::MIGRATIONS));
        // Its sheets had everything from the start.
        let others: Vec<_> = of(Postgres::MIGRATIONS).into_iter().filter(|version| *version != "0003_queue").collect();
        assert_eq!(others, of(Mysql::MIGRATIONS));
    }

    #[test]
    fn what_is_no_phrase_is_left_as_it_is() {
        assert_eq!(render::<Sqlite>(&names(None), "SELECT '{\"a\"}' {nothing"), "SELECT '{\"a\"}' {nothing");
    }
}
