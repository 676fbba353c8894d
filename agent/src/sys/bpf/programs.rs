//! Programs: loading, attaching, looking at them.
//!
//! The kernel's types are left alone: nothing here reads `/sys/kernel/btf/vmlinux`, whose megabytes would be the
//! largest thing that a starting agent holds, for relocations that our programs do not have.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{bpf, new_descriptor};

/// Commands of bpf(2), from `enum bpf_cmd` in linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_LINK_CREATE: libc::c_long = 28;

/// Length of a name in the kernel, with the end that it must have: `BPF_OBJ_NAME_LEN`.
const NAME: usize = 16;
/// Room for what the verifier has to say of a program that it refuses.
const LOG: usize = 1 << 20;

/// `struct bpf_insn`, in the order of its bytes.
pub type Instruction = [u8; 8];

/// What a program is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// A cgroup: runs at connect(2) to an IPv4 address.
    Connect4,
    /// A cgroup: runs at connect(2) to an IPv6 address.
    Connect6,
    /// A cgroup: runs when an IPv4 socket's other end is asked for, also by accept(2).
    Getpeername4,
    /// A cgroup: runs when an IPv6 socket's other end is asked for, also by accept(2).
    Getpeername6,
    /// A cgroup: runs when a datagram is sent to an IPv4 address that the call names.
    Sendmsg4,
    /// A cgroup: runs when a datagram is sent to an IPv6 address that the call names.
    Sendmsg6,
    /// A cgroup: runs when an IPv4 socket is told whom a datagram comes from.
    Recvmsg4,
    /// A cgroup: runs when an IPv6 socket is told whom a datagram comes from.
    Recvmsg6,
    /// A cgroup: runs as its sockets change state.
    SocketOptions,
    /// A network namespace: chooses the listener of what arrives.
    SocketLookup,
}

impl ProgramKind {
    /// The number in `enum bpf_prog_type`.
    const fn program_type(self) -> u32 {
        match self {
            Self::SocketOptions => 13,
            Self::Connect4
            | Self::Connect6
            | Self::Getpeername4
            | Self::Getpeername6
            | Self::Sendmsg4
            | Self::Sendmsg6
            | Self::Recvmsg4
            | Self::Recvmsg6 => 18,
            Self::SocketLookup => 30,
        }
    }

    /// The number in `enum bpf_attach_type`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::SocketOptions => 3,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::Sendmsg4 => 14,
            Self::Sendmsg6 => 15,
            Self::Recvmsg4 => 19,
            Self::Recvmsg6 => 20,
            Self::Getpeername4 => 29,
            Self::Getpeername6 => 30,
            Self::SocketLookup => 36,
        }
    }
}

/// A program to load.
#[derive(Debug)]
pub struct Code<'a> {
    /// What the kernel shows; it keeps 15 bytes.
    pub name: &'a str,
    /// What it is to be attached to.
    pub kind: ProgramKind,
    /// "GPL", where it calls helpers that ask for it.
    pub license: &'a CStr,
    /// Complete: maps are descriptors, functions are part of it.
    pub instructions: &'a [Instruction],
    /// Where the instructions come from, for the verifier's log and bpftool(8).
    pub source: Option<Source<'a>>,
}

/// Where instructions come from.
#[derive(Debug)]
pub struct Source<'a> {
    /// The object's own types.
    pub types: BorrowedFd<'a>,
    /// `struct bpf_func_info`.
    pub functions: &'a [[u32; 2]],
    /// `struct bpf_line_info`.
    pub lines: &'a [[u32; 4]],
}

/// The kernel refuses a program.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refuses it; the verifier: {}", if log.is_empty() { "nothing" } else { log })]
pub struct Refused {
    log: String,
    #[source]
    source: io::Error,
}

/// What the kernel knows of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its number, unique while it is loaded.
    pub id: u32,
    /// Bytes of instructions as the verifier left them.
    pub translated_bytes: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
    /// Instructions that the verifier looked at, branches taken apart; 0 before Linux 5.16.
    pub verified_instructions: u32,
}

