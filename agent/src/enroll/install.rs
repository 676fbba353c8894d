//! Puts the CNI plugin on a node and takes it off again.
//!
//! In: the node's directories of plugins and of network configuration. Out: this very binary as the
//! plugin, and one more entry in the configuration that the container runtime uses, which is the
//! first by name. Every file changes in one step: a runtime that reads it sees the old or the new.

pub mod conflist;

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::conflist::{PLUGIN, with_plugin, without_plugin};

/// How often [`keep`] looks whether the network's own installer has rewritten its configuration.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a configuration of a single plugin is renamed to, once a list stands for it: no runtime reads it.
const SAVED: &str = "before-sotto";

/// Where a node keeps its plugins and configuration, and where the plugin finds the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Directory of the plugins' binaries.
    pub bin_dir: PathBuf,
    /// Directory of the network configurations.
    pub conf_dir: PathBuf,
    /// The agent's socket, as seen on the node.
    pub socket: PathBuf,
}

/// What is to be on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The plugin, in the configuration.
    Installed,
    /// Neither.
    Removed,
}

/// Why the node could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No network is configured yet.
    #[error("no network configuration in {}: is the cluster's network installed on this node?", .0.display())]
    NoNetwork(PathBuf),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be changed.
    #[error("cannot change {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes the node as wanted, once. Tells whether anything changed; repeating it changes nothing.
///
/// # Errors
/// A file cannot be read or changed, or there is no network configuration to install into.
pub fn ensure(node: &Node, wanted: Wanted) -> Result<bool, InstallError> {
    match wanted {
        Wanted::Installed => install(node),
        Wanted::Removed => uninstall(node),
    }
}

/// Makes the node as wanted and keeps it so until stopped. What is installed stays when this stops,
/// so that no pod starts uncaptured while the agent is replaced.
///
/// Reads and writes files where it stands: give it a runtime of its own.
///
/// # Cancel safety
/// Stops between two looks only, so no change is left half done.
pub async fn keep(node: &Node, wanted: Wanted, stop: &CancellationToken) {
    let mut look: fn(&Node, Wanted) -> Result<bool, InstallError> = ensure;
    loop {
        match look(node, wanted) {
            Ok(changed) => {
                look = ensure_again;
                if changed {
                    info!(?wanted, conf_dir = %node.conf_dir.display(), "cni configuration changed");
                }
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(error, "cni configuration not changed, trying again");
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// As [`ensure`], without a look into a program that is there: cheap enough for every few seconds.
fn ensure_again(node: &Node, wanted: Wanted) -> Result<bool, InstallError> {
    match wanted {
        Wanted::Installed if node.bin_dir.join(PLUGIN).exists() => install_entry(node),
        wanted => ensure(node, wanted),
    }
}

/// The binary first: a configuration that names a missing plugin would stop every pod of the node.
fn install(node: &Node) -> Result<bool, InstallError> {
    let program = std::env::current_exe().map_err(read(Path::new("/proc/self/exe")))?;
    let copied = copy_program(&program, &node.bin_dir.join(PLUGIN))?;
    let added = install_entry(node)?;
    Ok(copied || added)
}

fn install_entry(node: &Node) -> Result<bool, InstallError> {
    let socket = node.socket.to_string_lossy();
    for path in configurations(&node.conf_dir)? {
        let text = std::fs::read_to_string(&path).map_err(read(&path))?;
        let Ok(change) = with_plugin(&text, &socket) else { continue };
        let Some(new) = change else { return Ok(false) };
        let list = path.with_extension("conflist");
        replace(&list, new.as_bytes(), mode(&path)?)?;
        if list != path {
            std::fs::rename(&path, saved(&path)).map_err(write(&path))?;
        }
        return Ok(true);
    }
    Err(InstallError::NoNetwork(node.conf_dir.clone()))
}

/// The configuration first, in every file: the first by name may have changed since.
fn uninstall(node: &Node) -> Result<bool, InstallError> {
    let mut changed = false;
    for path in configurations(&node.conf_dir)? {
        let text = std::fs::read_to_string(&path).map_err(read(&path))?;
        let Ok(Some(new)) = without_plugin(&text) else { continue };
        if let Some(original) = saved_of(&path) {
            std::fs::rename(saved(&original), &original).map_err(write(&original))?;
            std::fs::remove_file(&path).map_err(write(&path))?;
        } else {
            replace(&path, new.as_bytes(), mode(&path)?)?;
        }
        changed = true;
    }
    let program = node.bin_dir.join(PLUGIN);
    match std::fs::remove_file(&program) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(changed),
        Err(error) => Err(write(&program)(error)),
    }
}

/// The files that a container runtime considers, in its order.
fn configurations(dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read(dir))? {
        let path = entry.map_err(read(dir))?.path();
        let considered = ["conf", "conflist", "json"].map(OsStr::new);
        if path.extension().is_some_and(|extension| considered.contains(&extension)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `10-net.conf.before-sotto` of `10-net.conf`.
fn saved(original: &Path) -> PathBuf {
    let mut name = original.as_os_str().to_owned();
    name.push(".");
    name.push(SAVED);
    PathBuf::from(name)
}

/// The single-plugin configuration that this list stands for, if there is one.
fn saved_of(list: &Path) -> Option<PathBuf> {
    ["conf", "json"]
        .map(|extension| list.with_extension(extension))
        .into_iter()
        .find(|original| saved(original).exists())
}

fn copy_program(from: &Path, to: &Path) -> Result<bool, InstallError> {
    let program = std::fs::read(from).map_err(read(from))?;
    let is_there = match std::fs::read(to) {
        Ok(found) => found == program && mode(to)? & 0o111 != 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(read(to)(error)),
    };
    if !is_there {
        replace(to, &program, 0o755)?;
    }
    Ok(!is_there)
}

fn mode(path: &Path) -> Result<u32, InstallError> {
    Ok(std::fs::metadata(path).map_err(read(path))?.permissions().mode() & 0o777)
}

/// Gives `path` a new content in one step, also across a power cut.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    use std::io::Write;
    // Beside it, hidden, and with an extension that no runtime reads.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.sotto-new"));
    let put = || -> io::Result<()> {
        let mut file = std::fs::File::create(&new)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
    };
    put().map_err(write(path))
}

fn read(path: &Path) -> impl Fn(io::Error) -> InstallError {
    move |source| InstallError::Read { path: path.to_owned(), source }
}

fn write(path: &Path) -> impl Fn(io::Error) -> InstallError {
    move |source| InstallError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
