//! The list that a runtime finds in its configuration directory.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Versions of the specification that libcni knows.
const VERSIONS: [&str; 8] = ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network: its plugins in order.
#[derive(Debug, Clone)]
pub struct List {
    /// Where it was found.
    pub file: PathBuf,
    /// Its name.
    pub name: String,
    /// Its version, which every plugin gets and answers in.
    pub version: String,
    /// The plugins' own configurations.
    pub plugins: Vec<Value>,
}

impl List {
    /// Whether its version is `version` or later.
    pub fn is_at_least(&self, version: &str) -> bool {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        place(&self.version) >= place(version)
    }

    /// The types of its plugins, in order.
    pub fn kinds(&self) -> Vec<String> {
        self.plugins.iter().map(kind).collect()
    }
}

/// The program of a plugin's configuration.
pub(super) fn kind(plugin: &Value) -> String {
    plugin["type"].as_str().unwrap_or_default().to_owned()
}

/// Reads the directory as containerd does: of all files by name the first, which must be sound.
///
/// # Errors
/// There is none, or the first cannot be used: no pod starts then.
pub fn load(dir: &Path) -> Result<List> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conf" | "conflist" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let Some(file) = files.into_iter().next() else {
        bail!("no network config found in {}: cni plugin not initialized", dir.display());
    };
    parse(&file).with_context(|| format!("failed to load CNI config {}", file.display()))
}

fn parse(file: &Path) -> Result<List> {
    let config: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    let plugins = if file.extension().is_some_and(|extension| extension == "conflist") {
        config["plugins"].as_array().cloned().unwrap_or_default()
    } else {
        vec![config.clone()]
    };
    ensure!(!plugins.is_empty(), "no networks");
    ensure!(plugins.iter().all(|plugin| !kind(plugin).is_empty()), "a plugin without a type");
    ensure!(VERSIONS.contains(&text("cniVersion").as_str()), "an unknown version");
    ensure!(!text("name").is_empty(), "no name");
    Ok(List { file: file.to_owned(), name: text("name"), version: text("cniVersion"), plugins })
}

/// The addresses of a result, in the shape of its version.
pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let old = ["ip4", "ip6"].map(|key| &result[key]["ip"]);
    let listed = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let new = listed.iter().map(|ip| &ip["address"]);
    let all = old.into_iter().chain(new).filter_map(Value::as_str);
    all.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn the_first_file_rules_or_none() {
        let list = r#"{"name":"a","cniVersion":"0.4.0","plugins":[{"type":"x"},{"type":"y"}]}"#;
        let found = dir(&[("20-b.conf", "{"), ("10-a.conflist", list), ("00-a.saved", "{")]);
        let found = load(found.path()).unwrap();
        assert_eq!(found.kinds(), ["x", "y"]);
        assert!(found.is_at_least("0.4.0") && !found.is_at_least("1.0.0"));
        assert!(load(dir(&[("00-b.conf", "{"), ("10-a.conflist", list)]).path()).is_err());
        assert!(load(dir(&[]).path()).is_err());
        let single = dir(&[("10-a.conf", r#"{"name":"a","type":"z"}"#)]);
        assert_eq!(load(single.path()).unwrap().kinds(), ["z"]);
    }
}