/// Hands a program to the kernel.
///
/// # Errors
/// The kernel refuses, with what the verifier says of it.
pub fn load_program(code: &Code<'_>) -> Result<OwnedFd, Refused> {
    load(code, &mut []).or_else(|_| {
        // Once more for the log, which takes time and room.
        let mut log = vec![0; LOG];
        load(code, &mut log).map_err(|source| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(log.get(..end).unwrap_or_default());
            Refused { log: log.trim().to_owned(), source }
        })
    })
}

fn load(code: &Code<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct ProgLoad {
        r#type: u32,
        instructions: u32,
        instruction: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; NAME],
        interface: u32,
        attach_type: u32,
        types: u32,
        function_size: u32,
        function: u64,
        functions: u32,
        line_size: u32,
        line: u64,
        lines: u32,
        _pad: u32,
    }
    let (types, functions, lines): (u32, &[_], &[_]) = match &code.source {
        Some(source) => (descriptor(source.types)?, source.functions, source.lines),
        None => (0, &[], &[]),
    };
    let mut attr = ProgLoad {
        r#type: code.kind.program_type(),
        instructions: length(code.instructions)?,
        instruction: code.instructions.as_ptr() as u64,
        license: code.license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: length(log)?,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kernel_version: 0,
        flags: 0,
        name: name(code.name),
        interface: 0,
        attach_type: code.kind.attach_type(),
        types,
        function_size: if functions.is_empty() { 0 } else { 8 },
        function: functions.as_ptr() as u64,
        functions: length(functions)?,
        line_size: if lines.is_empty() { 0 } else { 16 },
        line: lines.as_ptr() as u64,
        lines: length(lines)?,
        _pad: 0,
    };
    bpf(BPF_PROG_LOAD, &mut attr).map(new_descriptor)
}

/// Hands an object's own types to the kernel.
///
/// # Errors
/// The kernel does not know some of them.
pub fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct BtfLoad {
        types: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        _pad: u32,
    }
    let size = length(types)?;
    let mut attr =
        BtfLoad { types: types.as_ptr() as u64, log: 0, size, log_size: 0, log_level: 0, _pad: 0 };
    bpf(BPF_BTF_LOAD, &mut attr).map(new_descriptor)
}

/// Attaches a program to a cgroup's directory or a network namespace, as long as the link is held or pinned.
///
/// # Errors
/// The target is of another kind, or the kernel refuses.
pub fn create_link(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    kind: ProgramKind,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreate {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let (program, target) = (descriptor(program)?, descriptor(target)?);
    let mut attr = LinkCreate { program, target, attach_type: kind.attach_type(), flags: 0 };
    bpf(BPF_LINK_CREATE, &mut attr).map(new_descriptor)
}

/// What the kernel knows of a program.
///
/// # Errors
/// The descriptor is not a program.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    /// The start of `struct bpf_prog_info`, up to what is asked for.
    #[repr(C)]
    struct Info {
        r#type: u32,
        id: u32,
        tag: [u8; 8],
        jited: u32,
        translated: u32,
        _between: [u64; 24],
        verified: u32,
        _pad: u32,
    }
    #[repr(C)]
    struct InfoByFd {
        program: u32,
        len: u32,
        info: u64,
    }
    let mut info = Info {
        r#type: 0,
        id: 0,
        tag: [0; 8],
        jited: 0,
        translated: 0,
        _between: [0; 24],
        verified: 0,
        _pad: 0,
    };
    let len = u32::try_from(size_of::<Info>()).map_err(io::Error::other)?;
    let mut attr = InfoByFd { program: descriptor(program)?, len, info: (&raw mut info) as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(ProgramInfo {
        id: info.id,
        translated_bytes: info.translated,
        jited_bytes: info.jited,
        verified_instructions: info.verified,
    })
}

/// What the kernel keeps of a name.
fn name(name: &str) -> [u8; NAME] {
    let mut kept = [0; NAME];
    for (kept, byte) in kept.iter_mut().take(NAME - 1).zip(name.bytes()) {
        *kept = byte;
    }
    kept
}

fn descriptor(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

fn length<T>(slice: &[T]) -> io::Result<u32> {
    u32::try_from(slice.len()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_to_what_the_kernel_keeps() {
        assert_eq!(&name("steer"), b"steer\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&name("a_name_of_17_byte"), b"a_name_of_17_by\0");
    }
}
