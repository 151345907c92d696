//! Rewords the messages of a deserialiser for the author of the file, without the values that they quote.

/// The maximum number of names that are listed if none is similar.
const MOST_SHOWN: usize = 50;

/// The meaning of a deserialiser's message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// There is no such key.
    Unknown {
        /// The key.
        key: String,
        /// What to say about it.
        message: String,
    },
    /// A required key is missing.
    Missing {
        /// The key.
        key: String,
    },
    /// Anything else.
    Other(String),
}

/// Rewords one of serde's messages. `also` are keys that are allowed in addition to those it lists. `of_variable`: the value is that of a variable
/// without quotes, which the message doesn't describe, since it is about the text in the file.
pub(super) fn reword(message: &str, also: &[&str], of_variable: bool) -> Said {
    if let Some((key, rest)) = quoted(message, "unknown field `") {
        let mut known: Vec<&str> = backticked(rest).collect();
        known.extend(also);
        return Said::Unknown { key: key.to_owned(), message: unknown("key", key, &known) };
    }
    if let Some((key, _)) = quoted(message, "missing field `") {
        return Said::Missing { key: key.to_owned() };
    }
    if let Some((value, rest)) = quoted(message, "unknown variant `") {
        let known: Vec<&str> = backticked(rest).collect();
        let nearest = nearest(value, &known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        return Said::Other(format!("must be one of {}{nearest}", known.join(", ")));
    }
    if message == "invalid socket address syntax" {
        return Said::Other("write an address and a port such as 127.0.0.1:8087; host names are not accepted".to_owned());
    }
    for start in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some(rest) = message.strip_prefix(start)
            && let Some((found, expected)) = rest.rsplit_once(", expected ")
        {
            let expected = expectation(expected);
            return Said::Other(if of_variable {
                format!("expected {expected}, but the variable holds something else")
            } else {
                format!("expected {expected}, found {}", finding(found, expected))
            });
        }
    }
    Said::Other(message.to_owned())
}

/// The message about an unknown name.
pub(super) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let mut known: Vec<&str> = known.to_vec();
    known.sort_unstable();
    known.dedup();
    match nearest(name, &known) {
        Some(near) => format!("unknown {what}; did you mean `{near}`?"),
        None if known.is_empty() => format!("unknown {what}; none is allowed here"),
        None if known.len() > MOST_SHOWN => {
            format!("unknown {what}; write one of {}, or one of {} others", known[..MOST_SHOWN].join(", "), known.len() - MOST_SHOWN)
        }
        None => format!("unknown {what}; write one of {}", known.join(", ")),
    }
}

fn quoted<'a>(message: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    // The list that follows contains backticks too; the first quoted text may contain anything else.
    message.strip_prefix(start)?.split_once('`')
}

fn backticked(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn expectation(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32768 to 32767",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string" | "str" | "path string" => "text",
        "socket address" => "an address and a port such as 127.0.0.1:8087",
        "a sequence" => "a list",
        "a map" => "a mapping (`key: value`)",
        other if other.starts_with("struct ") => "a mapping (`key: value`)",
        other => other,
    }
}

fn finding(found: &str, expected: &str) -> String {
    // Never the text itself: it may be a misplaced secret.
    let plain = if found.starts_with("string ") {
        if expected.starts_with("a whole number") || matches!(expected, "a number" | "true or false") {
            "text; remove the quotes if there are any"
        } else {
            "text"
        }
    } else if found.starts_with("integer ") || found.starts_with("floating point ") {
        // Numbers are quoted as they are; the values of variables among them are redacted later.
        return found.trim_start_matches("integer ").trim_start_matches("floating point ").to_owned();
    } else if found.starts_with("boolean ") {
        "true or false"
    } else if found == "map" {
        "a mapping"
    } else if found == "sequence" {
        "a list"
    } else if found.starts_with("null") || found.starts_with("unit") || found.starts_with("Option") {
        "nothing"
    } else {
        "something else"
    };
    plain.to_owned()
}

/// The most similar name, if it is similar enough to be the one that was meant.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name: String = name.chars().take(64).flat_map(char::to_lowercase).collect();
    let near = |candidate: &&str| distance(&name, &candidate.to_lowercase().replace('-', "_")).min(distance(&name.replace('-', "_"), candidate));
    let best = known.iter().min_by_key(|candidate| near(candidate))?;
    // `user` for `username`.
    let longer = known.iter().filter(|candidate| name.len() >= 3 && candidate.starts_with(&name)).min_by_key(|candidate| candidate.len());
    if near(best) > 1
        && let Some(longer) = longer
    {
        return Some(longer);
    }
    let allowed = (name.chars().count().max(best.len()) / 3).clamp(1, 3);
    (near(best) <= allowed).then_some(*best)
}

/// The number of single-character edits or swaps of neighbours between two names.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_suggests_the_most_similar_one() {
        let said = reword("unknown field `intervall`, expected one of `enabled`, `batch`, `interval`, `lease`", &[], false);
        assert_eq!(said, Said::Unknown { key: "intervall".into(), message: "unknown key; did you mean `interval`?".into() });
        let said = reword("unknown field `colour`, expected `a` or `b`", &["retry"], false);
        assert_eq!(said, Said::Unknown { key: "colour".into(), message: "unknown key; write one of a, b, retry".into() });
        assert_eq!(nearest("timout", &["timeout", "topic"]), Some("timeout"));
        assert_eq!(nearest("in-flight", &["in_flight", "topic"]), Some("in_flight"));
        assert_eq!(nearest("user", &["password", "username"]), Some("username"));
        assert_eq!(nearest("zzz", &["in_flight", "topic"]), None);
    }

    #[test]
    fn a_number_is_told_its_range() {
        for (message, said) in [
            ("invalid value: integer `70000`, expected u16", "expected a whole number from 0 to 65535, found `70000`"),
            ("invalid value: integer `-1`, expected u64", "expected a whole number, 0 or more, found `-1`"),
            ("invalid type: string \"7\", expected u8", "expected a whole number from 0 to 255, found text; remove the quotes if there are any"),
        ] {
            assert_eq!(reword(message, &[], false), Said::Other(said.to_owned()));
        }
        let said = "expected a whole number from 0 to 65535, but the variable holds something else";
        assert_eq!(reword("invalid type: string \"${N}\", expected u16", &[], true), Said::Other(said.to_owned()));
    }

    #[test]
    fn a_value_in_the_wrong_place_is_never_quoted() {
        for message in [
            r#"invalid type: string "hunter2, expected nothing", expected struct Config"#,
            r#"invalid type: string "hunter2", expected u32"#,
            r#"invalid value: string "hunter2", expected a string"#,
        ] {
            let Said::Other(said) = reword(message, &[], false) else { panic!() };
            assert!(!said.contains("hunter2") && said.contains("found text"), "{said}");
        }
    }
}
