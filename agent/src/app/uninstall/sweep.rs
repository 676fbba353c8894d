//! What is on a node of the mesh, and how it goes: the network first, so that pods start whatever comes after.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::capture::bpf;
use crate::config::UninstallArgs;
use crate::enroll::install::{self, Node, Wanted};
use crate::enroll::withdraw::withdraw;
use crate::enroll::{enrolled, remembered};
use crate::error::chain;
use crate::mesh::PodUid;
use crate::sys::{Host, Netns, file};
use crate::xds::kept;

/// Why nothing is done.
pub(super) const AGENT_RUNS: &str = "an agent runs on this node and would put everything back: end it first (in a cluster, \
     `kubectl delete -k` of what was applied, or delete its DaemonSet)";
/// A running agent answers at once.
const ANSWER: Duration = Duration::from_secs(2);

/// A node, as far as the mesh changes it.
pub(in crate::app) struct Place {
    /// Its name; empty if it is not known.
    pub(in crate::app) node: String,
    pub(in crate::app) pin_dir: PathBuf,
    pub(in crate::app) proc: PathBuf,
    pub(in crate::app) state_dir: PathBuf,
    /// Where the CNI plugin is, or why that is not known; none if another container looks after it.
    pub(in crate::app) cni: Option<Result<Node, String>>,
    pub(in crate::app) socket: PathBuf,
    /// Or why there is none.
    pub(in crate::app) client: Result<kube::Client, String>,
}

/// What came of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::app) struct Report {
    pub(in crate::app) removed: Vec<String>,
    /// With the reasons.
    pub(in crate::app) left: Vec<String>,
}

impl Place {
    pub(super) async fn of(args: &UninstallArgs) -> Self {
        let client = crate::app::kubernetes(args.kubeconfig.as_deref()).await;
        let (host, cni) = (Host::find(), crate::app::cni::place(&args.cni));
        let state_dir = host.path(&args.cni.state_dir);
        let cni = cni.map(|node| Node { state_dir: state_dir.clone(), ..node });
        Self {
            node: args.node_name.clone(),
            pin_dir: host.path(&args.pin_dir),
            proc: args.proc.clone().unwrap_or_else(|| host.proc()),
            state_dir,
            cni: Some(cni.map_err(|error| format!("{error:#}"))),
            socket: host.path(&args.cni.socket),
            client: client.map_err(|error| format!("{error:#}")),
        }
    }

    /// Whether an agent answers here.
    pub(super) async fn has_agent(&self) -> bool {
        let answered = timeout(ANSWER, UnixStream::connect(&self.socket)).await;
        // One that is too busy to answer is there, too.
        !matches!(answered, Ok(Err(_)))
    }

    /// Tells control planes that pods take no tunnels any more.
    pub(in crate::app) async fn disavow(&self) {
        let mut report = Report::default();
        let captured = self.captured(&mut report);
        if !self.withdraw(&captured, &mut report).await {
            tracing::warn!("{}", report.told(&self.node));
        }
    }

    /// Takes away all that is there. Goes on after failures.
    pub(in crate::app) async fn sweep(&self) -> Report {
        let mut report = Report::default();
        let has_left_network = self.sweep_network(&mut report).await;
        let captured = self.captured(&mut report);
        let withdrawn = self.withdraw(&captured, &mut report).await;
        self.sweep_kernel(captured.len(), &mut report);
        let mut files = vec![kept::file_in(&self.state_dir), self.socket.clone()];
        if withdrawn {
            // Until then it tells whose annotations are to go.
            files.push(remembered::file_in(&self.state_dir));
        }
        if has_left_network {
            // The plugin would have all pods wait, if it were there and this were not.
            files.push(enrolled::file_in(&self.state_dir));
        }
        self.sweep_files(&files, &mut report);
        report
    }

    /// Whether the plugin is not there any more.
    async fn sweep_network(&self, report: &mut Report) -> bool {
        let node = match &self.cni {
            None => return false,
            Some(Ok(node)) => node,
            // The list tells that the plugin was ever installed.
            Some(Err(_)) if !enrolled::file_in(&self.state_dir).exists() => return true,
            Some(Err(error)) => {
                report.left.push(format!("the CNI plugin, if it is installed: {error}"));
                return false;
            }
        };
        let (bin, conf) = (node.bin_dir.display(), node.conf_dir.display());
        match install::ensure(node, Wanted::Removed).await {
            Ok(true) => report.removed.push(format!("the CNI plugin in {conf} and {bin}")),
            Ok(false) => {}
            Err(error) => {
                report.left.push(format!("the CNI plugin: {}", chain(&error)));
                return false;
            }
        }
        true
    }

