//! On folders of their own, as a node would have them.

use std::collections::BTreeMap;

use super::*;

const FLANNEL: &str = r#"{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel"}]}"#;

struct Place {
    _dir: tempfile::TempDir,
    node: Node,
}

impl Place {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node {
            bin_dir: dir.path().join("bin"),
            conf_dir: dir.path().join("net.d"),
            socket: PathBuf::from("/run/sotto/cni.sock"),
        };
        std::fs::create_dir(&node.bin_dir).unwrap();
        std::fs::create_dir(&node.conf_dir).unwrap();
        for (name, text) in files {
            std::fs::write(node.conf_dir.join(name), text).unwrap();
        }
        Self { _dir: dir, node }
    }

    /// The configuration's files, and whether each names the plugin.
    fn conf(&self) -> BTreeMap<String, bool> {
        let entries =
            std::fs::read_dir(&self.node.conf_dir).unwrap().map(|entry| entry.unwrap().path());
        let named = |path: PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).unwrap().contains("\"sotto\""))
        };
        entries.map(named).collect()
    }

    fn check_conf(&self, expected: &[(&str, bool)]) {
        let expected: BTreeMap<String, bool> =
            expected.iter().map(|(name, is)| ((*name).to_owned(), *is)).collect();
        assert_eq!(self.conf(), expected);
    }
}

#[test]
fn the_first_configuration_gets_the_plugin_and_loses_it() {
    let place =
        Place::with(&[("20-b.conflist", FLANNEL), ("10-a.conflist", FLANNEL), ("README", "no")]);
    assert!(install(&place.node).unwrap());
    place.check_conf(&[("10-a.conflist", true), ("20-b.conflist", false), ("README", false)]);
    let program = std::fs::metadata(place.node.bin_dir.join("sotto")).unwrap();
    assert_eq!(program.permissions().mode() & 0o777, 0o755);

    assert!(!install(&place.node).unwrap(), "a second time changes nothing");

    assert!(uninstall(&place.node).unwrap());
    place.check_conf(&[("10-a.conflist", false), ("20-b.conflist", false), ("README", false)]);
    assert!(!place.node.bin_dir.join("sotto").exists());
    assert!(!uninstall(&place.node).unwrap(), "a second time changes nothing");
}

#[test]
fn a_rewritten_configuration_gets_the_plugin_again() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    assert!(install(&place.node).unwrap());
    std::fs::write(place.node.conf_dir.join("10-a.conflist"), FLANNEL).unwrap();
    assert!(ensure_again(&place.node, Wanted::Installed).unwrap());
    assert!(!ensure_again(&place.node, Wanted::Installed).unwrap());
    place.check_conf(&[("10-a.conflist", true)]);
}

#[test]
fn a_single_plugin_is_set_aside_for_a_list_and_comes_back() {
    let single = r#"{"cniVersion":"0.3.1","name":"net","type":"bridge"}"#;
    let place = Place::with(&[("10-a.conf", single)]);
    assert!(install(&place.node).unwrap());
    place.check_conf(&[("10-a.conf.before-sotto", false), ("10-a.conflist", true)]);
    assert!(!install(&place.node).unwrap());
    assert!(uninstall(&place.node).unwrap());
    place.check_conf(&[("10-a.conf", false)]);
    assert_eq!(std::fs::read_to_string(place.node.conf_dir.join("10-a.conf")).unwrap(), single);
}

#[test]
fn files_that_a_runtime_skips_are_skipped() {
    let place = Place::with(&[("00-broken.conflist", "{"), ("10-a.conflist", FLANNEL)]);
    assert!(install(&place.node).unwrap());
    place.check_conf(&[("00-broken.conflist", false), ("10-a.conflist", true)]);
}

#[test]
fn another_build_of_the_plugin_is_replaced() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    install(&place.node).unwrap();
    let program = place.node.bin_dir.join("sotto");
    std::fs::write(&program, "old").unwrap();
    assert!(install(&place.node).unwrap());
    assert!(std::fs::metadata(&program).unwrap().len() > 3);
}

#[test]
fn the_mode_of_a_configuration_stays() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    let path = place.node.conf_dir.join("10-a.conflist");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    install(&place.node).unwrap();
    assert_eq!(mode(&path).unwrap(), 0o600);
}

#[test]
fn a_node_without_a_network_says_so() {
    let place = Place::with(&[]);
    let error = install(&place.node).unwrap_err();
    assert!(error.to_string().contains("is the cluster's network installed"), "{error}");
    let nowhere = Node { conf_dir: place.node.conf_dir.join("none"), ..place.node.clone() };
    assert!(matches!(install(&nowhere), Err(InstallError::Read { .. })));
}

#[tokio::test]
async fn keeping_it_puts_it_back_and_stops_when_told() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    let stop = CancellationToken::new();
    stop.cancel();
    keep(&place.node, Wanted::Installed, &stop).await;
    place.check_conf(&[("10-a.conflist", true)]);
}
