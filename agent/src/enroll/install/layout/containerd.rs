//! containerd's configuration, in all its versions (containerd-config.toml(5)).

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{BIN_DIR, CONF_DIR, Layout, LayoutError, Started, files_in, first_dir, read};
use crate::sys::Host;

/// Read unless it is told another.
pub(super) const FILE: &str = "/etc/containerd/config.toml";
/// The plugin that starts pods has its network's directories: in version 3 of the file, in 2, and in 1.
const PLUGINS: [&str; 3] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];

/// What is asked of a configuration.
#[derive(Debug, Default)]
struct Found {
    bin_dirs: Vec<String>,
    conf_dir: Option<String>,
    /// It starts no pods: it is Docker's, say.
    is_disabled: bool,
}

pub(super) fn layout(host: &Host, started: &Started) -> Result<Option<Layout>, LayoutError> {
    let told = started.flag(&["-c", "--config"]);
    let (path, mut found) = (told.unwrap_or(FILE), Found::default());
    let table = read(host, Path::new(path))?;
    // It runs among other files than the node's: what it reads is not known, and it starts no pods of this node.
    if told.is_some() && table.is_none() {
        return Ok(None);
    }
    if let Some(table) = table {
        // What is imported has the last word.
        let imported = imports(host, Path::new(path), &table);
        found.take(&table);
        for path in imported {
            if let Some(table) = read(host, &path)? {
                found.take(&table);
            }
        }
    }
    if found.is_disabled {
        return Ok(None);
    }
    Ok(Some(Layout {
        bin_dir: first_dir(host, &found.bin_dirs).unwrap_or_else(|| BIN_DIR.into()),
        conf_dir: found.conf_dir.unwrap_or_else(|| CONF_DIR.to_owned()).into(),
        source: format!("containerd's {path}"),
    }))
}

impl Found {
    fn take(&mut self, table: &Table) {
        let disabled = table.get("disabled_plugins").and_then(Value::as_array);
        self.is_disabled |= disabled.is_some_and(|all| {
            all.iter().filter_map(Value::as_str).any(|one| PLUGINS.contains(&one))
        });
        let plugins = table.get("plugins").and_then(Value::as_table);
        for plugin in PLUGINS {
            let cni = plugins.and_then(|all| all.get(plugin)?.get("cni")?.as_table());
            let Some(cni) = cni else { continue };
            let text =
                |key: &str| cni.get(key).and_then(Value::as_str).filter(|dir| !dir.is_empty());
            let list = cni.get("bin_dirs").and_then(Value::as_array);
            let list = list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            let list: Vec<_> = list.chain(text("bin_dir").map(str::to_owned)).collect();
            if !list.is_empty() {
                self.bin_dirs = list;
            }
            if let Some(dir) = text("conf_dir") {
                self.conf_dir = Some(dir.to_owned());
            }
        }
    }
}

/// The files that it imports, beside it unless they are told otherwise. Stars stand in the last part only, as in all that
/// distributions ship.
fn imports(host: &Host, path: &Path, table: &Table) -> Vec<PathBuf> {
    let list = table.get("imports").and_then(Value::as_array);
    let beside = path.parent().unwrap_or(path);
    let mut all = Vec::new();
    for pattern in list.into_iter().flatten().filter_map(Value::as_str) {
        let pattern = beside.join(pattern);
        match (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) {
            (Some(dir), Some(name)) if name.contains('*') => {
                let extension = name.rsplit_once('.').map(|(_, extension)| extension);
                all.extend(files_in(host, dir, extension));
            }
            _ => all.push(pattern),
        }
    }
    all
}
