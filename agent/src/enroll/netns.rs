//! Where a running pod's network namespace is: told by the runtime, else found through its processes.
//!
//! Every namespace is opened, its inode compared with what was told; that of the host, and one without any of the
//! pod's addresses, are not the pod's, whoever of its processes is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::machine::NetnsRef;
use crate::mesh::{LocalPod, PodUid};
use crate::sys::cgroup::container::pod_uid;
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
    /// None of its addresses are there.
    #[error("none of the pod's addresses are in the network namespace of its processes")]
    Stranger,
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
    /// It is gone, another one by now, the host's, or has none of the pod's addresses.
    pub fn reopen(&self, told: &NetnsRef, pod: &LocalPod) -> Result<Netns, LocateError> {
        let netns = self.open(&told.path)?;
        if netns.inode() == told.inode {
            its(netns, pod)
        } else {
            Err(LocateError::Replaced { path: told.path.clone() })
        }
    }

    /// The namespace of a pod's processes: the one with the inode `preferred` if any process is in
    /// it, else that of the oldest process that is in one of the pod's. The oldest of all is the sandbox's, or a
    /// monitor that stays in the host's (CRI-O).
    ///
    /// # Errors
    /// The pod has no process, or all are in the host's namespace or in strangers'.
    pub fn find(
        &self,
        uids: &[PodUid],
        preferred: Option<u64>,
        pod: &LocalPod,
    ) -> Result<Netns, LocateError> {
        let mut refusal = LocateError::NoProcess;
        let mut own = Vec::new();
        for netns in self.of_processes(uids) {
            match self.not_host(netns).and_then(|netns| its(netns, pod)) {
                Ok(netns) => own.push(netns),
                Err(error) => refusal = error,
            }
        }
        let preferred = own.iter().position(|netns| Some(netns.inode()) == preferred);
        own.into_iter().nth(preferred.unwrap_or_default()).ok_or(refusal)
    }

    /// The namespaces of a pod that its processes are in, the oldest process's first.
    pub fn of_pod(&self, uids: &[PodUid], pod: &LocalPod) -> Vec<Netns> {
        let all = self.of_processes(uids).into_iter();
        all.filter_map(|netns| its(self.not_host(netns).ok()?, pod).ok()).collect()
    }

    /// Whether the pod's addresses are gone from its namespace: the one that the runtime told, else all that its
    /// processes are in. Where that cannot be told they are not.
    pub fn is_hollow(&self, told: Option<&NetnsRef>, uids: &[PodUid], pod: &LocalPod) -> bool {
        let told = told.and_then(|told| {
            self.open(&told.path).ok().filter(|netns| netns.inode() == told.inode)
        });
        let own = match told {
            Some(netns) => vec![netns],
            None => self.of_processes(uids).into_iter().flat_map(|n| self.not_host(n)).collect(),
        };
        let has_none = |netns: &Netns| {
            netns.addresses().is_ok_and(|here| !here.into_iter().any(|ip| pod.owns(ip)))
        };
        !own.is_empty() && own.iter().all(has_none)
    }

    /// The namespaces of a pod's processes, the oldest process's first.
    fn of_processes(&self, uids: &[PodUid]) -> Vec<Netns> {
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

    /// The cgroups that bear a pod's UID. Those below any pod's are its own to make and name, and not looked at.
    fn cgroups(&self, uids: &[PodUid]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![(self.cgroup_root.clone(), 0)];
        while let Some((directory, depth)) = todo.pop() {
            for child in directories(&directory) {
                let name = child.file_name().unwrap_or_default().to_string_lossy();
                match pod_uid(&name) {
                    Some(uid) if is_any(&uid, uids) => found.push(child),
                    Some(_) => {}
                    None if depth + 1 < MAX_DEPTH => todo.push((child, depth + 1)),
                    None => {}
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
                // What is below a pod's cgroup is named by the pod.
                let pod = |line: &str| line.split('/').find_map(pod_uid);
                text.lines().filter_map(pod).any(|uid| is_any(&uid, uids))
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

fn is_any(uid: &str, uids: &[PodUid]) -> bool {
    uids.iter().any(|one| one.0.as_str() == uid)
}

/// A namespace, if it has one of the pod's addresses.
fn its(netns: Netns, pod: &LocalPod) -> Result<Netns, LocateError> {
    let here = netns.addresses().unwrap_or_default();
    if here.into_iter().any(|address| pod.owns(address)) {
        Ok(netns)
    } else {
        Err(LocateError::Stranger)
    }
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
