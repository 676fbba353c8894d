//! The pods that are captured, on the node's disk: an agent that starts while the API server is away takes over those
//! that the kernel still captures, as what they were. No key is in it.
//!
//! It says nothing of which pods are to be captured: a pod that the kernel does not hold is not looked at, and the API
//! server's first complete list has the last word on all of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{PodState, Status};
use crate::error::chain;
use crate::mesh::local::Exclusions;
use crate::mesh::{Account, LocalPod, PodUid};
use crate::sys::file;

const FILE: &str = "pods.json";
/// Of the format: one that is not known is not read.
const VERSION: u32 = 1;
/// The least time between two writes.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// By UID.
    pods: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    namespace: ArcStr,
    name: ArcStr,
    service_account: ArcStr,
    ip4: Option<Ipv4Addr>,
    ip6: Option<Ipv6Addr>,
    outbound_ports: Vec<u16>,
    outbound_cidrs: Vec<IpNet>,
    probe_ports: Vec<u16>,
    /// Earlier versions did not write it.
    #[serde(default)]
    names: Option<bool>,
}

/// The file in the agent's directory of state.
pub fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// The pods of the file; none if it is not sound.
pub fn read(path: &Path) -> Vec<Arc<LocalPod>> {
    let pods = entries(path).into_iter();
    pods.filter_map(|(uid, entry)| entry.pod(uid)).map(Arc::new).collect()
}

/// Whose pods they are, by UID; none if the file is not sound.
pub fn uids(path: &Path) -> Vec<PodUid> {
    entries(path).into_keys().map(|uid| PodUid(uid.into())).collect()
}

fn entries(path: &Path) -> BTreeMap<String, Entry> {
    let content: Content = match std::fs::read(path).map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(content)) => content,
        Ok(Err(error)) => {
            tracing::warn!(%error, path = %path.display(), "the list of captured pods is damaged, and not used");
            return BTreeMap::new();
        }
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "no list of captured pods");
            return BTreeMap::new();
        }
    };
    if content.version == VERSION { content.pods } else { BTreeMap::new() }
}

impl Entry {
    fn new(pod: &LocalPod) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: pod.account.name().clone(),
            ip4: pod.ip4,
            ip6: pod.ip6,
            outbound_ports: pod.exclusions.outbound_ports.clone(),
            outbound_cidrs: pod.exclusions.outbound_cidrs.clone(),
            probe_ports: pod.exclusions.probe_ports.clone(),
            names: pod.exclusions.names,
        }
    }

    fn pod(self, uid: String) -> Option<LocalPod> {
        let account = Account::new(self.namespace.clone(), self.service_account);
        Some(LocalPod {
            uid: PodUid(uid.into()),
            namespace: self.namespace,
            name: self.name,
            account: account.ok()?,
            ip4: self.ip4,
            ip6: self.ip6,
            exclusions: Exclusions {
                outbound_ports: self.outbound_ports,
                outbound_cidrs: self.outbound_cidrs,
                probe_ports: self.probe_ports,
                names: self.names,
            },
        })
    }
}

/// What there is to write; nothing while the API server has not told what is true.
fn content(status: &Status) -> Option<Content> {
    let captured = status.pods.iter().filter(|pod| pod.state == PodState::Captured);
    let entry = |pod: &Arc<LocalPod>| (pod.uid.to_string(), Entry::new(pod));
    let pods = captured.filter_map(|status| status.pod.as_ref()).map(entry).collect();
    status.synced.then_some(Content { version: VERSION, pods })
}

fn write(path: &Path, content: &Content) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    file::replace(path, &serde_json::to_vec(content)?, 0o600)
}

/// Keeps the file in step with enrolment until `stop`.
pub async fn keep(path: PathBuf, mut status: watch::Receiver<Status>, stop: CancellationToken) {
    let mut written = None;
    loop {
        let wanted = content(&status.borrow_and_update());
        let mut behind = false;
        if let Some(wanted) = wanted.filter(|wanted| written.as_ref() != Some(wanted)) {
            let file = path.clone();
            let write = move || write(&file, &wanted).map(|()| wanted);
            match tokio::task::spawn_blocking(write).await {
                Ok(Ok(content)) => written = Some(content),
                Ok(Err(error)) => {
                    behind = true;
                    tracing::warn!(error = chain(&error), path = %path.display(),
                        "failed to write the list of captured pods, trying again");
                }
                Err(error) => tracing::error!(%error, "writing the list of pods panicked"),
            }
        }
        let next = async {
            tokio::time::sleep(PAUSE).await;
            behind || status.changed().await.is_ok()
        };
        if stop.run_until_cancelled(next).await != Some(true) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PodStatus;
    use super::*;

    fn pod() -> LocalPod {
        LocalPod {
            uid: PodUid("u-1".into()),
            namespace: "shop".into(),
            name: "web".into(),
            account: Account::new("shop", "sa").unwrap(),
            ip4: Some([10, 0, 0, 1].into()),
            ip6: Some("fd00::1".parse().unwrap()),
            exclusions: Exclusions {
                outbound_ports: vec![5432],
                outbound_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
                probe_ports: vec![8080],
                names: Some(false),
            },
        }
    }

    fn status(synced: bool, state: PodState) -> Status {
        let pod = Some(Arc::new(pod()));
        let pods = vec![PodStatus { uid: PodUid("u-1".into()), pod, state, trouble: None }];
        Status { synced, pods, ..Status::default() }
    }

    #[test]
    fn captured_pods_are_read_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_in(&dir.path().join("state"));
        assert_eq!(read(&path), []);
        write(&path, &content(&status(true, PodState::Captured)).unwrap()).unwrap();
        assert_eq!(read(&path), [Arc::new(pod())]);
        assert_eq!(uids(&path), [PodUid("u-1".into())]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for broken in ["", "{", r#"{"version":2,"pods":{}}"#, r#"{"version":1,"pods":[]}"#] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(read(&path), [], "{broken}");
        }
    }

    #[test]
    fn nothing_is_forgotten_before_the_api_server_has_told() {
        assert_eq!(content(&status(false, PodState::Captured)), None);
        let none = content(&status(true, PodState::Pending)).unwrap();
        assert!(none.pods.is_empty());
    }
}
