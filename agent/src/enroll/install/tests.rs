//! On folders of their own, as a node would have them; a script stands for the program.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::enroll::plugin::SUPPORTED_VERSIONS;

const FLANNEL: &str = r#"{"cniVersion":"0.3.1","name":"cbr0","plugins":[{"type":"flannel"}]}"#;
const CALICO: &str = r#"{"cniVersion":"0.3.1","name":"k8s","plugins":[{"type":"calico"}]}"#;

struct Place {
    dir: tempfile::TempDir,
    node: Node,
}

impl Place {
    /// A node with these configurations, whose agent has been ready.
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node {
            program: dir.path().join("program"),
            bin_dir: dir.path().join("bin"),
            conf_dir: dir.path().join("net.d"),
            list_name: "00-sotto.conflist".to_owned(),
            socket: PathBuf::from("/run/sotto/cni.sock"),
            state_dir: dir.path().join("state"),
            agent_namespace: "mesh".to_owned(),
            exempt_namespaces: None,
        };
        for made in [&node.bin_dir, &node.conf_dir, &node.state_dir] {
            std::fs::create_dir(made).unwrap();
        }
        for plugin in ["flannel", "calico"] {
            std::fs::write(node.bin_dir.join(plugin), "").unwrap();
        }
        let place = Self { dir, node };
        place.agent_is_ready();
        let answer = json!({ "cniVersion": "1.0.0", "supportedVersions": SUPPORTED_VERSIONS });
        place.program(&format!("[ $# = 0 ] && [ $CNI_COMMAND = VERSION ] && echo '{answer}'"));
        files.iter().for_each(|(name, text)| place.write(name, text));
        place
    }

    fn agent_is_ready(&self) {
        std::fs::write(self.node.enrolled_list(), r#"{"namespaces":[]}"#).unwrap();
    }

    fn program(&self, script: &str) {
        std::fs::write(&self.node.program, format!("#!/bin/sh\n{script}\n")).unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.node.conf_dir.join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.node.conf_dir.join(name)).unwrap();
    }

    /// The configuration's files, and the plugins of each.
    fn conf(&self) -> BTreeMap<String, Vec<String>> {
        let entries = std::fs::read_dir(&self.node.conf_dir).unwrap();
        let plugins = |path: PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let list = Conflist::parse(&std::fs::read_to_string(&path).unwrap());
            let kinds = list.map(|list| list.kinds().map(str::to_owned).collect());
            (name, kinds.unwrap_or_default())
        };
        entries.map(|entry| plugins(entry.unwrap().path())).collect()
    }

    #[track_caller]
    fn check_conf(&self, expected: &[(&str, &[&str])]) {
        let owned = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let expected: BTreeMap<String, Vec<String>> =
            expected.iter().map(|(name, kinds)| ((*name).to_owned(), owned(kinds))).collect();
        assert_eq!(self.conf(), expected);
    }

    async fn install(&self) -> Result<bool, InstallError> {
        ensure(&self.node, Wanted::Installed).await
    }

    /// Keeps it for so long.
    async fn keep(&self, wanted: Wanted, time: Duration) -> bool {
        let (stop, (done, seen)) = (CancellationToken::new(), watch::channel(false));
        let end = async {
            tokio::time::sleep(time).await;
            stop.cancel();
        };
        tokio::join!(keep(&self.node, wanted, &done, &stop), end);
        *seen.borrow()
    }

    #[track_caller]
    fn check_refused(&self, installed: Result<bool, InstallError>, told: &str) {
        let error = crate::error::chain(&installed.unwrap_err());
        assert!(error.contains(told), "{error}");
        assert!(!self.conf().contains_key("00-sotto.conflist"), "no pod would start");
    }
}

