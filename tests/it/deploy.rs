//! The files under `deploy/`.

mod monitoring;
mod systemd;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use redrive::config::{Config, Environment, Scope};
use redrive::source::Registry;
use redrive::units::Span;
use serde_json::Value;

use crate::cli::{code, err, folder, run};
use crate::support::yaml::documents;

/// The content of a file of the repository.
fn text(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// A configuration without its sources. It has a runtime, because opening a store may need one.
fn config(text: &str, file: &Path, environment: Environment<'_>, scope: Scope) -> Config {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = runtime.enter();
    Config::parse(text, file, environment, &Registry::default(), scope).unwrap()
}

/// The configuration of the compose file's redrive.
fn of_compose() -> Config {
    let file = "deploy/compose/redrive.yaml";
    config(&text(file), Path::new(file), &anything, Scope::Store)
}

/// A variable that holds what would do for any.
#[allow(clippy::unnecessary_wraps, reason = "it is an environment")]
fn anything(_: &str) -> Option<String> {
    Some("postgres://database".to_owned())
}

/// The first order of the compose file's producer, if it is started at this time.
fn first_order(started: &str) -> String {
    let programs = tempfile::tempdir().unwrap();
    // Everything it calls; it ends where it would wait for the next second.
    for (name, does) in [("curl", "exit 0"), ("hostname", "echo container"), ("date", "echo \"$NOW\""), ("sleep", "exit 1")] {
        let program = programs.path().join(name);
        std::fs::write(&program, format!("#!/bin/sh\n{does}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/producer.sh");
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let variables = [("PATH", path.as_str()), ("NOW", started), ("REDRIVE_URL", "http://redrive:8087"), ("REDRIVE_TOKEN", "t0ken")];
    let output = Command::new("sh").arg(script).envs(variables).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_producer_that_is_started_again_submits_other_orders() {
    let (first, second) = (first_order("1700000000"), first_order("1700000060"));
    assert!(first.starts_with("accepted: o-container-"), "{first}");
    assert_ne!(first, second, "both would have the same idempotency key");
}

#[test]
fn an_engine_waits_longer_than_the_node_takes_to_stop() {
    let compose = &documents(&text("compose.yaml"))[0];
    let waits: Span = compose["services"]["redrive"]["stop_grace_period"].as_str().unwrap().parse().unwrap();
    let config = of_compose();
    assert!(waits.get() >= config.engine.shutdown.grace.get() + Duration::from_secs(5), "{waits}");
}

/// The document of this kind.
fn of<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap()
}

#[test]
fn the_sidecar_of_kubernetes_is_one_that_starts_is_asked_and_has_time_to_stop() {
    let written = text("deploy/kubernetes/sidecar.yaml");
    let manifest = documents(&written);
    let pod = &of(&manifest, "Deployment")["spec"]["template"]["spec"];
    let sidecar = &pod["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always", "started before the producer, stopped after it");

    // The image's paths and user.
    let image = text("Dockerfile");
    let path = sidecar["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert!(image.contains(&format!("ENV REDRIVE_CONFIG={path}/redrive.yaml\n")), "{path}");
    let (user, group) = (&sidecar["securityContext"]["runAsUser"], &sidecar["securityContext"]["runAsGroup"]);
    assert!(image.contains(&format!("USER {user}:{group}\n")), "{user}:{group}");
    assert_eq!(&pod["securityContext"]["fsGroup"], group);
    assert_eq!(pod["automountServiceAccountToken"], false, "nothing here asks Kubernetes");

    // The file as it is mounted.
    let configuration = of(&manifest, "ConfigMap")["data"]["redrive.yaml"].as_str().unwrap();
    let folder = folder(configuration);
    let (preface, _) = written.split_once("apiVersion:").unwrap();
    for source in pod["volumes"][0]["projected"]["sources"].as_array().unwrap() {
        let Some(items) = source["secret"]["items"].as_array() else { continue };
        for item in items {
            let key = item["key"].as_str().unwrap();
            assert!(preface.contains(&format!("={key}=")), "the command that makes the secret gives it no {key}");
            let file = folder.path().join(item["path"].as_str().unwrap());
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            let secret = match key {
                "database-url" => "postgres://redrive:s3cret@postgres/orders",
                "ca.crt" => "-----BEGIN CERTIFICATE-----\n",
                _ => "t0ken",
            };
            std::fs::write(file, secret).unwrap();
        }
    }
    let check = run(folder.path(), &["check"]);
    assert_eq!(code(&check), 0, "{}", err(&check));
    let config = config(configuration, &folder.path().join("redrive.yaml"), &anything, Scope::Store);
    // No authority of the system's knows a server whose name is known in the cluster alone.
    let ca = config.store.tls.as_ref().and_then(|tls| tls.ca.as_deref());
    assert!(ca.is_some_and(Path::is_file), "{ca:?}");

    // The port for probes, and the address for the producer.
    let port = &sidecar["ports"][0];
    assert_eq!(port["containerPort"], config.health.listen.unwrap().port());
    for probe in ["startupProbe", "livenessProbe"] {
        let asked = &sidecar[probe]["httpGet"];
        assert_eq!(asked["path"], "/healthz", "{probe}");
        assert_eq!(asked["port"], port["name"], "{probe}");
    }
    let producer = &pod["containers"][0]["env"][0];
    assert_eq!(producer["value"], format!("http://{}", config.api.listen.unwrap()));

    // The producer gets the grace period that Kubernetes gives by default, and redrive its own.
    let whole = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(whole >= Duration::from_secs(30) + config.engine.shutdown.grace.get(), "{whole:?}");
}
