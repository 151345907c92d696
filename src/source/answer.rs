//! A destination's answer, as the JSON text that is kept with an attempt.

use std::fmt::Write as _;

use crate::outcome::MAX_RESULT;

/// A JSON object of a number and as much of a text as fits into [`MAX_RESULT`] bytes: `{"status":200,"body":"…"}`.
///
/// Invalid UTF-8 is replaced, and so is NUL, which PostgreSQL's text doesn't allow. The object is complete however long the text is.
///
/// ```
/// use redrive::source::answer;
/// assert_eq!(answer::json("status", 200, "body", b"it's \"done\""), r#"{"status":200,"body":"it's \"done\""}"#);
/// ```
#[must_use]
pub fn json(number_name: &str, number: i64, text_name: &str, text: &[u8]) -> String {
    let mut json = format!("{{\"{number_name}\":{number},\"{text_name}\":\"");
    // Anything past the limit can't fit, so it needs no decoding.
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_RESULT)]);
    let room = MAX_RESULT.saturating_sub(2);
    for character in text.chars() {
        let before = json.len();
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\0' => json.push('\u{fffd}'),
            control if control < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
        if json.len() > room {
            json.truncate(before);
            break;
        }
    }
    json.push_str("\"}");
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_whole_json_however_long_and_strange_the_text_is() {
        let cases: [&[u8]; 5] = [b"", &[b'"'; 9000], &[0xff; 9000], "é\u{1}\n\t\\".as_bytes(), &[0; 3]];
        for text in cases {
            let json = json("exit", -1, "output", text);
            assert!(json.len() <= MAX_RESULT, "{}", json.len());
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value["exit"], -1);
            assert!(!value["output"].as_str().unwrap().contains('\0'));
        }
    }

    #[test]
    fn a_long_text_fills_the_room() {
        let json = json("status", 200, "body", &[b'x'; 9000]);
        assert_eq!(json.len(), MAX_RESULT);
    }
}
