//! Another mesh on the node: two kinds of agents would take pods from each other.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{InstallError, files, read};

/// The plugin of Istio's node agent. It also serves sidecars alone, which is no harm.
const ISTIO: &str = "istio-cni";

/// The file of the node's network configuration by which Istio's node agent takes pods into its ambient mesh, if there is one.
///
/// # Errors
/// The directory, or a file of it, cannot be read.
pub fn ambient(conf_dir: &Path) -> Result<Option<PathBuf>, InstallError> {
    for path in files::considered(conf_dir)? {
        let text = std::fs::read_to_string(&path).map_err(read(&path))?;
        // One that is no JSON is used by nobody.
        let file: Value = serde_json::from_str(&text).unwrap_or_default();
        let plugins =
            file["plugins"].as_array().map_or_else(|| std::slice::from_ref(&file), Vec::as_slice);
        let is_rival =
            |plugin: &&Value| plugin["type"] == ISTIO && plugin["ambient_enabled"] == true;
        if plugins.iter().any(|plugin| is_rival(&plugin)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_s_plugin_is_found_where_it_takes_pods_into_an_ambient_mesh() {
        let check = |text: &str, expected: bool| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("10-net.conflist"), text).unwrap();
            assert_eq!(ambient(dir.path()).unwrap().is_some(), expected, "{text}");
        };
        let list = |plugin: &str| format!(r#"{{"plugins":[{{"type":"bridge"}},{plugin}]}}"#);
        check(&list(r#"{"type":"istio-cni","ambient_enabled":true}"#), true);
        check(r#"{"type":"istio-cni","ambient_enabled":true}"#, true);
        check(&list(r#"{"type":"istio-cni","ambient_enabled":false}"#), false);
        check(&list(r#"{"type":"istio-cni"}"#), false);
        check(&list(r#"{"type":"portmap"}"#), false);
        check("not JSON", false);
        assert!(ambient(Path::new("/nowhere")).is_err());
    }
}
