//! Where a request goes: a fixed URL, or one that includes the message's topic.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

/// All characters except those that RFC 3986 leaves unreserved.
const TOPIC: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PLACEHOLDER: &str = "{topic}";

/// The URL of a source.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The same URL for each message.
    Fixed(Url),
    /// A URL that contains `{topic}`.
    Template {
        /// The configured text.
        text: String,
        /// The number of path segments that every URL made from it must have.
        segments: usize,
    },
}

impl Target {
    /// Checks a configured URL.
    pub(super) fn try_new(text: &str) -> Result<Self, String> {
        // A URL may be a secret: error texts don't repeat it.
        let url = Url::parse(&text.replace(PLACEHOLDER, "topic")).map_err(|error| format!("is not a URL ({error}); write https://host/path"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must begin with http:// or https://".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain user and password; write them under `basic`".into());
        }
        if !text.contains(PLACEHOLDER) {
            return Ok(Self::Fixed(url));
        }
        // Two different topics must lead to the same server: with `{topic}` in the host a message could choose where the credentials go.
        let other = Url::parse(&text.replace(PLACEHOLDER, "other")).map_err(|error| format!("is not a URL ({error})"))?;
        if url.origin() != other.origin() {
            return Err("`{topic}` may only be used in the path and the query".into());
        }
        if url.fragment() != other.fragment() {
            return Err("`{topic}` in a fragment is never sent; write it into the path or the query".into());
        }
        let segments = url.path_segments().map_or(0, Iterator::count);
        Ok(Self::Template { text: text.to_owned(), segments })
    }

    /// Whether the URL is `https`.
    pub(super) fn is_https(&self) -> bool {
        match self {
            Self::Fixed(url) => url.scheme() == "https",
            Self::Template { text, .. } => text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:")),
        }
    }

    /// The URL for a message with this topic.
    pub(super) fn url(&self, topic: Option<&str>) -> Result<Url, String> {
        let (text, segments) = match self {
            Self::Fixed(url) => return Ok(url.clone()),
            Self::Template { text, segments } => (text, *segments),
        };
        let topic = topic.filter(|topic| !topic.is_empty()).ok_or("the URL contains {topic}, but the message has none")?;
        let encoded = utf8_percent_encode(topic, TOPIC).to_string();
        let url = Url::parse(&text.replace(PLACEHOLDER, &encoded)).map_err(|error| format!("the topic does not make a valid URL: {error}"))?;
        // Encoding leaves `.` and `..` unchanged, and they climb up the path, percent-encoded or not.
        if url.path_segments().map_or(0, Iterator::count) != segments || matches!(topic, "." | "..") {
            return Err("the topic would change the path of the URL".into());
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(template: &str, topic: Option<&str>) -> Result<String, String> {
        Target::try_new(template).unwrap().url(topic).map(|url| url.to_string())
    }

    #[test]
    fn a_topic_is_one_segment_whatever_it_holds() {
        let path = |topic| url("http://h/a/{topic}/b?t={topic}", Some(topic));
        assert_eq!(path("orders").unwrap(), "http://h/a/orders/b?t=orders");
        assert_eq!(path("a/b?c#d &é").unwrap(), "http://h/a/a%2Fb%3Fc%23d%20%26%C3%A9/b?t=a%2Fb%3Fc%23d%20%26%C3%A9");
        assert_eq!(path("../x").unwrap(), "http://h/a/..%2Fx/b?t=..%2Fx");
        for climber in [".", ".."] {
            assert!(path(climber).is_err(), "{climber}");
        }
        assert!(url("http://h/.{topic}", Some(".")).is_err());
        assert!(url("http://h/%2e{topic}", Some(".")).is_err());
    }

    #[test]
    fn a_template_needs_a_topic_and_a_fixed_url_none() {
        assert!(url("http://h/{topic}", None).is_err());
        assert!(url("http://h/{topic}", Some("")).is_err());
        assert_eq!(url("http://h/x", None).unwrap(), "http://h/x");
        assert_eq!(url("http://h/x", Some("t")).unwrap(), "http://h/x");
    }

    #[test]
    fn what_is_no_plain_http_url_is_refused_and_not_repeated() {
        for text in
            ["", "h/x", "ftp://h", "http://", "http://u:secret@h/", "http://{topic}/x", "http://h:{topic}/", "http://{topic}.h/", "http://h/#{topic}"]
        {
            let error = Target::try_new(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
