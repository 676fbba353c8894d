//! Control groups of the kit: one tree per run, so that one write ends every process of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

/// Where cgroup2 is mounted; mounted for the kit if the host has it nowhere.
///
/// # Errors
/// The kernel has no cgroup2, or it cannot be mounted.
pub fn mount_point() -> Result<PathBuf> {
    if let Some(found) = find_mount("cgroup2")? {
        return Ok(found);
    }
    let target = Path::new("/run/sotto-kit-cgroup2");
    fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
    mount(Some("cgroup2"), target, Some("cgroup2"), MsFlags::empty(), None::<&str>)
        .context("mount cgroup2: the kernel needs CONFIG_CGROUPS and cgroup v2")?;
    Ok(target.to_path_buf())
}

/// Mounts the BPF file system at `/sys/fs/bpf` if it is not there, as systemd does.
///
/// # Errors
/// The kernel has no BPF file system.
pub fn ensure_bpffs() -> Result<()> {
    if find_mount("bpf")?.is_some() {
        return Ok(());
    }
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), Some("mode=700"))
        .context("mount the BPF file system at /sys/fs/bpf")
}

fn find_mount(kind: &str) -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(mounts.lines().find_map(|line| parse_mount(line, kind)))
}

/// The mount point of a line of mountinfo (proc(5)), if its file system is `kind`.
fn parse_mount(line: &str, kind: &str) -> Option<PathBuf> {
    let (left, right) = line.split_once(" - ")?;
    (right.split(' ').next()? == kind).then(|| left.split(' ').nth(4).map(PathBuf::from))?
}

/// Makes the cgroup `path` and its parents.
pub fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make the cgroup {}", path.display()))
}

/// Kills every process in `path` and below, and waits until none is left.
///
/// # Errors
/// Processes are still there after five seconds.
pub fn kill(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::write(path.join("cgroup.kill"), "1")
        .with_context(|| format!("kill the cgroup {}", path.display()))?;
    let started = Instant::now();
    while populated(path) {
        if started.elapsed() > Duration::from_secs(5) {
            bail!("processes in {} do not die", path.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
}

/// Kills what is in `path` and removes it with all below.
///
/// # Errors
/// A process does not die or the kernel keeps a group.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    kill(path)?;
    remove_empty(path)
}

fn remove_empty(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    // A killed process may hold its group for a moment longer than `populated` tells.
    let mut last = fs::remove_dir(path);
    for _ in 0..200 {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
        last = fs::remove_dir(path);
    }
    last.with_context(|| format!("remove the cgroup {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_gives_the_mount_point_of_a_kind() {
        let line = "30 25 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(parse_mount(line, "cgroup2"), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(parse_mount(line, "bpf"), None);
        assert_eq!(parse_mount("garbage", "bpf"), None);
    }
}
