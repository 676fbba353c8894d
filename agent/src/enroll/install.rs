//! Puts the CNI plugin on a node and takes it off again.
//!
//! In: the node's directories of plugins and of network configuration. Out: this very binary as the
//! plugin, and a list of our own, made of the network's plugins and ours. It sorts first, so it is the
//! one that the container runtime uses; the network's own file stays as it is. So nothing is lost when
//! the network's installer rewrites that, as many do at every boot: our list is still there, and pods of
//! enrolled namespaces wait for the agent from the first moment on.
//!
//! A node must start pods whatever happens here. So the list is written only when the program in the
//! runtime's own directory has answered as a plugin, every plugin of the list is there, and the agent of
//! this node has been ready once; and every file changes in one step.

mod chosen;
pub mod conflist;
mod files;
mod keep;
pub mod layout;
pub mod owner;
mod program;
pub mod rival;
pub mod taint;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use self::conflist::{Conflist, ConflistError, Entry, PLUGIN};
use super::enrolled;
use crate::sys::file;

pub use self::keep::keep;
pub use self::program::{ProofError, own};

/// Where a node keeps its plugins and configuration, and what the plugin is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The program to be the plugin.
    pub program: PathBuf,
    /// Directory of the plugins' binaries.
    pub bin_dir: PathBuf,
    /// Directory of the network configurations.
    pub conf_dir: PathBuf,
    /// Name of our list.
    pub list_name: String,
    /// The agent's socket, as seen on the node.
    pub socket: PathBuf,
    /// The agent's directory of state, the same path here and on the node.
    pub state_dir: PathBuf,
    /// The agent's namespace.
    pub agent_namespace: String,
    /// Namespaces that never wait; none: as they are.
    pub exempt_namespaces: Option<Vec<String>>,
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
    #[error("no network configuration in {}: is the cluster's network installed on this node? \
             (--conf-dir is to be the container runtime's `conf_dir`)", .0.display())]
    NoNetwork(PathBuf),
    /// The first file is none that a runtime could use.
    #[error("{} comes first but is no network configuration: remove it, or wait until it is written",
            path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConflistError,
    },
    /// Another file sorts before our list.
    #[error("{} would be used before our list {list}: give ours an earlier name with --list-name",
            first.display())]
    NotFirst {
        /// The other file.
        first: PathBuf,
        /// Our list's name.
        list: String,
    },
    /// A plugin of the network is not where it should be.
    #[error("plugin {kind:?} of {} is not in {}: this is not the directory that the container \
             runtime runs plugins from; set --bin-dir (CNI_BIN_DIR) to its `bin_dir`",
            list.display(), bin_dir.display())]
    WrongBinDir {
        /// The plugin.
        kind: String,
        /// The network's file.
        list: PathBuf,
        /// Where it was looked for.
        bin_dir: PathBuf,
    },
    /// The program is there and would not work.
    #[error("{} cannot serve as the plugin, so it is not put into the network", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why.
        source: ProofError,
    },
    /// The agent of this node was never ready.
    #[error("waiting until the agent of this node is ready for the first time ({} is not there yet)",
            .0.display())]
    NoAgentYet(PathBuf),
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
/// A file cannot be read or changed, or the plugin could not work there.
pub async fn ensure(node: &Node, wanted: Wanted) -> Result<bool, InstallError> {
    match wanted {
        Wanted::Installed => {
            let copied = put_program(node).await?;
            Ok(put_list(node)? || copied)
        }
        Wanted::Removed => remove(node),
    }
}

impl Node {
    fn list(&self) -> PathBuf {
        self.conf_dir.join(&self.list_name)
    }

    fn plugin(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    fn enrolled_list(&self) -> PathBuf {
        enrolled::file_in(&self.state_dir)
    }

    /// Our list as it is, if it is sound.
    fn current(&self) -> Option<Conflist> {
        Conflist::parse(&std::fs::read_to_string(self.list()).ok()?).ok()
    }
}

async fn put_program(node: &Node) -> Result<bool, InstallError> {
    let (from, to) = (node.program.clone(), node.plugin());
    let copying = tokio::task::spawn_blocking(move || program::copy(&from, &to));
    let copied = copying.await.map_err(|panicked| write(&node.plugin())(panicked.into()))??;
    program::prove(&node.plugin()).await?;
    Ok(copied)
}

/// Writes our list anew, in step with the network's own.
fn put_list(node: &Node) -> Result<bool, InstallError> {
    let enrolled_list = node.enrolled_list();
    let before = node.current();
    // What is installed is kept in step, whatever became of the agent's state.
    if before.is_none() && !enrolled_list.exists() {
        return Err(InstallError::NoAgentYet(enrolled_list));
    }
    let (path, primary) = files::primary(node)?;
    for kind in primary.kinds().filter(|kind| *kind != PLUGIN) {
        // A link whose target is seen on the node alone is there, too.
        if std::fs::symlink_metadata(node.bin_dir.join(kind)).is_err() {
            return Err(InstallError::WrongBinDir {
                kind: kind.to_owned(),
                list: path,
                bin_dir: node.bin_dir.clone(),
            });
        }
    }
    let entry = Entry {
        socket: &node.socket.to_string_lossy(),
        agent_namespace: &node.agent_namespace,
        enrolled_list: &enrolled_list.to_string_lossy(),
        exempt: node.exempt_namespaces.as_deref(),
    };
    let source = path.file_name().unwrap_or_default().to_string_lossy();
    let ours = before.as_ref().and_then(Conflist::ours);
    let list = primary.with_plugin(&source, &entry, ours);
    if before.as_ref() == Some(&list) {
        return Ok(false);
    }
    let mode = program::mode(&path)?;
    file::replace(&node.list(), list.render().as_bytes(), mode).map_err(write(&node.list()))?;
    Ok(true)
}

/// The list first: one that names a plugin which is not there would stop every pod of the node. So an
/// entry in another file goes too, wherever it comes from.
fn remove(node: &Node) -> Result<bool, InstallError> {
    let mut changed = file::remove(&node.list()).map_err(write(&node.list()))?;
    let others = if node.conf_dir.exists() { files::considered(&node.conf_dir)? } else { vec![] };
    for path in others {
        let text = std::fs::read_to_string(&path).map_err(read(&path))?;
        let Some(without) = Conflist::parse(&text).ok().and_then(|list| list.without_plugin())
        else {
            continue;
        };
        let mode = program::mode(&path)?;
        file::replace(&path, without.render().as_bytes(), mode).map_err(write(&path))?;
        changed = true;
    }
    for path in [node.plugin(), node.enrolled_list()] {
        changed |= file::remove(&path).map_err(write(&path))?;
    }
    Ok(changed)
}

fn read(path: &Path) -> impl Fn(io::Error) -> InstallError {
    move |source| InstallError::Read { path: path.to_owned(), source }
}

fn write(path: &Path) -> impl Fn(io::Error) -> InstallError {
    move |source| InstallError::Write { path: path.to_owned(), source }
}
