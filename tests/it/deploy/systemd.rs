//! The unit that runs redrive on a machine, and the configuration that it reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use redrive::config::Scope;
use redrive::units::Span;

use super::{config, text};
use crate::cli::{code, folder, run};

/// What stands under `[Service]`.
fn service() -> BTreeMap<String, String> {
    let unit = text("deploy/systemd/redrive.service");
    let (_, service) = unit.split_once("\n[Service]\n").unwrap();
    let (service, _) = service.split_once("\n[").unwrap();
    let mut directives = BTreeMap::new();
    for line in service.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap();
        assert!(directives.insert(name.to_owned(), value.to_owned()).is_none(), "`{name}` stands twice");
    }
    directives
}

#[test]
fn the_unit_gives_redrive_what_its_configuration_names_and_the_time_to_stop() {
    let service = service();
    let (variable, file) = service["Environment"].split_once('=').unwrap();
    assert_eq!(variable, "REDRIVE_CONFIG");
    assert!(service["ExecStart"].ends_with("/redrive serve"));

    // The token, where systemd puts it, and where it lies for root.
    let credentials = tempfile::tempdir().unwrap();
    let (name, lies) = service["LoadCredential"].split_once(':').unwrap();
    std::fs::write(credentials.path().join(name), "t0ken\n").unwrap();
    let environment = |variable: &str| (variable == "CREDENTIALS_DIRECTORY").then(|| credentials.path().display().to_string());
    let written = text("deploy/systemd/redrive.yaml");
    let config = config(&written, Path::new(file), &environment, Scope::Whole);
    assert_eq!(config.api.token.as_ref().unwrap().expose(), "t0ken");
    let folder = Path::new(lies).parent().unwrap().display();
    assert!(written.contains(&format!("${{CREDENTIALS_DIRECTORY:-{folder}}}/{name}")), "{lies}");

    // It can write nowhere else.
    assert_eq!(service["ProtectSystem"], "strict");
    let state = format!("/var/lib/{}", service["StateDirectory"]);
    assert_eq!(config.store.url.expose(), format!("sqlite://{state}/redrive.db"));
    assert_eq!(service["WorkingDirectory"], state);

    let waits: Span = service["TimeoutStopSec"].parse().unwrap();
    assert!(waits.get() >= config.engine.shutdown.grace.get() + Duration::from_secs(5), "{waits}");
    assert_eq!(service["KillMode"], "mixed", "commands that redrive runs would be told to stop at once");
}

#[test]
fn a_wrong_configuration_is_not_tried_again() {
    let service = service();
    assert_eq!(service["Restart"], "on-failure");
    let folder = folder("project: Orders!\n");
    assert_eq!(service["RestartPreventExitStatus"], code(&run(folder.path(), &["serve"])).to_string());
}
