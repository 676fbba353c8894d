//! What can go wrong with the kernel's side.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapError;

use super::super::routing::RoutingError;
use crate::mesh::PodUid;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// A file, directory or pin.
    #[error("failed to {action} {}", path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// With which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The object cannot be loaded.
    #[error("failed to load the eBPF object")]
    Object(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The object lacks a part: it is not of this version.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// A program is refused by the verifier, or cannot be attached.
    #[error("failed to {action} the eBPF program {program}")]
    Program {
        /// What was to be done.
        action: &'static str,
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map refuses.
    #[error("failed to {action} the eBPF map {map}")]
    Map {
        /// What was to be done.
        action: &'static str,
        /// Which.
        map: &'static str,
        /// Why.
        #[source]
        source: Box<MapError>,
    },
    /// The namespace is another pod's.
    #[error("the network namespace is held by the pod with UID {0}")]
    Held(PodUid),
    /// The namespace's cookie cannot be read.
    #[error("failed to identify the pod's network namespace")]
    Cookie(#[source] io::Error),
    /// What shows that programs run cannot be made.
    #[error("failed to make sockets that show whether the programs run (is lo up?)")]
    Canary(#[source] io::Error),
    /// The programs are attached, and have no effect.
    #[error("the programs on getpeername(2) do not run for {}", root.display())]
    NotShown {
        /// Where they are attached.
        root: PathBuf,
    },
    /// Connections with stand-ins of other ranges may be open.
    #[error(
        "stand-ins are in other ranges than {0:?} on this node: drain it and `sotto bpf unload` first"
    )]
    OtherRanges(super::super::StandInRanges),
    /// The pod's name would leave its directory.
    #[error("{0:?} cannot be a pod's uid")]
    Uid(String),
    /// Rules, routes or settings.
    #[error("failed to prepare the pod's routing")]
    Routing(#[from] RoutingError),
}

impl BpfError {
    pub(super) fn object(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Object(Box::new(source))
    }

    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    pub(super) fn map(action: &'static str, map: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { action, map, source: Box::new(source) }
    }

    pub(super) fn program<E>(action: &'static str, program: &'static str) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        move |source| Self::Program { action, program, source: Box::new(source) }
    }
}

/// A map's error when there is no such key: fine where the goal is that there is none.
pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}