#[tokio::test]
async fn our_list_comes_first_and_the_networks_own_files_stay_as_they_are() {
    let place =
        Place::with(&[("20-b.conflist", CALICO), ("10-a.conflist", FLANNEL), ("README", "no")]);
    let others: [(&str, &[&str]); 3] =
        [("10-a.conflist", &["flannel"]), ("20-b.conflist", &["calico"]), ("README", &[])];
    assert!(place.install().await.unwrap());
    let ours: (&str, &[&str]) = ("00-sotto.conflist", &["flannel", "sotto"]);
    place.check_conf(&[&[ours], &others[..]].concat());
    let program = std::fs::metadata(place.node.bin_dir.join("sotto")).unwrap();
    assert_eq!(program.permissions().mode() & 0o777, 0o755);
    assert!(!place.install().await.unwrap(), "a second time changes nothing");

    assert!(ensure(&place.node, Wanted::Removed).await.unwrap());
    place.check_conf(&others);
    assert!(!place.node.bin_dir.join("sotto").exists());
    assert!(!ensure(&place.node, Wanted::Removed).await.unwrap(), "a second time changes nothing");
}

#[tokio::test]
async fn nothing_is_written_before_the_agent_was_ready_once() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    std::fs::remove_file(place.node.enrolled_list()).unwrap();
    place.check_refused(place.install().await, "ready for the first time");
    place.agent_is_ready();
    assert!(place.install().await.unwrap());
}

#[tokio::test]
async fn a_program_that_does_not_answer_as_a_plugin_is_not_put_into_the_network() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    for script in ["exit 1", "echo usage; exit 64", "echo '{}'", "exit 0"] {
        place.program(script);
        place.check_refused(place.install().await, "cannot serve as the plugin");
    }
    std::fs::write(&place.node.program, [0x7f, 0x45]).unwrap();
    place.check_refused(place.install().await, "cannot be run");
}

#[tokio::test]
async fn a_plugin_that_is_not_in_our_directory_tells_that_it_is_the_wrong_one() {
    let weave = r#"{"name":"w","plugins":[{"type":"flannel"},{"type":"weave"}]}"#;
    let place = Place::with(&[("10-a.conflist", weave)]);
    place.check_refused(place.install().await, "set --bin-dir");
    // As k3s has them: a link that leads nowhere in our container.
    std::os::unix::fs::symlink("/elsewhere/weave", place.node.bin_dir.join("weave")).unwrap();
    assert!(place.install().await.unwrap());
}

#[tokio::test]
async fn a_file_before_ours_is_told_with_what_to_set() {
    let place = Place::with(&[("00-a.conflist", FLANNEL), ("10-b.conflist", CALICO)]);
    place.check_refused(place.install().await, "--list-name");
    let node = Node { list_name: "00-0-sotto.conflist".to_owned(), ..place.node.clone() };
    assert!(ensure(&node, Wanted::Installed).await.unwrap());
}

#[tokio::test]
async fn multus_stands_before_the_network_that_it_calls() {
    let multus = r#"{"name":"m","type":"multus-shim"}"#;
    let place = Place::with(&[("00-multus.conf", multus), ("10-a.conflist", FLANNEL)]);
    assert!(place.install().await.unwrap());
    assert_eq!(place.conf()["00-sotto.conflist"], ["flannel", "sotto"]);
}

#[tokio::test]
async fn a_file_in_the_making_is_waited_for_and_not_passed_over() {
    let place = Place::with(&[("10-a.conflist", "{"), ("87-podman.conflist", CALICO)]);
    place.check_refused(place.install().await, "10-a.conflist comes first");
    place.write("10-a.conflist", FLANNEL);
    assert!(place.install().await.unwrap());
    // Nor is what is there given up for it.
    place.write("10-a.conflist", "");
    assert!(place.install().await.is_err());
    assert_eq!(place.conf()["00-sotto.conflist"], ["flannel", "sotto"]);
}

#[tokio::test]
async fn our_list_follows_the_network_and_keeps_what_an_operator_set() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    place.install().await.unwrap();
    let list = std::fs::read_to_string(place.node.list()).unwrap();
    let mut set: serde_json::Value = serde_json::from_str(&list).unwrap();
    set["plugins"][1]["exemptNamespaces"] = json!(["registry"]);
    place.write("00-sotto.conflist", &set.to_string());
    place.write("10-a.conflist", CALICO);
    assert!(place.install().await.unwrap());
    assert_eq!(place.conf()["00-sotto.conflist"], ["calico", "sotto"]);
    let ours = place.node.current().unwrap();
    assert_eq!(ours.ours().unwrap()["exemptNamespaces"], json!(["registry"]));
    assert_eq!(ours.ours().unwrap()["agentNamespace"], "mesh");
    let exempt_namespaces = Some(vec!["infra".to_owned()]);
    let node = Node { exempt_namespaces, ..place.node.clone() };
    assert!(ensure(&node, Wanted::Installed).await.unwrap());
    assert_eq!(place.node.current().unwrap().ours().unwrap()["exemptNamespaces"], json!(["infra"]));
}

