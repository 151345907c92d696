//! From the configuration to the client library's settings.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::Config;
use super::properties;
use crate::fault::Fault;
use crate::source::Context;
use crate::tls::{self, Tls};

/// The longest message timeout that is derived; a longer one must be configured.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How many messages may be under way unless `in_flight` is set.
const IN_FLIGHT: u32 = 10_000;

/// The producer's settings, ready to use.
pub(super) struct Settings {
    /// The client library's own.
    pub(super) client: ClientConfig,
    /// A message is given up after this long.
    pub(super) timeout: Duration,
}

/// The three times that share the lease: a failed message is reported up to `timeout` + `backoff` after the send, and `margin` is left to record
/// that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    timeout: Duration,
    backoff: Duration,
}

impl Times {
    fn of(lease: Duration, configured: Option<Duration>) -> Result<Self, Fault> {
        let margin = (lease / 4).min(Duration::from_secs(2));
        let backoff = (lease / 4).min(Duration::from_secs(1));
        let most = lease.saturating_sub(backoff).saturating_sub(margin);
        match configured {
            Some(timeout) if timeout > most => Err(Fault::new(
                "timeout",
                format!(
                    "{} does not fit the lease: the client goes on sending when a lease is lost, so with `poller.lease: {}` it must be at most {}",
                    humantime::format_duration(timeout),
                    humantime::format_duration(lease),
                    humantime::format_duration(most)
                ),
            )),
            Some(timeout) => Ok(Self { timeout, backoff }),
            None => Ok(Self { timeout: most.min(LONGEST_TIMEOUT), backoff }),
        }
    }
}

