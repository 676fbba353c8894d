//! The node's programs: attached once, replaced in place by the next agent.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use sotto_abi::names;

use super::object::{self, Instance};
use super::pins::remove_file;
use super::{BpfError, Kernel};
use crate::sys::bpf::{LinkKind, create_link, link_target, open_pinned, pin, update_link};
use crate::sys::cgroup::{Cgroup, contains_any};

/// What is attached to the node.
pub(super) const PROGRAMS: &[&str] = &[names::CONNECT4, names::CONNECT6, names::PROBE];

impl Kernel {
    /// Attaches all, or replaces the programs of links that an earlier agent pinned.
    pub(super) fn attach_node(&self, object: &Instance) -> Result<(), BpfError> {
        for name in [names::CONNECT4, names::CONNECT6] {
            self.attach_or_update(name, &self.config.cgroup_root, object)?;
        }
        self.attach_probe(object)
    }

    fn attach_probe(&self, object: &Instance) -> Result<(), BpfError> {
        let name = names::PROBE;
        let Some(kubelet) = &self.config.kubelet_cgroup else {
            return remove_file(&self.pins.link(name));
        };
        if !kubelet.exists() {
            let path = kubelet.display();
            tracing::warn!(%path, "the kubelet's cgroup is not there: its probes are captured");
            return Ok(());
        }
        if self.holds_pods(kubelet)? {
            let path = kubelet.display();
            tracing::warn!(%path, "the kubelet's cgroup holds pods too: its probes are captured");
            return remove_file(&self.pins.link(name));
        }
        self.attach_or_update(name, kubelet, object)
    }

    /// Attaches to the kubelet's cgroup again if a restart of the kubelet made it anew.
    pub(super) fn attend_kubelet(&self) -> Result<(), BpfError> {
        let Some(kubelet) = &self.config.kubelet_cgroup else { return Ok(()) };
        let pin = self.pins.link(names::PROBE);
        let Ok(cgroup) = Cgroup::open(kubelet) else { return Ok(()) };
        if pinned_cgroup(&pin) == Some(cgroup.id) || self.holds_pods(kubelet)? {
            return Ok(());
        }
        let object = object::load_node(&self.pins, &[names::PROBE])?;
        tracing::info!(path = %kubelet.display(), "attaching to the kubelet's cgroup");
        self.attach_probe(&object)
    }

    /// Whether a cgroup holds more than the kubelet: a program on it sees all below it, and would exempt the
    /// connections of pods. The agent's own cgroup stands for those of all pods.
    fn holds_pods(&self, cgroup: &Path) -> Result<bool, BpfError> {
        let root = Cgroup::open(&self.config.cgroup_root)
            .map_err(BpfError::file("open", &self.config.cgroup_root))?;
        let ids = [root.id, self.config.agent_cgroup_id];
        contains_any(cgroup, &ids).map_err(BpfError::file("look through", cgroup))
    }

    fn attach_or_update(
        &self,
        name: &'static str,
        cgroup: &Path,
        object: &Instance,
    ) -> Result<(), BpfError> {
        let place = self.pins.link(name);
        let program = object.program(name)?.as_fd();
        let wanted = Cgroup::open(cgroup).map_err(BpfError::file("open", cgroup))?;
        if pinned_cgroup(&place) == Some(wanted.id) {
            let link = open_pinned(&place).map_err(BpfError::file("open", &place))?;
            return update_link(link.as_fd(), program).map_err(BpfError::program("replace", name));
        }
        remove_file(&place)?;
        let directory = File::open(cgroup).map_err(BpfError::file("open", cgroup))?;
        let link = create_link(program, directory.as_fd(), object::kind(name)?)
            .map_err(BpfError::program("attach", name))?;
        pin(link.as_fd(), &place).map_err(BpfError::program("pin", name))
    }
}

/// The cgroup that a pinned link is attached to, if there is such a link and cgroup.
fn pinned_cgroup(pin: &Path) -> Option<u64> {
    let link = open_pinned(pin).ok()?;
    let target = link_target(link.as_fd(), LinkKind::Cgroup).ok()?;
    (target.target != 0).then_some(target.target)
}
