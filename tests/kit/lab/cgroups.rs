//! Cgroups for threads: one domain for the process, below it a subtree for each lab.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use sotto::sys::cgroup;

use super::Place;

/// The cgroups of one lab; removed with it, as far as its threads have ended.
#[derive(Debug)]
pub struct Cgroups {
    node: PathBuf,
}

/// Labs alive in this process; the last one removes the domain.
static ALIVE: Mutex<usize> = Mutex::new(0);

impl Cgroups {
    /// Makes `<domain>/<id>/{agent,kubelet,apps}`.
    pub(super) fn create(id: &str) -> Result<Self> {
        let mut alive = ALIVE.lock();
        let domain = domain()?;
        if *alive == 0 {
            std::fs::create_dir_all(&domain)?;
            std::fs::write(domain.join("cgroup.procs"), std::process::id().to_string())
                .context("failed to move the test into its cgroup")?;
        }
        *alive += 1;
        let node = domain.join(id);
        for path in [node.clone(), node.join("agent"), node.join("kubelet"), node.join("apps")] {
            make(&path)?;
        }
        Ok(Self { node })
    }

    /// Removes and makes a place that no thread is in.
    pub(super) fn remake(&self, place: Place) -> Result<()> {
        let path = self.path(place);
        remove_directory(&path)?;
        make(&path)
    }

    /// The root of the lab's cgroups.
    pub(super) fn node(&self) -> PathBuf {
        self.node.clone()
    }

    /// What all labs of this process are in.
    pub(super) fn above(&self) -> Result<PathBuf> {
        domain()
    }

    /// The directory of a place.
    pub(super) fn path(&self, place: Place) -> PathBuf {
        self.node.join(match place {
            Place::Agent => "agent",
            Place::Kubelet => "kubelet",
            Place::App => "apps",
        })
    }

    /// The id of a place.
    pub(super) fn id(&self, place: Place) -> Result<u64> {
        Ok(cgroup::Cgroup::open(&self.path(place))?.id)
    }

    /// Moves the calling thread.
    pub(super) fn join(&self, place: Place) -> Result<()> {
        move_thread(&self.path(place))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let mut alive = ALIVE.lock();
        *alive -= 1;
        let last = *alive == 0;
        if let Err(error) = remove(&self.node, last) {
            eprintln!("lab: failed to remove its cgroups: {error:#}");
        }
    }
}

fn make(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::write(path.join("cgroup.type"), "threaded")
        .with_context(|| format!("failed to make {} threaded", path.display()))
}

fn domain() -> Result<PathBuf> {
    Ok(cgroup::root()?.join(format!("sotto-lab-{}", std::process::id())))
}

fn move_thread(to: &Path) -> Result<()> {
    let thread = nix::unistd::gettid();
    std::fs::write(to.join("cgroup.threads"), thread.to_string())
        .with_context(|| format!("failed to join {}", to.display()))
}

fn remove(node: &Path, last: bool) -> Result<()> {
    let domain = domain()?;
    if last {
        std::fs::write(cgroup::root()?.join("cgroup.procs"), std::process::id().to_string())?;
    } else {
        move_thread(&domain)?;
    }
    for child in ["agent", "kubelet", "apps"] {
        remove_directory(&node.join(child))?;
    }
    remove_directory(node)?;
    if last { remove_directory(&domain) } else { Ok(()) }
}

/// Threads that were joined may take a moment to leave their cgroup.
fn remove_directory(path: &Path) -> Result<()> {
    for _ in 0..200 {
        match std::fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return Ok(other?),
        }
    }
    anyhow::bail!("{} stays busy", path.display())
}
