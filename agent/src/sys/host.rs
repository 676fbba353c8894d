//! Where the node's own files are: at `/`, or, in a container that has them, where they are mounted.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::cgroup;

/// Where our DaemonSet mounts what it needs of the node.
const MOUNTED: &str = "/host";
/// A container's own cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where pins are.
const BPFFS: &str = "/sys/fs/bpf";
/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;

/// The node's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// Below `/host` if the node's processes show in `/host/proc`; else this is the node.
    pub fn find() -> Self {
        let is_mounted = Path::new(MOUNTED).join("proc/1").exists();
        Self::at(if is_mounted { MOUNTED } else { "/" })
    }

    /// Below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether this is the node itself.
    pub fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The node's `/proc`.
    pub fn proc(&self) -> PathBuf {
        self.root.join("proc")
    }

    /// The node's version 2 hierarchy, also where it is beside version 1.
    ///
    /// # Errors
    /// There is none.
    pub fn cgroup_root(&self) -> io::Result<PathBuf> {
        let mounted = || cgroup::hierarchy(&self.root.join("sys/fs/cgroup"));
        let found = if self.is_here() { None } else { mounted() };
        found.map_or_else(cgroup::root, Ok)
    }

    /// In a container, the root of its own cgroups. On a node with both versions it has none of version 2, and if it was
    /// given the node's, others are in it too: then none is its own.
    pub fn container_cgroup(&self) -> Option<PathBuf> {
        let own = Path::new(CGROUPS);
        let is_version_2 =
            || statfs(own).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
        // The root of the whole hierarchy is the one cgroup without a type.
        let is_own = !self.is_here() && is_version_2() && own.join("cgroup.type").exists();
        is_own.then(|| own.to_owned())
    }

    /// Where a path of the node's is for us. Links lead where they lead on the node.
    pub fn path(&self, on_node: &Path) -> PathBuf {
        if self.is_here() {
            return on_node.to_owned();
        }
        let mut todo: VecDeque<OsString> = names(on_node).collect();
        let (mut done, mut links) = (PathBuf::new(), 0);
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            match std::fs::read_link(self.root.join(&done).join(&name)) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        done = PathBuf::new();
                    }
                    names(&target).rev().for_each(|name| todo.push_front(name));
                }
                _ => done.push(name),
            }
        }
        self.root.join(done)
    }
}

/// Whether pins below `pin_dir` outlive this container: those in a BPF file system of its own would end with it, and with
/// them all that keeps pods' connections from going out in the clear. `proc` shows the node's processes.
///
/// # Errors
/// They would not, and what to do. What cannot be told is fine.
pub fn ensure_lasting_pins(pin_dir: &Path, proc: &Path) -> io::Result<()> {
    let own = Path::new(BPFFS);
    if !pin_dir.starts_with(own) {
        return Ok(());
    }
    let is_bpffs = statfs(own).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    let nodes = std::fs::metadata(proc.join("1/root").join(BPFFS.trim_start_matches('/')));
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    match (is_bpffs, nodes) {
        (true, Ok(nodes)) if nodes.dev() != std::fs::metadata(own)?.dev() => wrong(
            "/sys/fs/bpf is a BPF file system of this container's own: give it the node's (a hostPath volume)",
        ),
        (false, Ok(_)) if !shares_mounts(proc) => wrong(
            "the node has no BPF file system at /sys/fs/bpf: mount it there (`mount -t bpf bpf /sys/fs/bpf`; systemd does)",
        ),
        _ => Ok(()),
    }
}

/// Whether what we mount is mounted for the node.
fn shares_mounts(proc: &Path) -> bool {
    let of = |process: &str| std::fs::read_link(proc.join(process).join("ns/mnt"));
    matches!((of("1"), of("self")), (Ok(node), Ok(own)) if node == own)
}

fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_where_they_lead_on_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::at(dir.path());
        std::fs::create_dir_all(dir.path().join("var/lib/data/abc/bin")).unwrap();
        symlink("/var/lib/data/abc", dir.path().join("var/lib/data/current")).unwrap();
        symlink("../lib/data", dir.path().join("var/lib/beside")).unwrap();
        symlink("/../../../etc", dir.path().join("out")).unwrap();
        symlink("/loop", dir.path().join("loop")).unwrap();
        for (on_node, expected) in [
            ("/var/lib/data/current/bin", "var/lib/data/abc/bin"),
            ("/var/lib/beside/current/bin/x", "var/lib/data/abc/bin/x"),
            ("/not/there", "not/there"),
            ("/out/passwd", "etc/passwd"),
            ("/loop", "loop"),
            ("/", ""),
        ] {
            assert_eq!(host.path(Path::new(on_node)), dir.path().join(expected), "{on_node}");
        }
        assert_eq!(Host::at("/").path(Path::new("/var/run")), Path::new("/var/run"));
    }

    #[test]
    fn pins_in_a_file_system_of_another_than_the_node_do_not_last() {
        let proc = tempfile::tempdir().unwrap();
        let pins = Path::new("/sys/fs/bpf/sotto/v1");
        // What cannot be told is fine.
        ensure_lasting_pins(pins, proc.path()).unwrap();
        std::fs::create_dir_all(proc.path().join("1/root/sys/fs/bpf")).unwrap();
        assert!(ensure_lasting_pins(pins, proc.path()).is_err());
        ensure_lasting_pins(Path::new("/elsewhere"), proc.path()).unwrap();
    }
}
