//! Where this node's container runtime has its network's files: by the runtime that runs, and its own configuration.
//!
//! What runs tells which file is meant: a node may have the configuration of another runtime, or of another containerd,
//! than the one that starts its pods. Where nothing runs, or nothing can be seen, the files alone tell.

mod containerd;
mod crio;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::Host;
use crate::sys::cgroup::container::is_of_containers;

/// Where the CNI specification's own tools look, and runtimes that are told nothing.
const BIN_DIR: &str = "/opt/cni/bin";
const CONF_DIR: &str = "/etc/cni/net.d";

/// Programs that start pods.
const RUNTIMES: [(&str, Kind); 3] =
    [("containerd", Kind::Containerd), ("crio", Kind::Crio), ("cri-dockerd", Kind::CriDockerd)];

/// Where configurations are, if no runtime is seen: those of distributions first, as they bring a runtime of their own.
const FILES: [(&str, Kind); 7] = [
    ("/var/lib/rancher/k3s/agent/etc/containerd/config.toml", Kind::Containerd),
    ("/var/lib/rancher/rke2/agent/etc/containerd/config.toml", Kind::Containerd),
    ("/var/snap/microk8s/current/args/containerd.toml", Kind::Containerd),
    ("/etc/k0s/containerd.toml", Kind::Containerd),
    (crio::FILE, Kind::Crio),
    (crio::DIR, Kind::Crio),
    (containerd::FILE, Kind::Containerd),
];

/// A container runtime's directories, as paths of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Where it runs plugins from.
    pub bin_dir: PathBuf,
    /// Where it reads the network's configuration.
    pub conf_dir: PathBuf,
    /// What says so.
    pub source: String,
}

/// Why they are not known.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// This is a container that does not have them.
    #[error(
        "the node's files are not here: mount its root at /host, or give --bin-dir and --conf-dir"
    )]
    NoFiles,
    /// Nothing tells.
    #[error(
        "no container runtime is known here (looked for containerd, CRI-O and cri-dockerd among the node's processes, \
         and for their configuration): give --bin-dir and --conf-dir"
    )]
    NoRuntime,
    /// Several could be meant.
    #[error(
        "several container runtimes could start this node's pods: {0}; give --bin-dir and --conf-dir"
    )]
    Several(String),
    /// A configuration cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A configuration is not sound.
    #[error("{} is no configuration of a container runtime", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Containerd,
    Crio,
    CriDockerd,
}

/// How a runtime was started.
#[derive(Debug)]
struct Started {
    kind: Kind,
    arguments: Vec<String>,
}

/// Finds them.
///
/// # Errors
/// Nothing tells, too much does, or a configuration cannot be read.
pub fn find(host: &Host) -> Result<Layout, LayoutError> {
    if !host.path(Path::new("/etc")).is_dir() {
        return Err(LayoutError::NoFiles);
    }
    let mut found = Vec::new();
    for started in running(host)? {
        found.extend(started.layout(host)?);
    }
    if found.is_empty() {
        found.extend(by_files(host)?);
    }
    chosen(host, found)
}

/// The one that is meant: of several, the only one that has a network.
fn chosen(host: &Host, mut found: Vec<Layout>) -> Result<Layout, LayoutError> {
    let mut distinct: Vec<Layout> = Vec::new();
    for one in found.drain(..) {
        let same =
            |other: &Layout| (&other.bin_dir, &other.conf_dir) == (&one.bin_dir, &one.conf_dir);
        if !distinct.iter().any(same) {
            distinct.push(one);
        }
    }
    if distinct.len() > 1 {
        let has_network = |one: &Layout| {
            super::files::considered(&host.path(&one.conf_dir)).is_ok_and(|files| !files.is_empty())
        };
        let with: Vec<_> = distinct.iter().filter(|one| has_network(one)).cloned().collect();
        if with.len() == 1 {
            distinct = with;
        }
    }
    match distinct.len() {
        0 => Err(LayoutError::NoRuntime),
        1 => Ok(distinct.remove(0)),
        _ => {
            let names: Vec<_> = distinct.iter().map(ToString::to_string).collect();
            Err(LayoutError::Several(names.join("; ")))
        }
    }
}