    /// The pods that agents of this node captured, as far as the kernel and the disk know.
    fn captured(&self, report: &mut Report) -> BTreeSet<PodUid> {
        let mut captured: BTreeSet<_> =
            remembered::uids(&remembered::file_in(&self.state_dir)).into_iter().collect();
        match bpf::captured_pods(&self.pin_dir) {
            Ok(pods) => captured.extend(pods),
            Err(error) => report.left.push(format!("pods' pins: {}", chain(&error))),
        }
        captured
    }

    /// Whether no pod has an annotation of ours any more.
    async fn withdraw(&self, captured: &BTreeSet<PodUid>, report: &mut Report) -> bool {
        if captured.is_empty() {
            return true;
        }
        let why = match &self.client {
            _ if self.node.is_empty() => "the node's name is not known (--node-name)".to_owned(),
            Err(error) => error.clone(),
            Ok(client) => match withdraw(client, &self.node, captured).await {
                Ok(0) => return true,
                Ok(count) => {
                    report.removed.push(format!("the annotation of {}", pods(count)));
                    return true;
                }
                Err(error) => chain(&error),
            },
        };
        report.left.push(format!("annotations of pods: {why}"));
        false
    }

    fn sweep_kernel(&self, captured: usize, report: &mut Report) {
        let was_there = self.pin_dir.exists();
        let node = self.proc.join("1/ns/net");
        let removed = match Netns::open(&node) {
            Ok(node) => bpf::unload(&self.pin_dir, &node)
                .map_err(|errors| errors.iter().map(|error| chain(error)).collect::<Vec<_>>()),
            Err(error) => Err(vec![format!("failed to open {}: {error}", node.display())]),
        };
        match removed {
            Ok(()) if was_there => report.removed.push(format!(
                "programs, maps and routes, with {} captured ({})",
                pods(captured),
                self.pin_dir.display()
            )),
            Ok(()) => {}
            Err(errors) => report.left.extend(errors),
        }
    }

    fn sweep_files(&self, files: &[PathBuf], report: &mut Report) {
        let (mut removed, mut folders) = (false, BTreeSet::new());
        for path in files {
            match file::remove(path) {
                Ok(was_there) => removed |= was_there,
                Err(error) => report.left.push(format!("{}: {error}", path.display())),
            }
            folders.extend(path.parent());
        }
        if removed {
            report.removed.push(format!("the agent's state in {}", self.state_dir.display()));
        }
        for folder in folders {
            report.left.extend(remove_folder(folder).err());
        }
    }
}

/// A folder of ours goes if nothing is in it. One that is mounted here goes with the node's own sweep, or stays empty.
fn remove_folder(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir(folder) {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound
                    | ErrorKind::DirectoryNotEmpty
                    | ErrorKind::ResourceBusy
                    | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Err(format!("{}: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn pods(count: usize) -> String {
    if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") }
}

impl Report {
    /// Nothing was done.
    pub(super) fn refused() -> Self {
        Self { removed: Vec::new(), left: vec![AGENT_RUNS.to_owned()] }
    }

    /// As a line for people.
    pub(in crate::app) fn told(&self, node: &str) -> String {
        let node = if node.is_empty() { "this node" } else { node };
        let mut parts = Vec::new();
        if !self.removed.is_empty() {
            parts.push(format!("removed: {}", self.removed.join(", ")));
        }
        if self.left.is_empty() {
            parts.push("nothing of the mesh is left".to_owned());
        } else {
            parts.push(format!("STILL THERE: {}", self.left.join("; ")));
        }
        format!("{node}: {}", parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_went_and_what_stays() {
        let report = |removed: &[&str], left: &[&str]| Report {
            removed: removed.iter().map(|part| (*part).to_owned()).collect(),
            left: left.iter().map(|part| (*part).to_owned()).collect(),
        };
        let check = |report: Report, node, expected| assert_eq!(report.told(node), expected);
        check(report(&[], &[]), "", "this node: nothing of the mesh is left");
        check(report(&["a", "b"], &[]), "n1", "n1: removed: a, b; nothing of the mesh is left");
        check(report(&["a"], &["b: why"]), "n1", "n1: removed: a; STILL THERE: b: why");
    }

    #[test]
    fn a_folder_with_something_in_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("sotto"), dir.path().join("sotto/other"));
        std::fs::create_dir(&ours).unwrap();
        std::fs::write(&other, "").unwrap();
        remove_folder(&ours).unwrap();
        assert!(other.exists());
        std::fs::remove_file(&other).unwrap();
        remove_folder(&ours).unwrap();
        remove_folder(&ours).unwrap();
        assert!(!ours.exists());
    }
}