/// Checks the configuration and turns it into settings.
///
/// # Errors
/// Every fault.
pub(super) fn settings(config: &Config, cx: &Context) -> Result<Settings, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut given = BTreeMap::new();

    if config.brokers.is_empty() {
        faults.push(Fault::new("brokers", "at least one is needed, such as [localhost:9092]"));
    }
    for (index, broker) in config.brokers.iter().enumerate() {
        if broker.is_empty() || broker.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',' || c == '@') {
            faults.push(Fault::new(format!("brokers[{index}]"), "must be host:port"));
        }
    }
    properties::take(&config.properties, cx, &mut given, &mut faults);
    credentials(config, cx, &mut given, &mut faults);
    let times = Times::of(cx.lease, cx.options.timeout.map(Duration::from)).unwrap_or_else(|fault| {
        faults.push(fault);
        Times { timeout: Duration::from_secs(1), backoff: Duration::from_secs(1) }
    });
    if !faults.is_empty() {
        return Err(faults);
    }

    let mut client = ClientConfig::new();
    // Anything below a warning is useful only to those who set `debug`.
    client.set_log_level(if given.contains_key("debug") { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    for (key, value) in defaults(cx, times, &given) {
        client.set(key, value);
    }
    for (key, value) in given {
        client.set(key, value);
    }
    for (key, value) in fixed(config, cx, times) {
        client.set(key, value);
    }
    Ok(Settings { client, timeout: times.timeout })
}

/// What a property may override.
fn defaults(cx: &Context, times: Times, given: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    let ms = |duration: Duration, least: u128, most: u128| duration.as_millis().clamp(least, most).to_string();
    let largest = given.get("message.max.bytes").and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
    vec![
        ("client.id", format!("redrive-{}-{}", cx.project, cx.name)),
        ("socket.keepalive.enable", "true".to_owned()),
        // A hung broker must not hold a connection longer than a message may take.
        ("socket.timeout.ms", ms(times.timeout, 10, 60_000)),
        ("socket.connection.setup.timeout.ms", ms(times.timeout, 1_000, 10_000)),
        ("reconnect.backoff.ms", ms(times.backoff / 10, 10, 100)),
        ("queue.buffering.max.ms", "2".to_owned()),
        // Twice the largest message, so that such a message can't wait for room for ever.
        ("queue.buffering.max.kbytes", (largest / 512).clamp(65_536, 2_097_151).to_string()),
    ]
}

/// What no property may override; [`properties::GUARDED`] says why.
fn fixed(config: &Config, cx: &Context, times: Times) -> Vec<(&'static str, String)> {
    let propagation = (times.timeout / 2).min(Duration::from_secs(2));
    vec![
        ("bootstrap.servers", config.brokers.join(",")),
        ("enable.idempotence", "true".to_owned()),
        ("acks", "all".to_owned()),
        ("partitioner", "murmur2_random".to_owned()),
        ("allow.auto.create.topics", "false".to_owned()),
        // The producer gives up late messages itself, before the client does; see `give_up_what_is_late`.
        ("message.timeout.ms", (times.timeout + times.backoff).as_millis().max(1).to_string()),
        ("reconnect.backoff.max.ms", times.backoff.as_millis().to_string()),
        ("topic.metadata.propagation.max.ms", propagation.as_millis().to_string()),
        ("queue.buffering.max.messages", cx.options.in_flight.unwrap_or(IN_FLIGHT).max(1_000).to_string()),
    ]
}

fn credentials(config: &Config, cx: &Context, given: &mut BTreeMap<String, String>, faults: &mut Vec<Fault>) {
    let mut set = |path: &str, key: &str, value: String, given: &mut BTreeMap<String, String>| {
        if given.insert(key.to_owned(), value).is_some() {
            faults.push(Fault::new(path, format!("is given twice: here and as properties.{key}")));
        }
    };
    let tls = cx.options.tls.as_ref();
    if let Some(tls) = tls {
        for (path, key, file) in
            [("tls.ca", "ssl.ca.location", &tls.ca), ("tls.cert", "ssl.certificate.location", &tls.cert), ("tls.key", "ssl.key.location", &tls.key)]
        {
            if let Some(file) = file {
                set(path, key, cx.path(file).to_string_lossy().into_owned(), given);
            }
        }
    }
    if let Some(username) = &config.username {
        set("username", "sasl.username", username.clone(), given);
    }
    let password = cx.secret("password", config.password.clone(), config.password_file.as_deref());
    if let Ok(Some(password)) = &password {
        let path = if config.password_file.is_some() { "password_file" } else { "password" };
        set(path, "sasl.password", password.expose().to_owned(), given);
    }
    if let Err(fault) = password {
        faults.push(fault);
    }
    // The client takes a folder of authorities too, and with `ssl.key.password` among the properties a key that is encrypted.
    let files = tls.map(|tls| Tls { ca: tls.ca.clone().filter(|ca| !cx.path(ca).is_dir()), ..tls.clone() });
    if let Some(Err(more)) = files.map(|files| files.read(&cx.folder, tls::ANY_KEY)) {
        faults.extend(more);
    }
    let sasl = given.contains_key("sasl.username") || given.contains_key("sasl.password");
    if config.username.is_some() != (config.password.is_some() || config.password_file.is_some()) && !given.contains_key("sasl.password") {
        faults.push(Fault::new("username", "username and password (or password_file) belong together"));
    }
    if let Some(protocol) = given.get("security.protocol") {
        if tls.is_some() && !protocol.to_ascii_lowercase().ends_with("ssl") {
            faults.push(Fault::new("tls", "is given, but properties.security.protocol has no TLS"));
        }
        let logs_in = protocol.to_ascii_lowercase().starts_with("sasl");
        if sasl && !logs_in {
            faults.push(Fault::new("username", "is given, but properties.security.protocol has no SASL"));
        }
        // The client's default, Kerberos, is not built in.
        if logs_in && !sasl && given.get("sasl.mechanisms").is_none_or(|mechanism| mechanism == "PLAIN" || mechanism.starts_with("SCRAM")) {
            let login = "is missing: properties.security.protocol asks for a login; give username and password (or password_file)";
            faults.push(Fault::new("username", login));
        }
    } else if tls.is_some() || sasl {
        let protocol = match (sasl, tls.is_some()) {
            (true, true) => "sasl_ssl",
            (true, false) => "sasl_plaintext",
            (false, _) => "ssl",
        };
        given.insert("security.protocol".to_owned(), protocol.to_owned());
    }
    if sasl && !given.contains_key("sasl.mechanisms") {
        given.insert("sasl.mechanisms".to_owned(), "PLAIN".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::properties::{GUARDED, Property};
    use super::*;
    use crate::units::Span;

    fn context() -> Context {
        Context { folder: "/etc/redrive".into(), ..Context::new("test", "events") }
    }

    fn config(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    fn faults(json: &str, cx: &Context) -> Vec<String> {
        settings(&config(json), cx).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_times_fit_the_lease_from_two_seconds_on() {
        let secs = Duration::from_secs;
        assert_eq!(Times::of(secs(30), None).unwrap(), Times { timeout: secs(20), backoff: secs(1) });
        assert_eq!(Times::of(secs(10), None).unwrap(), Times { timeout: secs(7), backoff: secs(1) });
        assert_eq!(Times::of(secs(2), None).unwrap(), Times { timeout: secs(1), backoff: Duration::from_millis(500) });
        assert_eq!(Times::of(secs(30), Some(secs(27))).unwrap().timeout, secs(27));
        assert!(Times::of(secs(30), Some(secs(27) + Duration::from_millis(1))).unwrap_err().message.contains("at most 27s"));
        for lease in 2..3600 {
            let times = Times::of(secs(lease), None).unwrap();
            let margin = (secs(lease) / 4).min(secs(2));
            assert!(!times.timeout.is_zero() && times.timeout + times.backoff + margin <= secs(lease), "{lease}");
        }
    }

    #[test]
    fn a_timeout_that_does_not_fit_the_lease_is_a_fault() {
        let mut cx = context();
        cx.options.timeout = Some(Span::secs(29));
        assert!(faults(r#"{"brokers":["a:1"]}"#, &cx)[0].starts_with("timeout: 29s does not fit the lease"));
    }

    #[test]
    fn guarded_properties_are_refused_each_with_its_reason() {
        for (name, _) in GUARDED {
            let found = faults(&format!(r#"{{"brokers":["a:1"],"properties":{{"{name}":"1"}}}}"#), &context());
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            assert!(found[0].starts_with(&format!("properties.{name}: ")), "{found:?}");
        }
    }

    #[test]
    fn what_we_set_ourselves_is_guarded() {
        let times = Times::of(Duration::from_secs(30), None).unwrap();
        for (name, _) in fixed(&config(r#"{"brokers":["a:1"]}"#), &context(), times) {
            assert!(GUARDED.iter().any(|(guarded, _)| *guarded == name), "{name}");
        }
    }

    #[test]
    fn every_fault_is_told_at_once_and_no_secret_with_it() {
        let found = faults(
            r#"{"brokers":[],"properties":{"linger.ms":"x","no.such":"1","acks":"1","sasl.password":"a\u0000b","enable.ssl.certificate.verification":"hunter2"}}"#,
            &context(),
        );
        for start in
            ["brokers:", "properties.linger.ms:", "properties.no.such: is not a librdkafka property", "properties.acks:", "properties.sasl.password:"]
        {
            assert!(found.iter().any(|fault| fault.starts_with(start)), "{start} {found:?}");
        }
        let debug = format!("{:?}", config(r#"{"brokers":["a:1"],"password":"hunter2","properties":{"ssl.key.password":"hunter3"}}"#));
        assert!(!debug.contains("hunter"), "{debug}");
    }

    #[test]
    fn a_value_is_the_text_that_is_written() {
        // From this the loader knows that it has to pass on the text.
        let number = serde_json::from_str::<Property>("123").unwrap_err().to_string();
        assert!(number.starts_with("invalid type: "), "{number}");
        let settings = settings(
            &config(
                r#"{"brokers":["a:1","b:2"],"properties":{"linger.ms":"7","socket.keepalive.enable":"false","compression.type":"zstd","sasl.password":"00123"}}"#,
            ),
            &context(),
        )
        .unwrap();
        assert_eq!(settings.client.get("sasl.password"), Some("00123"));
        assert_eq!(settings.client.get("queue.buffering.max.ms"), Some("7"));
        assert_eq!(settings.client.get("socket.keepalive.enable"), Some("false"));
        assert_eq!(settings.client.get("compression.codec"), Some("zstd"));
        assert_eq!(settings.client.get("bootstrap.servers"), Some("a:1,b:2"));
        assert_eq!(settings.client.get("partitioner"), Some("murmur2_random"));
        // Later than the source gives messages up, and within what the lease leaves for reports.
        assert_eq!((settings.timeout, settings.client.get("message.timeout.ms")), (Duration::from_secs(20), Some("21000")));
        assert_eq!(settings.client.get("reconnect.backoff.max.ms"), Some("1000"));
    }

    #[test]
    fn two_names_of_one_property_are_a_fault() {
        let found = faults(r#"{"brokers":["a:1"],"properties":{"linger.ms":"1","queue.buffering.max.ms":"2"}}"#, &context());
        assert!(found[0].contains("another name"), "{found:?}");
    }

    #[test]
    fn the_protocol_follows_tls_and_credentials() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::fs::write(folder.path().join("secret"), "hunter2\n").unwrap();
        let mut cx = Context { folder: folder.path().to_owned(), ..context() };
        let plain = settings(&config(r#"{"brokers":["a:1"],"username":"u","password_file":"secret"}"#), &cx).unwrap();
        assert_eq!(plain.client.get("security.protocol"), Some("sasl_plaintext"));
        assert_eq!(plain.client.get("sasl.password"), Some("hunter2"));
        assert_eq!(plain.client.get("sasl.mechanisms"), Some("PLAIN"));
        cx.options.tls = Some(Tls { ca: Some("ca.pem".into()), ..Tls::default() });
        let both =
            settings(&config(r#"{"brokers":["a:1"],"username":"u","password":"p","properties":{"sasl.mechanism":"SCRAM-SHA-256"}}"#), &cx).unwrap();
        assert_eq!(both.client.get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(both.client.get("sasl.mechanisms"), Some("SCRAM-SHA-256"));
        assert_eq!(both.client.get("ssl.ca.location"), folder.path().join("ca.pem").to_str());
        let tls = settings(&config(r#"{"brokers":["a:1"]}"#), &cx).unwrap();
        assert_eq!(tls.client.get("security.protocol"), Some("ssl"));
        assert!(faults(r#"{"brokers":["a:1"],"properties":{"security.protocol":"plaintext"}}"#, &cx)[0].contains("has no TLS"));
        assert!(faults(r#"{"brokers":["a:1"],"username":"u"}"#, &cx)[0].contains("belong together"));
        assert!(faults(r#"{"brokers":["a:1"],"username":"u","password":"p","password_file":"secret"}"#, &cx)[0].contains("not both"));
        assert!(faults(r#"{"brokers":["a:1"],"username":"u","password_file":"missing"}"#, &cx)[0].contains("can't be read"));
        for properties in [r#"{"security.protocol":"SASL_SSL"}"#, r#"{"security.protocol":"sasl_plaintext","sasl.mechanism":"SCRAM-SHA-256"}"#] {
            let alone = faults(&format!(r#"{{"brokers":["a:1"],"properties":{properties}}}"#), &cx);
            assert!(alone.last().unwrap().starts_with("username: is missing"), "{alone:?}");
        }
        let twice = faults(r#"{"brokers":["a:1"],"username":"u","password_file":"secret","properties":{"sasl.password":"p"}}"#, &cx);
        assert!(twice[0].starts_with("password_file: is given twice"), "{twice:?}");
        cx.options.tls = Some(Tls { ca: Some("missing.pem".into()), cert: Some("ca.pem".into()), ..Tls::default() });
        let found = faults(r#"{"brokers":["a:1"]}"#, &cx);
        assert!(
            found.iter().any(|fault| fault.starts_with("tls.ca: ")) && found.iter().any(|fault| fault.contains("both cert and key")),
            "{found:?}"
        );
        // A folder of authorities is for the client to read.
        cx.options.tls = Some(Tls { ca: Some(".".into()), ..Tls::default() });
        let authorities = settings(&config(r#"{"brokers":["a:1"]}"#), &cx).unwrap();
        assert_eq!(authorities.client.get("ssl.ca.location"), folder.path().join(".").to_str());
        // The client library would say so of all its properties together.
        cx.options.tls = Some(Tls { ca: Some("secret".into()), ..Tls::default() });
        let found = faults(r#"{"brokers":["a:1"]}"#, &cx);
        assert!(found.len() == 1 && found[0].starts_with("tls.ca: ") && found[0].contains("holds no PEM section"), "{found:?}");
    }
}
