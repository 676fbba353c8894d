//! A network's own load balancer for sockets, as Cilium's: connect(2) to a service's address goes to a backend's, and
//! getpeername(2) shows the service again. Its programs are a few instructions, assembled here.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use sotto::sys::bpf::{Code, Instruction, ProgramKind, create_link, load_program};

/// Attached as long as it is held.
#[derive(Debug)]
pub struct Balancer {
    _links: [OwnedFd; 2],
}

impl Balancer {
    /// Attaches it to a cgroup.
    pub(super) fn attach(
        cgroup: &Path,
        service: SocketAddrV4,
        backend: SocketAddrV4,
    ) -> Result<Self> {
        Ok(Self {
            _links: [
                link(cgroup, ProgramKind::Connect4, service, backend)?,
                link(cgroup, ProgramKind::Getpeername4, backend, service)?,
            ],
        })
    }
}

fn link(cgroup: &Path, kind: ProgramKind, from: SocketAddrV4, to: SocketAddrV4) -> Result<OwnedFd> {
    let instructions = replace(from, to);
    let code =
        Code { name: "balancer", kind, license: c"GPL", instructions: &instructions, source: None };
    let program = load_program(&code)?;
    let cgroup = std::fs::File::open(cgroup)?;
    create_link(program.as_fd(), cgroup.as_fd(), kind)
        .with_context(|| format!("failed to attach {kind:?}"))
}

/// `if (address, port) == from { (address, port) = to }; return 1`, of `struct bpf_sock_addr` (linux/bpf.h).
fn replace(from: SocketAddrV4, to: SocketAddrV4) -> [Instruction; 10] {
    // Of the instruction set (RFC 9669): loads and stores of 32 bits, and what does not touch the upper half.
    const LOAD: u8 = 0x61;
    const STORE: u8 = 0x63;
    const SET: u8 = 0xb4;
    const SKIP_UNLESS: u8 = 0x56;
    const EXIT: u8 = 0x95;
    // Registers: the answer, the context, one to work with.
    const ANSWER: u8 = 0;
    const CONTEXT: u8 = 1;
    const WORK: u8 = 2;
    // Where `user_ip4` and `user_port` are, both in network order.
    const ADDRESS: i16 = 4;
    const PORT: i16 = 24;
    let address = |end: SocketAddrV4| u32::from_ne_bytes(end.ip().octets());
    let port = |end: SocketAddrV4| u32::from(end.port().to_be());
    [
        instruction(LOAD, WORK, CONTEXT, ADDRESS, 0),
        instruction(SKIP_UNLESS, WORK, 0, 6, address(from)),
        instruction(LOAD, WORK, CONTEXT, PORT, 0),
        instruction(SKIP_UNLESS, WORK, 0, 4, port(from)),
        instruction(SET, WORK, 0, 0, address(to)),
        instruction(STORE, CONTEXT, WORK, ADDRESS, 0),
        instruction(SET, WORK, 0, 0, port(to)),
        instruction(STORE, CONTEXT, WORK, PORT, 0),
        instruction(SET, ANSWER, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// `struct bpf_insn`, on a machine of either byte order.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> Instruction {
    let registers = if cfg!(target_endian = "little") {
        destination | source << 4
    } else {
        destination << 4 | source
    };
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    [code, registers, o0, o1, i0, i1, i2, i3]
}
