//! The embedded object, made into maps and programs of the kernel.
//!
//! aya reads the object; the loading is ours. aya's own loader cannot be made without reading the kernel's type
//! information, for relocations that the programs do not have: that takes longer than all the rest of the start,
//! and more memory than the agent holds at any time after.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{Map, MapData};
use aya_obj::btf::BtfFeatures;
use aya_obj::generated::bpf_insn;
use aya_obj::maps::PinningType;
use aya_obj::{EbpfSectionKind, Function, Object as Parsed};
use sotto_abi::names;

use super::error::BpfError;
use super::pins::{Pins, PodPins};
use crate::sys::bpf::{
    Code, Instruction, ProgramKind, Source, load_program, load_types, pin, set_constants,
};

/// Built by `cargo xtask ebpf`; the build script makes sure that it fits the sources.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SOTTO_EBPF_OBJECT"));

/// An instance of the object: maps, and those programs that were asked for. Shared maps are those pinned.
pub(super) struct Instance {
    maps: HashMap<String, Map>,
    programs: HashMap<&'static str, OwnedFd>,
}

/// An instance for the node's programs.
pub(super) fn load_node(pins: &Pins, programs: &[&'static str]) -> Result<Instance, BpfError> {
    load(programs, |name, shared| shared.then(|| pins.maps().join(name)))
}

/// An instance for one pod: with its own sockets and configuration, those pinned if there are.
pub(super) fn load_pod(pins: &Pins, pod: &PodPins) -> Result<Instance, BpfError> {
    load(&[names::STEER], |name, shared| match name {
        names::SOCKS => Some(pod.socks()),
        names::POD => Some(pod.config()),
        _ => shared.then(|| pins.maps().join(name)),
    })
}

impl Instance {
    /// A map, no longer the instance's.
    pub(super) fn take_map(&mut self, name: &'static str) -> Result<Map, BpfError> {
        self.maps.remove(name).ok_or(BpfError::Missing(name))
    }

    /// A program that was asked for.
    pub(super) fn program(&self, name: &'static str) -> Result<&OwnedFd, BpfError> {
        self.programs.get(name).ok_or(BpfError::Missing(name))
    }
}

/// What the program of a name is attached to.
pub(super) fn kind(program: &'static str) -> Result<ProgramKind, BpfError> {
    match program {
        names::CONNECT4 => Ok(ProgramKind::Connect4),
        names::CONNECT6 => Ok(ProgramKind::Connect6),
        names::GETPEERNAME4 => Ok(ProgramKind::Getpeername4),
        names::GETPEERNAME6 => Ok(ProgramKind::Getpeername6),
        names::SENDMSG4 => Ok(ProgramKind::Sendmsg4),
        names::SENDMSG6 => Ok(ProgramKind::Sendmsg6),
        names::RECVMSG4 => Ok(ProgramKind::Recvmsg4),
        names::RECVMSG6 => Ok(ProgramKind::Recvmsg6),
        names::PROBE => Ok(ProgramKind::SocketOptions),
        names::STEER => Ok(ProgramKind::SocketLookup),
        _ => Err(BpfError::Missing(program)),
    }
}

/// Makes the maps, `place` says where each is pinned, and loads `programs`.
fn load(
    programs: &[&'static str],
    place: impl Fn(&str, bool) -> Option<PathBuf>,
) -> Result<Instance, BpfError> {
    let mut object = Parsed::parse(OBJECT).map_err(BpfError::object)?;
    let types = own_types(&mut object);
    let definitions = std::mem::take(&mut object.maps);
    let mut maps = HashMap::new();
    for (name, definition) in &definitions {
        let shared = definition.pinning() == PinningType::ByName;
        maps.insert(name.clone(), make(name, definition, place(name, shared))?);
    }
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    let known = definitions.iter().filter_map(|(name, definition)| {
        let map: &MapData = maps.get(name)?;
        Some((name.as_str(), map.fd().as_fd().as_raw_fd(), definition))
    });
    object.relocate_maps(known, &sections).map_err(BpfError::object)?;
    object.relocate_calls(&sections).map_err(BpfError::object)?;
    let mut loaded = HashMap::new();
    for &name in programs {
        loaded.insert(name, verify(&object, name, types.as_ref())?);
    }
    let maps = maps.into_iter().map(|(name, data)| match Map::from_map_data(data) {
        Ok(map) => Ok((name, map)),
        Err(source) => Err(BpfError::object(source)),
    });
    Ok(Instance { maps: maps.collect::<Result<_, _>>()?, programs: loaded })
}

/// The object's own types, that the verifier's log shows. Kernels that do not know some of them do without.
fn own_types(object: &mut Parsed) -> Option<OwnedFd> {
    // What the oldest kernels with our program types know; the rest is put in their words.
    let features = BtfFeatures::new(true, true, true, true, false, false, false, false);
    let types = object.fixup_and_sanitize_btf(&features).ok()??.to_bytes();
    match load_types(&types) {
        Ok(types) => Some(types),
        Err(error) => {
            tracing::debug!(%error, "the kernel does not take the programs' types");
            None
        }
    }
}

/// Opens a map that is pinned, or makes it, and pins it.
fn make(
    name: &str,
    definition: &aya_obj::Map,
    place: Option<PathBuf>,
) -> Result<MapData, BpfError> {
    if let Some(place) = &place
        && let Ok(map) = MapData::from_pin(place)
    {
        return Ok(map);
    }
    let map = MapData::create(definition.clone(), name, None).map_err(BpfError::object)?;
    if let Some(place) = &place {
        pin(map.fd().as_fd(), place).map_err(BpfError::file("pin a map at", place))?;
    }
    if definition.section_kind() == EbpfSectionKind::Rodata {
        set_constants(map.fd().as_fd(), definition.data()).map_err(BpfError::object)?;
    }
    Ok(map)
}

fn verify(
    object: &Parsed,
    name: &'static str,
    types: Option<&OwnedFd>,
) -> Result<OwnedFd, BpfError> {
    let program = object.programs.get(name).ok_or(BpfError::Missing(name))?;
    let function = object.functions.get(&program.function_key()).ok_or(BpfError::Missing(name))?;
    let (functions, lines) = origins(function);
    let instructions: Vec<_> = function.instructions.iter().map(instruction).collect();
    let code = Code {
        name,
        kind: kind(name)?,
        license: &program.license,
        instructions: &instructions,
        source: types.map(|types| Source {
            types: types.as_fd(),
            functions: &functions,
            lines: &lines,
        }),
    };
    load_program(&code).map_err(BpfError::program("verify", name))
}

/// `struct bpf_func_info` and `struct bpf_line_info` of a function and those that it calls.
fn origins(function: &Function) -> (Vec<[u32; 2]>, Vec<[u32; 4]>) {
    let functions = function.func_info.func_info.iter();
    let lines = function.line_info.line_info.iter();
    (
        functions.map(|info| [info.insn_off, info.type_id]).collect(),
        lines
            .map(|info| [info.insn_off, info.file_name_off, info.line_off, info.line_col])
            .collect(),
    )
}

/// As the kernel reads it: the object is built for little-endian machines, the only ones that there are.
fn instruction(parsed: &bpf_insn) -> Instruction {
    let registers = parsed.dst_reg() | parsed.src_reg() << 4;
    let ([off0, off1], [i0, i1, i2, i3]) = (parsed.off.to_le_bytes(), parsed.imm.to_le_bytes());
    [parsed.code, registers, off0, off1, i0, i1, i2, i3]
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("programs", &self.programs).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_has_relocations_that_need_the_kernels_types() {
        assert!(!Parsed::parse(OBJECT).unwrap().has_btf_relocations());
    }

    #[test]
    fn instructions_are_as_in_the_object() {
        let object = Parsed::parse(OBJECT).unwrap();
        let program = &object.programs[names::STEER];
        let function = &object.functions[&program.function_key()];
        let bytes: Vec<u8> = function.instructions.iter().flat_map(instruction).collect();
        // The start of it; what refers to maps and functions is filled in later.
        assert!(OBJECT.windows(64).any(|part| part == &bytes[..64]));
    }
}
