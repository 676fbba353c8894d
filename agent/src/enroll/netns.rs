//! Where a running pod's network namespace is: told by the runtime, else found through its processes.
//!
//! Every namespace is opened, its inode compared with what was told, and that of the host refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::machine::NetnsRef;
use crate::mesh::PodUid;
use crate::sys::netns::Netns;

/// How deep below the root a pod's cgroup may be: kubepods, QoS class, pod, with room for a prefix.
const MAX_DEPTH: usize = 8;

/// Why a pod's namespace was not found.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The path that the runtime told cannot be opened.
    #[error("failed to open network namespace {path}")]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The path that the runtime told leads to another namespace by now.
    #[error("network namespace {path} has been replaced")]
    Replaced {
        /// The path.
        path: PathBuf,
    },
    /// The pod has no process that we can see.
    #[error("no process of the pod is visible (does the agent run with hostPID?)")]
    NoProcess,
    /// It is in the host's namespace.
    #[error("the pod is in the host's network namespace")]
    Host,
    /// The host's own namespace cannot be told.
    #[error("failed to open the host's network namespace")]
    NoHost(#[source] io::Error),
}

/// Finds namespaces on this node.
#[derive(Debug, Clone)]
pub struct Locator {
    cgroup_root: PathBuf,
    proc: PathBuf,
    host_inodes: Vec<u64>,
}

impl Locator {
    /// `proc` is the host's; it shows pods' processes only if we share the host's PID namespace.
    ///
    /// # Errors
    /// Our own namespace cannot be told.
    pub fn new(cgroup_root: PathBuf, proc: PathBuf) -> Result<Self, LocateError> {
        let own = Netns::current().map_err(LocateError::NoHost)?.inode();
        let init = Netns::open(&proc.join("1/ns/net")).map(|netns| netns.inode()).ok();
        Ok(Self::excluding(cgroup_root, proc, init.into_iter().chain([own]).collect()))
    }

    /// As [`new`](Self::new), where the namespaces that no pod may be in are known.
    pub fn excluding(cgroup_root: PathBuf, proc: PathBuf, host_inodes: Vec<u64>) -> Self {
        Self { cgroup_root, proc, host_inodes }
    }

    /// The namespace at a path.
    ///
    /// # Errors
    /// It cannot be opened, or is the host's.
    pub fn open(&self, path: &Path) -> Result<Netns, LocateError> {
        let netns = Netns::open(path)
            .map_err(|source| LocateError::Open { path: path.to_owned(), source })?;
        self.not_host(netns)
    }

    /// The namespace that the runtime told.
    ///
    /// # Errors
    /// It is gone, another one by now, or the host's.
    pub fn reopen(&self, told: &NetnsRef) -> Result<Netns, LocateError> {
        let netns = self.open(&told.path)?;
        if netns.inode() == told.inode {
            Ok(netns)
        } else {
            Err(LocateError::Replaced { path: told.path.clone() })
        }
    }

    /// The namespace of a pod's processes: the one with the inode `preferred` if any process is in
    /// it, else that of the oldest process, which is the sandbox's.
    ///
    /// # Errors
    /// The pod has no process, or they are in the host's namespace.
    pub fn find(&self, uids: &[PodUid], preferred: Option<u64>) -> Result<Netns, LocateError> {
        let all = self.of_pod(uids);
        let preferred = all.iter().position(|netns| Some(netns.inode()) == preferred);
        let chosen = all.into_iter().nth(preferred.unwrap_or_default());
        self.not_host(chosen.ok_or(LocateError::NoProcess)?)
    }

    /// The namespaces of a pod's processes, the oldest process's first.
    pub fn of_pod(&self, uids: &[PodUid]) -> Vec<Netns> {
        let mut processes: Vec<(u64, u32)> = self
            .processes(uids)
            .into_iter()
            .filter_map(|pid| Some((self.started(pid)?, pid)))
            .collect();
        processes.sort_unstable();
        let mut found: Vec<Netns> = Vec::new();
        for (started, pid) in processes {
            let Ok(netns) = Netns::open(&self.proc.join(format!("{pid}/ns/net"))) else { continue };
            // The PID may have been given to another process meanwhile.
            let same = self.started(pid) == Some(started);
            if same && found.iter().all(|known| known.inode() != netns.inode()) {
                found.push(netns);
            }
        }
        found
    }

    fn not_host(&self, netns: Netns) -> Result<Netns, LocateError> {
        if self.host_inodes.contains(&netns.inode()) { Err(LocateError::Host) } else { Ok(netns) }
    }

    fn processes(&self, uids: &[PodUid]) -> Vec<u32> {
        let mut pids = Vec::new();
        for directory in self.cgroups(uids) {
            collect_processes(&directory, MAX_DEPTH, &mut pids);
        }
        if pids.is_empty() {
            pids = self.by_membership(uids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// The cgroups that bear a pod's UID.
    fn cgroups(&self, uids: &[PodUid]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![(self.cgroup_root.clone(), 0)];
        while let Some((directory, depth)) = todo.pop() {
            for child in directories(&directory) {
                let name = child.file_name().unwrap_or_default().to_string_lossy();
                if uids.iter().any(|uid| names_pod(&name, uid)) {
                    found.push(child);
                } else if depth + 1 < MAX_DEPTH {
                    todo.push((child, depth + 1));
                }
            }
        }
        found
    }

    /// Processes whose `/proc/<pid>/cgroup` bears a pod's UID, for hosts whose cgroup tree we do not see.
    fn by_membership(&self, uids: &[PodUid]) -> Vec<u32> {
        let is_ours = |pid: &u32| {
            let membership = fs::read_to_string(self.proc.join(format!("{pid}/cgroup")));
            membership.is_ok_and(|text| {
                text.split(['/', '\n']).any(|part| uids.iter().any(|uid| names_pod(part, uid)))
            })
        };
        let pids = directories(&self.proc);
        let numbers = pids.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok());
        numbers.filter(is_ours).collect()
    }

    /// When a process started, in ticks since boot.
    fn started(&self, pid: u32) -> Option<u64> {
        let stat = fs::read_to_string(self.proc.join(format!("{pid}/stat"))).ok()?;
        start_time(&stat)
    }
}

/// Field 22 of proc_pid_stat(5). The name before it may hold anything, so the last `)` counts.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a cgroup's name is that of a pod: `pod<uid>` (cgroupfs driver),
/// `kubepods-burstable-pod<uid with underscores>.slice` (systemd driver), or the UID alone.
fn names_pod(name: &str, uid: &PodUid) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let last = name.rsplit_once("-pod").map_or(name, |(_, last)| last);
    let id = last.strip_prefix("pod").unwrap_or(last);
    !id.is_empty() && (id == uid.0 || id.replace('_', "-") == uid.0.as_str())
}

fn collect_processes(directory: &Path, depth: usize, pids: &mut Vec<u32>) {
    // A threaded or vanished cgroup has no list of processes.
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // Processes of another PID namespace read as 0.
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
    if depth > 0 {
        for child in directories(directory) {
            collect_processes(&child, depth - 1, pids);
        }
    }
}

/// Sub-directories; none of one that is gone.
fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_directory).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests;
