//! The node's programs: attached once, replaced in place by the next agent.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use sotto_abi::names;

use super::object::{self, Instance};
use super::pins::remove_file;
use super::{BpfError, Kernel};
use crate::sys::bpf::{LinkKind, create_link, link_target, open_pinned, pin, update_link};
use crate::sys::cgroup::Cgroup;

/// What is attached to the node, always; [`names::PROBE`] only while its kubelet is known. Who is shown an address comes
/// before it can have a stand-in.
pub(super) const PROGRAMS: &[&str] =
    &[names::GETPEERNAME4, names::GETPEERNAME6, names::CONNECT4, names::CONNECT6];

/// What is attached from the first pod on whose questions for names are the agent's to answer; in the same order.
const OF_NAMES: &[&str] = &[names::RECVMSG4, names::RECVMSG6, names::SENDMSG4, names::SENDMSG6];

impl Kernel {
    /// Attaches all, or replaces the programs of links that an earlier agent pinned.
    pub(super) fn attach_node(&self, object: &Instance) -> Result<(), BpfError> {
        for &name in PROGRAMS {
            self.attach_or_update(name, &self.config.cgroup_root, object)?;
        }
        Ok(())
    }

    /// Attaches what questions for names need, once. An earlier agent may have left it, of an earlier version.
    pub(super) fn attach_of_names(&mut self) -> Result<(), BpfError> {
        if self.answers_names {
            return Ok(());
        }
        let object = object::load_node(&self.pins, OF_NAMES)?;
        for &name in OF_NAMES {
            self.attach_or_update(name, &self.config.cgroup_root, &object)?;
        }
        self.answers_names = true;
        Ok(())
    }

    /// Attaches again what somebody has detached. Until then nobody is dialled for clients, as who they are would not
    /// be shown.
    pub(super) fn attend_pods(&self) -> Result<(), BpfError> {
        let root = Cgroup::open(&self.config.cgroup_root)
            .map_err(BpfError::file("open", &self.config.cgroup_root))?;
        let is_attached = |name: &&str| pinned_cgroup(&self.pins.link(name)) == Some(root.id);
        let of_names = if self.answers_names { OF_NAMES } else { &[] };
        let wanted: Vec<_> = PROGRAMS.iter().chain(of_names).copied().collect();
        if wanted.iter().all(is_attached) {
            return Ok(());
        }
        tracing::warn!("somebody has detached programs of the agent: attaching them again");
        let object = object::load_node(&self.pins, &wanted)?;
        for name in wanted {
            self.attach_or_update(name, &self.config.cgroup_root, &object)?;
        }
        Ok(())
    }

    pub(super) fn attach_or_update(
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
pub(super) fn pinned_cgroup(pin: &Path) -> Option<u64> {
    let link = open_pinned(pin).ok()?;
    let target = link_target(link.as_fd(), LinkKind::Cgroup).ok()?;
    (target.target != 0).then_some(target.target)
}
