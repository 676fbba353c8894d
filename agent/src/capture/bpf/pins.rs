//! Where things are pinned.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sotto_abi::names;

use super::error::BpfError;
use crate::mesh::PodUid;
use crate::sys;
use crate::sys::bpf::{detach_link, open_pinned};

/// The pin directory's layout.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
}

/// The pins of one pod.
#[derive(Debug, Clone)]
pub(super) struct PodPins {
    pub(super) directory: PathBuf,
}

impl Pins {
    /// The layout below `root`, made if it is not there.
    pub(super) fn create(root: &Path) -> Result<Self, BpfError> {
        let pins = Self::below(root);
        for directory in [pins.maps(), pins.links(), pins.pods()] {
            sys::bpf::ensure_pin_directory(&directory)
                .map_err(BpfError::file("create", &directory))?;
        }
        Ok(pins)
    }

    /// The layout below `root`.
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(names::MAPS_DIRECTORY)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join(names::LINKS_DIRECTORY)
    }

    pub(super) fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Detaches one of the node's programs, if it is attached.
    pub(super) fn detach_link(&self, program: &str) -> Result<(), BpfError> {
        detach(&self.link(program))
    }

    fn pods(&self) -> PathBuf {
        self.root.join(names::PODS_DIRECTORY)
    }

    /// The pins of a pod.
    pub(super) fn pod(&self, uid: &PodUid) -> Result<PodPins, BpfError> {
        let name = uid.0.as_str();
        // BPF file systems refuse dots; a name with a slash would leave the directory.
        if name.is_empty() || name.contains(['/', '.']) {
            return Err(BpfError::Uid(name.to_owned()));
        }
        Ok(PodPins { directory: self.pods().join(name) })
    }

    /// The pods that have pins.
    pub(super) fn all_pods(&self) -> Result<Vec<(PodUid, PodPins)>, BpfError> {
        let directory = self.pods();
        let failed = |source| BpfError::file("read", &directory)(source);
        let mut pods = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let uid = PodUid(entry.file_name().to_string_lossy().as_ref().into());
            pods.push((uid, PodPins { directory: entry.path() }));
        }
        Ok(pods)
    }
}

impl PodPins {
    pub(super) fn link(&self) -> PathBuf {
        self.directory.join(names::POD_LINK)
    }

    pub(super) fn socks(&self) -> PathBuf {
        self.directory.join(names::POD_SOCKS)
    }

    pub(super) fn config(&self) -> PathBuf {
        self.directory.join(names::POD_CONFIG)
    }

    /// Makes the directory.
    pub(super) fn create(&self) -> Result<(), BpfError> {
        std::fs::create_dir_all(&self.directory).map_err(BpfError::file("create", &self.directory))
    }

    /// Takes the pod's program out of its namespace. Without its pin alone it would go on for a moment, and
    /// refuse connections for sockets that are closed by then.
    pub(super) fn detach(&self) -> Result<(), BpfError> {
        detach(&self.link())
    }

    /// Removes the link first, so that nothing is handed to sockets that are about to go, then the rest.
    pub(super) fn remove(&self) -> Result<(), BpfError> {
        self.detach()?;
        match std::fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(BpfError::file("remove", &self.directory)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Detaches a pinned link and removes the pin, if it is there.
fn detach(pin: &Path) -> Result<(), BpfError> {
    match open_pinned(pin) {
        Ok(link) => detach_link(link.as_fd()).map_err(BpfError::file("detach", pin))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(BpfError::file("open", pin)(error)),
    }
    remove_file(pin)
}

/// Removes a pin, if it is there.
pub(super) fn remove_file(path: &Path) -> Result<(), BpfError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BpfError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
