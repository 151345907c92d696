//! `${VAR}` and `${VAR:-default}` in the values of the file.

/// Where the values of variables come from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A scalar with its variables put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// The text.
    pub(super) text: String,
    /// The variables that were put in, with their values.
    pub(super) values: Vec<(String, String)>,
}

/// Puts variables in: `${VAR}` must be set and not empty, `${VAR:-default}` takes the default otherwise, `$$` is a dollar sign.
/// What a variable holds is not looked at again.
///
/// # Errors
/// Every variable that is at fault.
pub(super) fn fill(text: &str, environment: Environment<'_>) -> Result<Filled, Vec<String>> {
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
            filled.text.push('$');
            rest = &rest[1..];
        }
    }
    filled.text.push_str(rest);
    if faults.is_empty() { Ok(filled) } else { Err(faults) }
}

/// The name and value of what stands between the braces; no value where the default is to be taken.
fn variable<'a>(inner: &'a str, environment: Environment<'_>) -> Result<(&'a str, Option<String>), String> {
    let (name, default) = inner.split_once(":-").map_or((inner, None), |(name, default)| (name, Some(default)));
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err(format!("`${{{inner}}}` names no variable; write ${{NAME}} or ${{NAME:-default}}, and $$ for a dollar sign"));
    }
    match (environment(name).filter(|value| !value.is_empty()), default) {
        (Some(value), _) => Ok((name, Some(value))),
        (None, Some(_)) => Ok((name, None)),
        (None, None) => Err(format!("the environment variable {name} is not set; set it, or write ${{{name}:-default}}")),
    }
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
    fn variables_defaults_and_dollars_are_put_in() {
        assert_eq!(text("a"), "a");
        assert_eq!(text("x://${HOST}/${DB:-orders}"), "x://db.example/orders");
        assert_eq!(text("${EMPTY:-fallback}"), "fallback", "as in a shell, empty counts as unset");
        assert_eq!(text("${NONE:-}"), "");
        assert_eq!(text("pa$$word $5 $"), "pa$word $5 $");
        assert_eq!(text("$${HOST}"), "${HOST}");
        assert_eq!(text("${TRICKY}"), "${HOST}$$", "what a variable holds is not looked at again");
    }

    #[test]
    fn every_variable_at_fault_is_named() {
        let faults = fill("${NONE} ${EMPTY} ${1x} ${HOST", &environment).unwrap_err();
        assert_eq!(faults.len(), 4);
        assert!(faults[0].contains("NONE is not set") && faults[1].contains("EMPTY is not set"));
        assert!(faults[2].contains("names no variable") && faults[3].contains("not closed"));
    }
}
