//! Namespaces of the kit, entered by threads of their own: networks, pinned under `/run/netns`, and nodes' PIDs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::process::{Child, Command};

use crate::command;

/// Where named network namespaces are pinned.
const PINS: &str = "/run/netns";

/// The pin of the network namespace `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(PINS).join(name)
}

/// Makes and pins a network namespace, with its loopback up.
pub fn add(name: &str) -> Result<()> {
    command::ip(&format!("netns add {name}"))?;
    command::ip(&format!("-n {name} link set lo up"))?;
    Ok(())
}

/// Unpins a network namespace; it goes away with its last process and socket.
pub fn remove(name: &str) -> Result<()> {
    let pin = path(name);
    if !pin.exists() {
        return Ok(());
    }
    // Not mounted when the maker was killed between making the file and the mount.
    match umount2(&pin, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(error).with_context(|| format!("unmount {}", pin.display())),
    }
    fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))
}

/// The names of pinned namespaces that start with `prefix`.
pub fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(PINS) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Runs `f` inside the network namespace pinned as `name`, on a thread made for it.
///
/// # Errors
/// The namespace is gone, or `f` panicked.
pub fn within<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
    let pin = path(name);
    let netns = File::open(&pin).with_context(|| format!("open {}", pin.display()))?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || setns(&netns, CloneFlags::CLONE_NEWNET).map(|()| f()));
        let entered = worker.join().map_err(|_| anyhow!("a thread in {name} panicked"))?;
        entered.with_context(|| format!("enter the network namespace {name}"))
    })
}

/// Writes sysctls (`net/ipv4/ip_forward`, value) inside the namespace `name`.
pub fn sysctl(name: &str, settings: &[(&str, &str)]) -> Result<()> {
    within(name, || {
        for (key, value) in settings {
            let file = Path::new("/proc/sys").join(key);
            fs::write(&file, value).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    })?
}

/// Starts a command in the PID namespace of a process.
///
/// # Errors
/// The process is gone, or the command cannot be started.
pub fn start_beside(process: u32, command: &mut Command) -> std::io::Result<Child> {
    let pids = File::open(format!("/proc/{process}/ns/pid"))?;
    in_pids(move || setns(pids, CloneFlags::CLONE_NEWPID), command)
}

/// Starts a command as the first process of a new PID namespace.
///
/// # Errors
/// Not root, or the command cannot be started.
pub fn start_first(command: &mut Command) -> std::io::Result<Child> {
    in_pids(|| unshare(CloneFlags::CLONE_NEWPID), command)
}

/// Starts a command from a thread whose children, and only they, are in another PID namespace: so they are ours to
/// wait for and to signal like any.
fn in_pids(
    leave: impl FnOnce() -> nix::Result<()> + Send,
    command: &mut Command,
) -> std::io::Result<Child> {
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let _runtime = runtime.enter();
            leave()?;
            command.spawn()
        });
        thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")))
    })
}