/// The runtimes among the node's own processes. Those in containers start no pods of this node.
fn running(host: &Host) -> Result<Vec<Started>, LayoutError> {
    let proc = host.proc();
    let failed = |source| LayoutError::Read { path: proc.clone(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&proc).map_err(failed)? {
        let place = entry.map_err(failed)?.path();
        // One that ends while we look starts nothing any more.
        let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap_or_default();
        let program = read("comm");
        let Some((_, kind)) = RUNTIMES.iter().find(|(name, _)| *name == program.trim_end()) else {
            continue;
        };
        if read("cgroup").lines().flat_map(|line| line.split('/')).any(is_of_containers) {
            continue;
        }
        let arguments = read("cmdline").split('\0').skip(1).map(str::to_owned).collect();
        found.push(Started { kind: *kind, arguments });
    }
    Ok(found)
}

fn by_files(host: &Host) -> Result<Vec<Layout>, LayoutError> {
    let mut found = Vec::new();
    for (path, kind) in FILES {
        if host.path(Path::new(path)).exists() {
            let arguments = if kind == Kind::Containerd {
                vec![String::from("--config"), path.to_owned()]
            } else {
                Vec::new()
            };
            found.extend(Started { kind, arguments }.layout(host)?);
        }
    }
    Ok(found)
}

impl Started {
    /// Its directories; none if it starts no pods.
    fn layout(&self, host: &Host) -> Result<Option<Layout>, LayoutError> {
        match self.kind {
            Kind::Containerd => containerd::layout(host, self),
            Kind::Crio => crio::layout(host, self).map(Some),
            Kind::CriDockerd => Ok(Some(Layout {
                bin_dir: self.first_dir(host, self.flag(&["--cni-bin-dir"]), BIN_DIR),
                conf_dir: self.flag(&["--cni-conf-dir"]).unwrap_or(CONF_DIR).into(),
                source: String::from("cri-dockerd's flags"),
            })),
        }
    }

    /// The value of a flag, by any of its names.
    fn flag(&self, names: &[&str]) -> Option<&str> {
        let mut arguments = self.arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            if names.contains(&argument) {
                return arguments.next();
            }
            if let Some((name, value)) = argument.split_once('=')
                && names.contains(&name)
            {
                return Some(value);
            }
        }
        None
    }

    /// Of a list, the first directory that there is.
    fn first_dir(&self, host: &Host, list: Option<&str>, default: &str) -> PathBuf {
        let all: Vec<String> = list.unwrap_or(default).split(',').map(str::to_owned).collect();
        first_dir(host, &all).unwrap_or_else(|| default.into())
    }
}

/// The first directory that there is, or the first.
fn first_dir(host: &Host, all: &[String]) -> Option<PathBuf> {
    let there = all.iter().find(|dir| host.path(Path::new(dir)).is_dir());
    there.or_else(|| all.first()).map(PathBuf::from)
}

/// A configuration; none if it is not there.
fn read(host: &Host, path: &Path) -> Result<Option<toml::Table>, LayoutError> {
    let text = match std::fs::read_to_string(host.path(path)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LayoutError::Read { path: path.to_owned(), source }),
    };
    let broken = |source| LayoutError::Broken { path: path.to_owned(), source: Box::new(source) };
    text.parse().map(Some).map_err(broken)
}

/// The files of a directory with this extension, by name; none if it is not there.
fn files_in(host: &Host, dir: &Path, extension: Option<&str>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(host.path(dir)).into_iter().flatten().flatten();
    let fits = |path: &PathBuf| match extension {
        Some(wanted) => path.extension().is_some_and(|found| found == wanted),
        None => true,
    };
    let mut files: Vec<_> = entries.map(|entry| dir.join(entry.file_name())).filter(fits).collect();
    files.sort();
    files
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bin, conf) = (self.bin_dir.display(), self.conf_dir.display());
        write!(f, "plugins in {bin}, configuration in {conf} ({})", self.source)
    }
}
