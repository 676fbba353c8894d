//! The folders of `deploy/`, as `kubectl kustomize` renders them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Every folder that a user may apply.
pub(crate) fn folders() -> Vec<String> {
    let overlays =
        std::fs::read_dir(root().join("deploy/overlays")).expect("deploy/overlays is a folder");
    let names =
        overlays.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut folders: Vec<String> = names.map(|name| format!("overlays/{name}")).collect();
    folders.extend(["base", "base/agent", "crds"].map(str::to_owned));
    folders.sort();
    folders
}

/// Those that bring what is not of the mesh itself: it stands beside it, and need not be as its own parts are.
pub(crate) const EXAMPLES: [&str; 3] = ["ingress/envoy", "ingress/nginx", "monitoring"];

/// Those that bring agents.
pub(crate) fn with_agents() -> Vec<String> {
    let mut folders = folders();
    folders.retain(|folder| !["crds", "overlays/uninstall"].contains(&folder.as_str()));
    folders
}

/// The documents of a folder of `deploy/`.
pub(crate) fn documents(folder: &str) -> Vec<Value> {
    let path = root().join("deploy").join(folder);
    let output = Command::new("kubectl")
        .arg("kustomize")
        .arg(&path)
        .output()
        .expect("kubectl runs: install it (in Debian, the package kubernetes-client)");
    assert!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("YAML is UTF-8");
    serde_saphyr::from_multiple(&text).expect("kubectl renders YAML")
}

/// The documents of a kind.
pub(crate) fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// The only document of a kind.
pub(crate) fn only<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(documents, kind);
    assert_eq!(found.len(), 1, "documents of kind {kind}");
    found[0]
}

/// The elements of a list; none if it is absent.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `name` of an object.
pub(crate) fn name(value: &Value) -> &str {
    value["name"].as_str().expect("a name")
}

pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    PathBuf::from(manifest).parent().expect("the root of the tree").to_owned()
}
