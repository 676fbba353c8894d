//! Loading and unloading by hand, to look at the programs on a node.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use sotto_abi::names;

use super::object;
use super::pins::Pins;
use super::remove::told_ranges;
use super::{BpfError, Kernel, KernelConfig, remove_all};
use crate::capture::{StandInRanges, routing};
use crate::sys::Netns;
use crate::sys::bpf::{ProgramInfo, program_info};
use crate::sys::cgroup;

/// All that there are.
const PROGRAMS: [&str; 10] = [
    names::CONNECT4,
    names::CONNECT6,
    names::GETPEERNAME4,
    names::GETPEERNAME6,
    names::SENDMSG4,
    names::SENDMSG6,
    names::RECVMSG4,
    names::RECVMSG6,
    names::STEER,
    names::PROBE,
];

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandLoaded {
    programs: Vec<(&'static str, ProgramInfo)>,
}

/// Loads and attaches the node's programs below `pin_dir`; no pod is enrolled.
///
/// # Errors
/// As [`Kernel::install`].
pub fn load(pin_dir: &Path, cgroup_root: Option<&Path>) -> Result<HandLoaded, BpfError> {
    let root = Path::new("/sys/fs/cgroup");
    let cgroup_root = match cgroup_root {
        Some(path) => path.to_owned(),
        None => cgroup::root().map_err(BpfError::file("find a cgroup2 mount at", root))?,
    };
    let own = cgroup::own().map_err(BpfError::file("find the own cgroup below", root))?;
    Kernel::install(KernelConfig {
        pin_dir: pin_dir.to_owned(),
        cgroup_root,
        agent_cgroup_id: own.id,
        fail_open: false,
        proxy_unknown: false,
        ranges: StandInRanges::default(),
    })?;
    // Once more, as what is loaded for a pod is not among the node's.
    let object = object::load_node(&Pins::below(pin_dir), &PROGRAMS)?;
    let mut programs = Vec::new();
    for name in PROGRAMS {
        let info = program_info(object.program(name)?.as_fd());
        programs.push((name, info.map_err(BpfError::program("inspect", name))?));
    }
    Ok(HandLoaded { programs })
}

/// Removes every trace of the programs (see [`remove_all`]), and of the agent in the `node`'s own network.
///
/// # Errors
/// All that went wrong.
pub fn unload(pin_dir: &Path, node: &Netns) -> Result<(), Vec<BpfError>> {
    let ranges = told_ranges(&Pins::below(pin_dir)).unwrap_or_default();
    let mut errors = remove_all(pin_dir).err().unwrap_or_default();
    errors.extend(routing::unconfine(node, &ranges).err().map(BpfError::from));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

impl fmt::Display for HandLoaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:12} {:>10} {:>8} {:>12}",
            "program", "xlated B", "jited B", "verified insn"
        )?;
        for (name, info) in &self.programs {
            let ProgramInfo { translated_bytes, jited_bytes, verified_instructions, .. } = info;
            writeln!(
                f,
                "{name:12} {translated_bytes:>10} {jited_bytes:>8} {verified_instructions:>12}"
            )?;
        }
        Ok(())
    }
}
