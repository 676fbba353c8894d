//! The kubelet's cgroup, by which its probes are known: found through its process.
//!
//! A name proves nothing: any process of any pod may have it. The kubelet is one of the node's own processes: in
//! the namespaces of the first, root's, in no container's cgroup. If several cgroups hold one like that, the one
//! that systemd knows by a kubelet's unit is meant; if that does not decide either, none is.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sys::cgroup::Cgroup;
use crate::sys::cgroup::container::is_of_containers;

/// The programs that a kubelet runs in: its own, k3s, MicroK8s and MicroShift.
const PROGRAMS: [&str; 6] = ["kubelet", "k3s", "k3s-server", "k3s-agent", "kubelite", "microshift"];

/// The units that distributions run them as.
const UNITS: [&str; 9] = [
    "kubelet.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
    "k0scontroller.service",
    "k0sworker.service",
    "snap.microk8s.daemon-kubelite.service",
    "microshift.service",
];

/// The namespaces that the node's own processes share with the first.
const NAMESPACES: [&str; 5] = ["pid", "mnt", "net", "cgroup", "user"];

/// Cgroups looked through at most; containers' are not among them.
const MAX_CGROUPS: usize = 100_000;

/// How often others are looked for while the known one is as it was: a second one takes its privilege.
const LOOK_AROUND: Duration = Duration::from_secs(10);

/// Where the kubelet of this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kubelet {
    /// In this cgroup.
    In(PathBuf),
    /// No process of the node is one.
    Absent,
    /// Processes in several cgroups could be it.
    Several(Vec<PathBuf>),
}

/// Looks for the kubelet, again and again: a restart makes its cgroup anew.
#[derive(Debug)]
pub struct Search {
    proc: PathBuf,
    cgroup_root: PathBuf,
    given: Option<PathBuf>,
    known: Option<Known>,
}

/// The kubelet as it was found.
#[derive(Debug)]
struct Known {
    process: Process,
    cgroup: Cgroup,
    looked_around: Instant,
}

/// A process that could be a kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    id: String,
    /// A number may be given to another process later; this and the number are one process's alone.
    started: String,
}

// === impl Search ===

impl Search {
    /// A search below `cgroup_root`, by a `proc` that shows the node's processes; with `given`, for that cgroup only.
    pub fn new(proc: PathBuf, cgroup_root: PathBuf, given: Option<PathBuf>) -> Self {
        Self { proc, cgroup_root, given, known: None }
    }

    /// Where the kubelet is now.
    ///
    /// # Errors
    /// The node's first process cannot be looked at, or the hierarchy cannot be listed.
    pub fn look(&mut self, now: Instant) -> io::Result<Kubelet> {
        if let Some(given) = &self.given {
            let there = given.is_dir();
            return Ok(if there { Kubelet::In(given.clone()) } else { Kubelet::Absent });
        }
        let node = self.namespaces("1")?;
        if let Some(known) = &self.known
            && now < known.looked_around + LOOK_AROUND
            && self.process(&known.process.id, &node).as_ref() == Some(&known.process)
            && Cgroup::open(&known.cgroup.path).is_ok_and(|cgroup| cgroup == known.cgroup)
            && members(&known.cgroup.path).any(|member| member == known.process.id)
        {
            return Ok(Kubelet::In(known.cgroup.path.clone()));
        }
        self.known = None;
        let candidates = self.candidates(&node)?;
        let found = chosen(self.cgroups_of(&candidates)?);
        if let Kubelet::In(path) = &found {
            self.known = known(path, candidates, now);
        }
        Ok(found)
    }

    /// The processes of the node itself that a kubelet could be.
    fn candidates(&self, node: &[OsString]) -> io::Result<Vec<Process>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.proc)? {
            let Ok(id) = entry?.file_name().into_string() else { continue };
            if id.bytes().all(|byte| byte.is_ascii_digit()) {
                found.extend(self.process(&id, node));
            }
        }
        Ok(found)
    }

    /// A process, if it could be a kubelet. It may end while we look.
    fn process(&self, id: &str, node: &[OsString]) -> Option<Process> {
        let place = self.proc.join(id);
        let program = std::fs::read_to_string(place.join("comm")).ok()?;
        let could_be = PROGRAMS.contains(&program.trim_end())
            && is_root(&std::fs::read_to_string(place.join("status")).ok()?)
            && self.namespaces(id).ok()? == node;
        let stat = std::fs::read_to_string(place.join("stat")).ok()?;
        // Field 22 of proc_pid_stat(5). The name before it may hold anything, so the last `)` counts.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
        could_be.then(|| Process { id: id.to_owned(), started: started.to_owned() })
    }

    fn namespaces(&self, id: &str) -> io::Result<Vec<OsString>> {
        let place = self.proc.join(id).join("ns");
        let of = |name: &&str| Ok(std::fs::read_link(place.join(name))?.into_os_string());
        NAMESPACES.iter().map(of).collect()
    }

    /// The cgroups that processes are in; those of containers, and all below them, are left out.
    fn cgroups_of(&self, processes: &[Process]) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        if processes.is_empty() {
            return Ok(found);
        }
        let wanted: HashSet<&str> = processes.iter().map(|process| process.id.as_str()).collect();
        let mut open = vec![self.cgroup_root.clone()];
        for _ in 0..MAX_CGROUPS {
            let Some(dir) = open.pop() else { break };
            if members(&dir).any(|member| wanted.contains(member.as_str())) {
                found.push(dir.clone());
            }
            match children(&dir) {
                Ok(children) => open.extend(children),
                // It may go while we look.
                Err(_) if dir != self.cgroup_root => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// The one that is meant.
fn chosen(mut found: Vec<PathBuf>) -> Kubelet {
    let is_unit = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| UNITS.contains(&name))
    };
    if found.iter().any(is_unit) {
        found.retain(is_unit);
    }
    found.sort();
    match found.as_slice() {
        [] => Kubelet::Absent,
        [one] => Kubelet::In(one.clone()),
        _ => Kubelet::Several(found),
    }
}

fn known(path: &Path, candidates: Vec<Process>, now: Instant) -> Option<Known> {
    let cgroup = Cgroup::open(path).ok()?;
    let here: Vec<String> = members(path).collect();
    let process = candidates.into_iter().find(|process| here.contains(&process.id))?;
    Some(Known { process, cgroup, looked_around: now })
}

/// Whether all user ids of a process are root's, by its status in proc_pid_status(5).
fn is_root(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| ids.split_whitespace().eq(["0"; 4]))
}

fn members(cgroup: &Path) -> impl Iterator<Item = String> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let is_ours = !is_of_containers(&entry.file_name().to_string_lossy());
        if is_ours && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
