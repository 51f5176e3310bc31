//! The manifests that come with the project: they parse, the bridge takes them, and what runs from them is locked down.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::process::run;

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests")
}

/// All YAML files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Every Kubernetes resource in the project, with its file.
fn resources() -> Vec<(PathBuf, Value)> {
    let resource =
        |file: &Path| !matches!(file.file_name().unwrap().to_str().unwrap(), "values.yaml" | "kustomization.yaml");
    let files = files(&manifests()).into_iter().filter(|file| resource(file));
    files.flat_map(|file| documents(&file).into_iter().map(move |document| (file.clone(), document))).collect()
}

fn deployments() -> Vec<Value> {
    let deployments: Vec<Value> = resources()
        .into_iter()
        .map(|(_, resource)| resource)
        .filter(|resource| resource["kind"] == "Deployment")
        .collect();
    assert_eq!(deployments.len(), 3, "bridge, poller and viewer");
    deployments
}

#[test]
fn every_manifest_is_a_named_resource() {
    for (file, resource) in resources() {
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            let value = resource.pointer(field).and_then(Value::as_str);
            assert!(value.is_some_and(|value| !value.is_empty()), "{}: no {field}", file.display());
        }
    }
}

#[test]
fn every_file_that_a_kustomization_names_is_there() {
    for file in files(&manifests()).iter().filter(|file| file.ends_with("kustomization.yaml")) {
        let directory = file.parent().unwrap();
        let [kustomization] = documents(file).try_into().unwrap();
        let generated = kustomization.pointer("/configMapGenerator/0/files");
        let named = kustomization["resources"].as_array().into_iter().chain(generated.and_then(Value::as_array));
        for name in named.flatten() {
            assert!(directory.join(name.as_str().unwrap()).is_file(), "{}: {name}", file.display());
        }
    }
}

#[tokio::test]
async fn the_bridge_takes_the_currency_manifests() {
    let directory = manifests().join("currency");
    let ended = run(&["validate", "-f", directory.to_str().unwrap()]).await;
    assert_eq!(
        (ended.code, ended.stdout.trim()),
        (Some(0), "valid: 1 channel, 0 brokers, 1 subscription, 0 triggers"),
        "{ended:?}"
    );
}

#[test]
fn what_runs_in_a_cluster_is_locked_down() {
    for deployment in deployments() {
        let name = &deployment["metadata"]["name"];
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{name}");
        assert_eq!(security["seccompProfile"], json!({ "type": "RuntimeDefault" }), "{name}");
        for container in pod["containers"].as_array().unwrap() {
            let expected = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            });
            assert_eq!(container["securityContext"], expected, "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
            assert!(container["resources"]["requests"]["cpu"].is_string(), "{name}");
        }
    }
}

#[test]
fn no_secret_is_in_an_environment() {
    for deployment in deployments() {
        let text = deployment.to_string();
        assert!(!text.contains("secretKeyRef") && !text.contains("secretRef"), "{}", deployment["metadata"]["name"]);
    }
}

#[tokio::test]
async fn every_deployment_starts_with_flags_that_the_program_knows() {
    for deployment in deployments() {
        let args = deployment.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array).unwrap();
        let mut args: Vec<&str> = args.iter().map(|arg| arg.as_str().unwrap()).collect();
        // Help comes last, so whatever is wrong before it is told.
        args.push("--help");
        let ended = run(&args).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    }
}

#[tokio::test]
async fn every_setting_of_the_bridge_is_a_variable_that_serve_reads() {
    let help = run(&["serve", "--help"]).await.stdout;
    let (_, settings) = resources().into_iter().find(|(_, resource)| resource["kind"] == "ConfigMap").unwrap();
    for name in settings["data"].as_object().unwrap().keys() {
        assert!(help.contains(&format!("[env: {name}]")), "{name}");
    }
}

#[test]
fn the_bridge_is_probed_and_stays_alive_without_nats() {
    let bridge = deployments().into_iter().find(|deployment| deployment["metadata"]["name"] == "knats").unwrap();
    let container = bridge.pointer("/spec/template/spec/containers/0").unwrap();
    let path = |probe: &str| container[probe]["httpGet"]["path"].clone();
    assert_eq!((path("readinessProbe"), path("livenessProbe")), (json!("/readyz"), json!("/healthz")));
}
