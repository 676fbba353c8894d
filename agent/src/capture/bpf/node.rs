//! The node's programs: attached once, replaced in place by the next agent.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, ProgramError, ProgramFd, SockOps};
use sotto_abi::names;

use super::pins::remove_file;
use super::{BpfError, Kernel};
use crate::sys::bpf::{LinkKind, link_target, open_pinned, update_link};
use crate::sys::cgroup::{Cgroup, contains_any};

/// Links to cgroups can always be several; aya's other modes are for the older way without links.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

impl Kernel {
    /// Attaches all, or replaces the programs of links that an earlier agent pinned.
    pub(super) fn attach_node(&self, object: &mut Ebpf) -> Result<(), BpfError> {
        for name in [names::CONNECT4, names::CONNECT6] {
            let program: &mut CgroupSockAddr = program(object, name)?;
            program.load().map_err(BpfError::program("verify", name))?;
            let fd = clone_fd(program.fd(), name)?;
            self.attach_or_update(name, &self.config.cgroup_root, &fd, |cgroup| {
                let link = program.attach(cgroup, MODE).and_then(|link| program.take_link(link));
                let link = link.map_err(BpfError::program("attach", name))?;
                FdLink::try_from(link).map_err(BpfError::program("attach", name))
            })?;
        }
        self.attach_probe(object)
    }

    fn attach_probe(&self, object: &mut Ebpf) -> Result<(), BpfError> {
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
        let program: &mut SockOps = program(object, name)?;
        program.load().map_err(BpfError::program("verify", name))?;
        let fd = clone_fd(program.fd(), name)?;
        self.attach_or_update(name, kubelet, &fd, |cgroup| {
            let link = program.attach(cgroup, MODE).and_then(|link| program.take_link(link));
            let link = link.map_err(BpfError::program("attach", name))?;
            FdLink::try_from(link).map_err(BpfError::program("attach", name))
        })
    }

    /// Attaches to the kubelet's cgroup again if a restart of the kubelet made it anew.
    pub(super) fn attend_kubelet(&self) -> Result<(), BpfError> {
        let Some(kubelet) = &self.config.kubelet_cgroup else { return Ok(()) };
        let pin = self.pins.link(names::PROBE);
        let Ok(cgroup) = Cgroup::open(kubelet) else { return Ok(()) };
        if pinned_cgroup(&pin) == Some(cgroup.id) || self.holds_pods(kubelet)? {
            return Ok(());
        }
        let mut object = self.object.load_node()?;
        tracing::info!(path = %kubelet.display(), "attaching to the kubelet's cgroup");
        self.attach_probe(&mut object)
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
        program: &ProgramFd,
        attach: impl FnOnce(File) -> Result<FdLink, BpfError>,
    ) -> Result<(), BpfError> {
        let pin = self.pins.link(name);
        let wanted = Cgroup::open(cgroup).map_err(BpfError::file("open", cgroup))?;
        if pinned_cgroup(&pin) == Some(wanted.id) {
            let link = open_pinned(&pin).map_err(BpfError::file("open", &pin))?;
            return update_link(link.as_fd(), program.as_fd())
                .map_err(BpfError::program("replace", name));
        }
        remove_file(&pin)?;
        let directory = File::open(cgroup).map_err(BpfError::file("open", cgroup))?;
        attach(directory)?.pin(&pin).map_err(BpfError::program("pin", name)).map(drop)
    }
}

/// The cgroup that a pinned link is attached to, if there is such a link and cgroup.
fn pinned_cgroup(pin: &Path) -> Option<u64> {
    let link = open_pinned(pin).ok()?;
    let target = link_target(link.as_fd(), LinkKind::Cgroup).ok()?;
    (target.target != 0).then_some(target.target)
}

/// A program of the object, by name and type.
pub(super) fn program<'a, P>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    object
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(BpfError::Missing(name))
}

pub(super) fn clone_fd(
    fd: Result<&ProgramFd, ProgramError>,
    name: &'static str,
) -> Result<ProgramFd, BpfError> {
    fd.map_err(BpfError::program("open", name))?
        .try_clone()
        .map_err(BpfError::program("open", name))
}
