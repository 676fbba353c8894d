//! The files of the runtime's configuration directory, and the one that is the network's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::conflist::Conflist;
use super::{InstallError, Node, read};

/// A plugin that stands before the node's network and calls it: it chooses the first file by name that is
/// not its own, which is ours.
const MULTUS: [&str; 2] = ["multus", "multus-shim"];

/// The files that a container runtime considers, in its order.
pub(super) fn considered(dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read(dir))? {
        let path = entry.map_err(read(dir))?.path();
        let considered = ["conf", "conflist", "json"].map(OsStr::new);
        if path.extension().is_some_and(|extension| considered.contains(&extension))
            && path.is_file()
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The network's own configuration: the first by name that is not ours.
///
/// One that cannot be read is not passed over, as it may be in the making; the next, such as podman's,
/// need not be a network for pods.
///
/// # Errors
/// There is none, it is unsound, or it would be used before our list.
pub(super) fn primary(node: &Node) -> Result<(PathBuf, Conflist), InstallError> {
    let ours = node.list();
    for path in considered(&node.conf_dir)?.into_iter().filter(|path| *path != ours) {
        let text = std::fs::read_to_string(&path).map_err(read(&path))?;
        let list = Conflist::parse(&text)
            .map_err(|source| InstallError::Broken { path: path.clone(), source })?;
        if list.kinds().any(|kind| MULTUS.contains(&kind)) {
            continue;
        }
        if path < ours {
            return Err(InstallError::NotFirst { first: path, list: node.list_name.clone() });
        }
        return Ok((path, list));
    }
    Err(InstallError::NoNetwork(node.conf_dir.clone()))
}