#[tokio::test]
async fn a_single_plugin_becomes_a_list_of_ours() {
    let place = Place::with(&[("10-a.conf", r#"{"name":"net","type":"flannel"}"#)]);
    place.install().await.unwrap();
    place.check_conf(&[("00-sotto.conflist", &["flannel", "sotto"]), ("10-a.conf", &["flannel"])]);
}

#[tokio::test]
async fn an_entry_in_any_file_is_taken_out_with_the_program() {
    let both = r#"{"name":"a","plugins":[{"type":"flannel"},{"type":"sotto"}]}"#;
    let place = Place::with(&[("10-a.conflist", both)]);
    place.install().await.unwrap();
    assert_eq!(place.conf()["00-sotto.conflist"], ["flannel", "sotto"]);
    ensure(&place.node, Wanted::Removed).await.unwrap();
    place.check_conf(&[("10-a.conflist", &["flannel"])]);
}

#[tokio::test]
async fn another_build_of_the_program_takes_its_place() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    place.install().await.unwrap();
    let program = place.node.bin_dir.join("sotto");
    std::fs::write(&program, "old").unwrap();
    assert!(place.install().await.unwrap());
    assert_eq!(std::fs::read(&program).unwrap(), std::fs::read(&place.node.program).unwrap());
}

#[tokio::test]
async fn our_list_is_as_private_as_the_networks_own() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    let path = place.node.conf_dir.join("10-a.conflist");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    place.install().await.unwrap();
    assert_eq!(program::mode(&place.node.list()).unwrap(), 0o600);
}

#[tokio::test]
async fn a_node_without_a_network_says_so() {
    let place = Place::with(&[]);
    place.check_refused(place.install().await, "is the cluster's network installed");
    let nowhere = Node { conf_dir: place.dir.path().join("none"), ..place.node.clone() };
    assert!(matches!(ensure(&nowhere, Wanted::Installed).await, Err(InstallError::Read { .. })));
}

#[tokio::test(start_paused = true)]
async fn kept_it_comes_back_whatever_is_removed() {
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    let moment = Duration::from_secs(2);
    assert!(place.keep(Wanted::Installed, moment).await);
    place.remove("00-sotto.conflist");
    std::fs::remove_file(place.node.bin_dir.join("sotto")).unwrap();
    assert!(place.keep(Wanted::Installed, moment).await);
    assert_eq!(place.conf()["00-sotto.conflist"], ["flannel", "sotto"]);
    assert!(place.node.bin_dir.join("sotto").exists());
    assert!(place.keep(Wanted::Removed, moment).await);
    place.check_conf(&[("10-a.conflist", &["flannel"])]);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_away_for_a_moment_changes_nothing_and_one_that_is_gone_takes_ours_along()
{
    let place = Place::with(&[("10-a.conflist", FLANNEL)]);
    place.keep(Wanted::Installed, Duration::from_secs(2)).await;
    place.remove("10-a.conflist");
    place.write("87-podman.conflist", CALICO);
    place.keep(Wanted::Installed, Duration::from_secs(20)).await;
    assert_eq!(place.conf()["00-sotto.conflist"], ["flannel", "sotto"], "not podman's");
    place.keep(Wanted::Installed, Duration::from_secs(40)).await;
    assert_eq!(place.conf()["00-sotto.conflist"], ["calico", "sotto"], "it stays away");
    place.remove("87-podman.conflist");
    place.keep(Wanted::Installed, Duration::from_secs(40)).await;
    place.check_conf(&[]);
    place.write("10-a.conflist", FLANNEL);
    assert!(place.keep(Wanted::Installed, Duration::from_secs(2)).await);
    assert_eq!(place.conf()["00-sotto.conflist"], ["flannel", "sotto"]);
}
