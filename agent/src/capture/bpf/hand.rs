//! Loading and unloading by hand, to look at the programs on a node.

use std::fmt;
use std::path::Path;

use aya::Ebpf;
use aya::programs::{CgroupSockAddr, SkLookup, SockOps};
use sotto_abi::names;

use super::node::program;
use super::object::Object;
use super::pins::Pins;
use super::{BpfError, Kernel, KernelConfig, remove_all};
use crate::sys::cgroup;

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandLoaded {
    programs: Vec<ProgramSize>,
}

/// How large a program is to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProgramSize {
    name: &'static str,
    translated_bytes: u32,
    jited_bytes: u32,
    verified_instructions: u32,
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
        kubelet_cgroup: None,
        fail_open: false,
        proxy_unknown: false,
    })?;
    let mut object = Object::new(&Pins::below(pin_dir)).load_node()?;
    Ok(HandLoaded { programs: sizes(&mut object)? })
}

/// Removes every trace of the programs; see [`remove_all`].
///
/// # Errors
/// All that went wrong.
pub fn unload(pin_dir: &Path) -> Result<(), Vec<BpfError>> {
    remove_all(pin_dir)
}

/// Verifies each program and asks the kernel for its size.
fn sizes(object: &mut Ebpf) -> Result<Vec<ProgramSize>, BpfError> {
    let mut sizes = Vec::new();
    macro_rules! measure {
        ($kind:ty, $name:expr) => {
            let program: &mut $kind = program(object, $name)?;
            program.load().map_err(BpfError::program("verify", $name))?;
            let info = program.info().map_err(BpfError::program("inspect", $name))?;
            sizes.push(ProgramSize {
                name: $name,
                translated_bytes: info.size_translated().unwrap_or_default(),
                jited_bytes: info.size_jitted(),
                verified_instructions: info.verified_instruction_count().unwrap_or_default(),
            });
        };
    }
    measure!(CgroupSockAddr, names::CONNECT4);
    measure!(CgroupSockAddr, names::CONNECT6);
    measure!(SkLookup, names::STEER);
    measure!(SockOps, names::PROBE);
    Ok(sizes)
}

impl fmt::Display for HandLoaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:10} {:>10} {:>8} {:>12}",
            "program", "xlated B", "jited B", "verified insn"
        )?;
        for size in &self.programs {
            let ProgramSize { name, translated_bytes, jited_bytes, verified_instructions } = size;
            writeln!(
                f,
                "{name:10} {translated_bytes:>10} {jited_bytes:>8} {verified_instructions:>12}"
            )?;
        }
        Ok(())
    }
}
