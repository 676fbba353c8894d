//! The embedded object, and its loader, kept for pods: making one parses the kernel's type information,
//! which takes longer than all the rest.

use aya::{Ebpf, EbpfLoader};
use sotto_abi::names;

use super::error::BpfError;
use super::pins::{Pins, PodPins};

/// Built by `cargo xtask ebpf`; the build script makes sure that it fits the sources.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SOTTO_EBPF_OBJECT"));

/// Loads instances of the object. Shared maps are those pinned.
#[derive(Debug)]
pub(super) struct Object {
    pins: Pins,
    pod: EbpfLoader<'static>,
}

impl Object {
    pub(super) fn new(pins: &Pins) -> Self {
        Self { pins: pins.clone(), pod: loader(pins) }
    }

    /// An instance for the node's programs. Rare, so it has a loader of its own: one that loaded a pod's instance
    /// cannot forget the pod's pins.
    pub(super) fn load_node(&self) -> Result<Ebpf, BpfError> {
        Ok(loader(&self.pins).load(OBJECT)?)
    }

    /// An instance for one pod: with its own sockets and configuration, those pinned if there are.
    pub(super) fn load_pod(&mut self, pins: &PodPins) -> Result<Ebpf, BpfError> {
        self.pod.map_pin_path(names::SOCKS, pins.socks());
        self.pod.map_pin_path(names::POD, pins.config());
        Ok(self.pod.load(OBJECT)?)
    }
}

fn loader(pins: &Pins) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    // The programs read no kernel structures: the kernel's types, which take megabytes, are of no use.
    loader.btf(None).default_map_pin_directory(pins.maps());
    loader
}
