//! One run of the kit, and the end of everything it made: at drop, at a signal, or at the start of
//! the next run when this one was killed.
//!
//! All that a run makes outside its processes can be found by its id alone, so that a later run
//! removes it without having known it: namespaces `kit-<id>-*`, the cgroup `kit-<id>`, pins under
//! `/sys/fs/bpf/sotto-kit-<id>`, files under `/run/sotto-kit/<id>`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::{cgroup, netns};

/// Where runs keep their files.
const BASE: &str = "/run/sotto-kit";
const STATE: &str = "state.json";

/// A run of the kit. Dropping it removes all it made.
#[derive(Debug)]
pub struct Run {
    id: String,
    cgroups: PathBuf,
}

/// Who made a run: a process is itself only as long as its start time is the same.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Owner {
    pid: u32,
    start_ticks: u64,
}

impl Run {
    /// Removes what dead runs left, then claims a new id.
    ///
    /// # Errors
    /// No cgroup2, or `/run` is not writable.
    pub fn claim() -> Result<Self> {
        let cgroups = cgroup::mount_point()?;
        let _lock = lock()?;
        for id in dead_runs() {
            for error in remove(&cgroups, &id) {
                tracing::warn!(run = id, "left by an earlier run: {error:#}");
            }
        }
        let id = format!("{:06x}", rand::random::<u32>() & 0x00ff_ffff);
        let run = Self { id, cgroups };
        let owner = Owner::of(std::process::id()).context("read our own start time")?;
        fs::create_dir_all(run.dir()).with_context(|| format!("make {}", run.dir().display()))?;
        fs::write(run.dir().join(STATE), serde_json::to_vec(&owner)?)?;
        cgroup::create(&run.cgroup())?;
        Ok(run)
    }

    /// The id: six hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory of this run's files.
    pub fn dir(&self) -> PathBuf {
        Path::new(BASE).join(&self.id)
    }

    /// The name of this run's network namespace `suffix`.
    pub fn netns(&self, suffix: &str) -> String {
        format!("kit-{}-{suffix}", self.id)
    }

    /// The cgroup that holds every process of this run.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroups.join(format!("kit-{}", self.id))
    }

    /// Where this run's agents pin their programs.
    pub fn pins(&self) -> PathBuf {
        pins(&self.id)
    }

    /// Removes all this run made; goes on after errors and returns them.
    pub fn remove(&self) -> Vec<anyhow::Error> {
        match lock() {
            Ok(_lock) => remove(&self.cgroups, &self.id),
            Err(error) => vec![error],
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for error in self.remove() {
            tracing::error!(run = self.id, "clean up: {error:#}");
        }
    }
}

impl Owner {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start_ticks: start_ticks(&stat)? })
    }

    fn alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// The directories of runs whose process lives.
pub fn living() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(BASE) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|dir| owned(dir)).collect()
}

/// What of the run `id` is still on this machine, in words; empty after a good clean-up.
pub fn traces(id: &str) -> Vec<String> {
    let mut found = netns::list(&format!("kit-{id}-"));
    let cgroup = cgroup::mount_point().map(|root| root.join(format!("kit-{id}")));
    let paths = cgroup.into_iter().chain([pins(id), Path::new(BASE).join(id)]);
    found.extend(paths.filter(|path| path.exists()).map(|path| path.display().to_string()));
    found
}

fn pins(id: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("sotto-kit-{id}"))
}

fn lock() -> Result<Flock<File>> {
    fs::create_dir_all(BASE).with_context(|| format!("make {BASE}"))?;
    let file = File::create(Path::new(BASE).join("lock")).context("open the kit's lock")?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("lock the kit")
}

/// Ids of runs whose owner is gone. Called under the lock, so a run being claimed is never seen.
fn dead_runs() -> Vec<String> {
    let Ok(entries) = fs::read_dir(BASE) else { return Vec::new() };
    let dirs = entries.flatten().filter(|entry| entry.path().is_dir());
    dirs.filter(|entry| !owned(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn owned(dir: &Path) -> bool {
    let state = fs::read(dir.join(STATE)).unwrap_or_default();
    serde_json::from_slice::<Owner>(&state).is_ok_and(|owner| owner.alive())
}

fn remove(cgroups: &Path, id: &str) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    let group = cgroups.join(format!("kit-{id}"));
    errors.extend(cgroup::remove(&group).err());
    for name in netns::list(&format!("kit-{id}-")) {
        errors.extend(netns::remove(&name).err());
    }
    for dir in [pins(id), Path::new(BASE).join(id)] {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                errors
                    .push(anyhow::Error::from(error).context(format!("remove {}", dir.display())));
            }
            _ => {}
        }
    }
    errors
}

/// The start time (field 22) of a line of `/proc/<pid>/stat`, unless the process is dead and only
/// not waited for yet. The name before may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let lives = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| lives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_after_any_name() {
        let stat = "7 (a) b ) S 1 7 7 0 -1 4194560 1 0 0 0 5 6 0 0 20 0 1 0 424242 1000 2";
        assert_eq!(start_ticks(stat), Some(424_242));
        assert_eq!(start_ticks(""), None);
        assert_eq!(start_ticks(&stat.replace(" S ", " Z ")), None);
    }

    #[test]
    fn a_process_with_another_start_time_is_another_process() {
        let me = Owner::of(std::process::id()).unwrap();
        assert!(me.alive());
        assert!(!Owner { pid: me.pid, start_ticks: me.start_ticks + 1 }.alive());
    }
}
