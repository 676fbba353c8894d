//! The version 2 cgroup hierarchy: where it is mounted, where we are in it, and a cgroup's id.

pub mod container;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// A cgroup: its directory, and the id that BPF programs see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Directory in the cgroup2 file system.
    pub path: PathBuf,
    /// What `bpf_get_current_cgroup_id` returns for its members: the directory's inode.
    pub id: u64,
}

impl Cgroup {
    /// The cgroup of a directory.
    ///
    /// # Errors
    /// The directory does not exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: std::fs::metadata(path)?.ino() })
    }
}

/// The mount point of the cgroup2 file system (`/sys/fs/cgroup`, or `../unified` on hybrid hosts).
///
/// # Errors
/// None is mounted.
pub fn root() -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(cgroup2_mount)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted"))
}

/// The version 2 hierarchy at `path`: that itself, or `path/unified` where the host has both versions.
pub fn hierarchy(path: &Path) -> Option<PathBuf> {
    let is_version_2 = |path: &PathBuf| {
        statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
    };
    [path.to_owned(), path.join("unified")].into_iter().find(is_version_2)
}

/// The calling process's own cgroup.
///
/// # Errors
/// No cgroup2 hierarchy, or it does not show this process (another cgroup namespace's mount).
pub fn own() -> io::Result<Cgroup> {
    let membership = std::fs::read_to_string("/proc/self/cgroup")?;
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not in a cgroup2 hierarchy"))?;
    Cgroup::open(&root()?.join(path))
}

/// Makes sure that this process sits in a cgroup that only agents use, as its members are never captured.
///
/// With `wanted`, joins it (made if missing) unless it is there already. Without, stays in its own,
/// unless that is the root of the hierarchy, which every process may share: then it joins `<root>/sotto`.
/// The root of a cgroup namespace, as in a container, is not that root.
///
/// # Errors
/// The cgroup cannot be made or joined.
pub fn settle(wanted: Option<&Path>) -> io::Result<Cgroup> {
    let target = match wanted {
        Some(path) => path.to_owned(),
        None => {
            let own = own()?;
            if !is_root(&own.path) {
                return Ok(own);
            }
            own.path.join("sotto")
        }
    };
    std::fs::create_dir_all(&target)?;
    let target = Cgroup::open(&target)?;
    // A container's own hierarchy is read-only, and nothing has to be written there.
    if !own().is_ok_and(|own| own.id == target.id) {
        std::fs::write(target.path.join("cgroup.procs"), std::process::id().to_string())?;
    }
    Ok(target)
}

/// Bytes of memory that a cgroup's processes may have, by its own limit; none where it has none.
///
/// # Errors
/// The limit cannot be read.
pub fn memory_limit(cgroup: &Cgroup) -> io::Result<Option<u64>> {
    let limit = match std::fs::read_to_string(cgroup.path.join("memory.max")) {
        Ok(limit) => limit,
        // The root has none, nor has a cgroup whose parent does not account memory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match limit.trim() {
        "max" => Ok(None),
        bytes => bytes.parse().map(Some).map_err(io::Error::other),
    }
}

/// Whether a cgroup, or any below it, has one of these ids, or is a container's by its name.
///
/// # Errors
/// The cgroup is not there, or cannot be listed.
pub fn holds_containers(cgroup: &Path, ids: &[u64]) -> io::Result<bool> {
    let name = cgroup.file_name().unwrap_or_default();
    if ids.contains(&Cgroup::open(cgroup)?.id)
        || container::is_of_containers(&name.to_string_lossy())
    {
        return Ok(true);
    }
    for entry in std::fs::read_dir(cgroup)? {
        let entry = entry?;
        // One that goes while we look holds nothing.
        if entry.file_type()?.is_dir() && holds_containers(&entry.path(), ids).unwrap_or(false) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a directory is the root of the whole hierarchy: the one cgroup without a type (cgroup-v2.rst,
/// "Core Interface Files").
fn is_root(path: &Path) -> bool {
    !path.join("cgroup.type").exists()
}

/// The mount point, if a line of mountinfo(5) is that of a cgroup2 file system but for
/// the host's in a container: seen from a cgroup namespace, its root is `/../..`.
fn cgroup2_mount(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let is_cgroup2 = filesystem.split(' ').next() == Some("cgroup2");
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (is_cgroup2 && !root.starts_with("/..")).then(|| PathBuf::from(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_found_where_it_is_mounted_and_beside_version_1() {
        let root = root().unwrap();
        assert_eq!(hierarchy(&root).as_ref(), Some(&root));
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(hierarchy(elsewhere.path()), None);
        std::os::unix::fs::symlink(&root, elsewhere.path().join("unified")).unwrap();
        assert_eq!(hierarchy(elsewhere.path()), Some(elsewhere.path().join("unified")));
    }

    #[test]
    fn finds_the_mount_of_a_hybrid_host() {
        let v1 = "40 39 0:33 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu";
        let v2 = "49 39 0:42 / /sys/fs/cgroup/unified rw,relatime shared:18 - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount(v1), None);
        assert_eq!(cgroup2_mount(v2), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn passes_over_the_hosts_mount_in_a_container() {
        let own = "502 492 0:27 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate";
        let host =
            "530 488 0:27 /../../.. /host/sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(own), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(cgroup2_mount(host), None);
    }

    #[test]
    fn a_cgroup_holds_itself_and_all_below() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, outer) = (dir.path().join("a/b"), dir.path().join("a"));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(dir.path().join("c")).unwrap();
        let id = |path: &Path| Cgroup::open(path).unwrap().id;
        assert!(holds_containers(&outer, &[0, id(&inner)]).unwrap());
        assert!(holds_containers(&inner, &[id(&inner)]).unwrap());
        assert!(!holds_containers(&dir.path().join("c"), &[id(&inner), id(&outer)]).unwrap());
        assert!(holds_containers(&dir.path().join("d"), &[0]).is_err());
        std::fs::create_dir_all(dir.path().join("c/kubepods")).unwrap();
        assert!(holds_containers(&dir.path().join("c"), &[]).unwrap());
    }

    #[test]
    fn the_root_of_a_hierarchy_has_no_type() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_root(dir.path()));
        std::fs::write(dir.path().join("cgroup.type"), "domain\n").unwrap();
        assert!(!is_root(dir.path()));
    }
}
