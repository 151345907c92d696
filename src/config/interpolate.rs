//! Replaces `${VAR}` and `${VAR:-default}` in the values of the file.

/// Looks up the value of a variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A scalar with its variables filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// The text.
    pub(super) text: String,
    /// The variables that were filled in, with their values.
    pub(super) values: Vec<(String, String)>,
}

/// Fills in variables: `${VAR}` must be set and not empty, `${VAR:-default}` falls back to the default, `$$` is a dollar sign.
/// The value of a variable is not expanded again. A value that consists of `$VAR` alone, in capitals as environment variables are, is refused: it was
/// meant as the variable, and its name would be taken for the secret. Other names after a `$`, such as the user name `$ConnectionString` of Azure Event
/// Hubs, stay as they are, and so does `$VAR` inside longer text, such as a shell script.
///
/// # Errors
/// Every variable that is at fault.
pub(super) fn fill(text: &str, environment: Environment<'_>) -> Result<Filled, Vec<String>> {
    if text.strip_prefix('$').is_some_and(|name| is_a_name(name) && !name.contains(|c: char| c.is_ascii_lowercase())) {
        // The message doesn't repeat the name: it may be a password.
        return Err(vec!["is `$` followed by a name; write ${NAME} for a variable, or $$NAME for the text itself".to_owned()]);
    }
    let mut filled = Filled { text: String::with_capacity(text.len()), values: Vec::new() };
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        filled.text.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$$") {
            filled.text.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix("${") {
            let Some(end) = inner.find('}') else {
                faults.push("`${` is not closed by `}`; write `$$` for a dollar sign".to_owned());
                break;
            };
            match variable(&inner[..end], environment) {
                Ok((name, Some(value))) => {
                    filled.text.push_str(&value);
                    filled.values.push((name.to_owned(), value));
                }
                Ok((_, None)) => {
                    let default = inner[..end].split_once(":-").map_or("", |(_, default)| default);
                    filled.text.push_str(default);
                }
                Err(fault) => faults.push(fault),
            }
            rest = &inner[end + 1..];
        } else {
            rest = &rest[1..];
            filled.text.push('$');
        }
    }
    filled.text.push_str(rest);
    if faults.is_empty() { Ok(filled) } else { Err(faults) }
}

/// Replaces `${`, and [`CLOSE`] its `}`, while the text is read as YAML: inside braces (`{ token: ${TOKEN} }`) they would end the value.
const OPEN: char = '\u{e000}';
/// See [`OPEN`].
const CLOSE: char = '\u{e001}';

/// The text with each variable replaced by a number that YAML ignores, and the variables, indexed by that number.
pub(super) fn shield(text: &str) -> (String, Vec<&str>) {
    let mut shielded = String::with_capacity(text.len());
    let mut variables = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        shielded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        let end = rest.strip_prefix("${").and_then(|inner| inner.find('}')).map(|end| end + 3);
        match end {
            // Anything that means something to YAML (escapes, ends of quotes and lines) is left to it.
            Some(end) if !rest[..end].contains(['"', '\'', '\\', '\n', '\r']) => {
                shielded.extend([OPEN.to_string(), variables.len().to_string(), CLOSE.to_string()]);
                variables.push(&rest[..end]);
                rest = &rest[end..];
            }
            _ => {
                let taken = if rest.starts_with("$$") { 2 } else { 1 };
                shielded.push_str(&rest[..taken]);
                rest = &rest[taken..];
            }
        }
    }
    shielded.push_str(rest);
    (shielded, variables)
}

/// A piece of the text with its variables restored.
pub(super) fn unshield(text: &str, variables: &[&str]) -> String {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find(OPEN) {
        whole.push_str(&rest[..open]);
        rest = &rest[open + OPEN.len_utf8()..];
        let found = rest.split_once(CLOSE).and_then(|(number, after)| Some((variables.get(number.parse::<usize>().ok()?)?, after)));
        if let Some((variable, after)) = found {
            whole.push_str(variable);
            rest = after;
        } else {
            whole.push(OPEN);
        }
    }
    whole.push_str(rest);
    whole
}

/// The name and value of the variable between the braces; no value if the default applies.
fn variable<'a>(inner: &'a str, environment: Environment<'_>) -> Result<(&'a str, Option<String>), String> {
    let (name, default) = inner.split_once(":-").map_or((inner, None), |(name, default)| (name, Some(default)));
    if !is_a_name(name) {
        return Err(format!("`${{{inner}}}` does not name a variable; write ${{NAME}} or ${{NAME:-default}}, and $$ for a dollar sign"));
    }
    match (environment(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok((name, Some(value))),
        (None, Some(_)) => Ok((name, None)),
        (None, None) => Err(format!("the environment variable {name} is not set, or empty; set it, or write ${{{name}:-default}}")),
    }
}

fn is_a_name(text: &str) -> bool {
    let is_in = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| is_in(c) && !c.is_ascii_digit()) && text.chars().all(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db.example".into()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${HOST}$$".into()),
            _ => None,
        }
    }

    fn text(text: &str) -> String {
        fill(text, &environment).unwrap().text
    }

    #[test]
    fn variables_defaults_and_dollars_are_filled_in() {
        assert_eq!(text("a"), "a");
        assert_eq!(text("x://${HOST}/${DB:-orders}"), "x://db.example/orders");
        assert_eq!(text("${EMPTY:-fallback}"), "fallback", "as in a shell, empty counts as unset");
        assert_eq!(text("${NONE:-}"), "");
        assert_eq!(text("pa$$word $5 $"), "pa$word $5 $");
        assert_eq!(text("$${HOST}"), "${HOST}");
        assert_eq!(text("${TRICKY}"), "${HOST}$$", "the value of a variable is not expanded again");
    }

    #[test]
    fn unshielding_restores_the_text() {
        for text in ["", "a ${B} c ${D:-e, f: g}", "$${A} $ ${", "\u{e000}0\u{e001} ${A}", "${\"} ${A\n}", "\u{e000}"] {
            let (shielded, variables) = shield(text);
            if !text.contains(OPEN) {
                assert_eq!(unshield(&shielded, &variables), text);
            }
        }
        assert_eq!(shield("{ a: ${B:-x, y} }").0, "{ a: \u{e000}0\u{e001} }");
        assert_eq!(shield("$${A}").1, Vec::<&str>::new());
    }

    #[test]
    fn every_variable_at_fault_is_reported() {
        let faults = fill("${NONE} ${EMPTY} ${1x} ${HOST", &environment).unwrap_err();
        assert_eq!(faults.len(), 4);
        assert!(faults[0].contains("NONE is not set") && faults[1].contains("EMPTY is not set, or empty"));
        assert!(faults[2].contains("does not name a variable") && faults[3].contains("not closed"));
    }

    #[test]
    fn a_variable_without_braces_is_a_fault_that_does_not_repeat_it() {
        let faults = fill("$HOST", &environment).unwrap_err();
        assert!(faults[0].contains("write ${NAME} for a variable, or $$NAME for the text itself"), "{faults:?}");
        assert!(!faults[0].contains("HOST"), "{faults:?}");
        assert_eq!(text("$$HOST"), "$HOST");
        assert!(fill("$MY_HOST2", &environment).is_err());
        for other in ["echo $HOST", "pa$sword", "$5", "$", "$ConnectionString", "$host", "$HOST.x"] {
            assert_eq!(text(other), other);
        }
    }
}
