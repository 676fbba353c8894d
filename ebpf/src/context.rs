//! Reads and writes of the programs' contexts.
//!
//! Fields are read volatile, and outside branches: LLVM otherwise merges the reads of two branches into arithmetic
//! on the context pointer, which the verifier refuses.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_set_retval};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};
use aya_log_ebpf::error;
use sotto_abi::{Address, Flow, HBONE_PORT};

use crate::inbound::Arrival;
use crate::maps;

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// A kernel may show an MPTCP socket as itself rather than as its first TCP subflow.
const IPPROTO_MPTCP: u32 = 262;
const ECONNREFUSED: i32 = 111;

macro_rules! read {
    ($field:expr) => {
        // SAFETY: a field of a context that the kernel keeps alive over the program's run.
        unsafe { core::ptr::read_volatile(&raw const $field) }
    };
}

macro_rules! write {
    ($field:expr, $value:expr) => {
        // SAFETY: as in `read`, a field that the program type may write.
        unsafe { core::ptr::write_volatile(&raw mut $field, $value) }
    };
}

macro_rules! read_v6 {
    ($field:expr) => {
        Address([read!($field[0]), read!($field[1]), read!($field[2]), read!($field[3])])
    };
}

/// The socket's network namespace.
#[inline(always)]
pub fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Whether the socket is one of TCP.
#[inline(always)]
pub fn is_tcp(ctx: &SockAddrContext) -> bool {
    let protocol = read!((*ctx.sock_addr).protocol);
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// Whether the socket is one of UDP.
#[inline(always)]
pub fn is_udp(ctx: &SockAddrContext) -> bool {
    read!((*ctx.sock_addr).protocol) == IPPROTO_UDP
}

/// Whether the agent itself calls. It is known by its cgroup, which a pod cannot choose.
#[inline(always)]
pub fn is_agent() -> bool {
    let Some(global) = maps::global() else { return false };
    // SAFETY: the helper takes nothing.
    let current = unsafe { bpf_get_current_cgroup_id() };
    global.agent_cgroups[0] == current || global.agent_cgroups[1] == current
}

/// The other end of an IPv4 socket: asked for by connect(2), or shown by getpeername(2).
#[inline(always)]
pub fn peer4(ctx: &SockAddrContext) -> Address {
    Address::v4(read!((*ctx.sock_addr).user_ip4))
}

/// The other end of an IPv6 socket: asked for by connect(2), or shown by getpeername(2).
#[inline(always)]
pub fn peer6(ctx: &SockAddrContext) -> Address {
    read_v6!((*ctx.sock_addr).user_ip6)
}

/// The port of the other end, in host order.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> u16 {
    u16::from_be(read!((*ctx.sock_addr).user_port) as u16)
}

/// Makes another address the other end of an IPv4 socket.
#[inline(always)]
pub fn set_peer4(ctx: &SockAddrContext, address: &Address) {
    let context = unknown(ctx);
    write!((*context).user_ip4, address.0[3]);
}

/// Makes another address the other end of an IPv6 socket.
#[inline(always)]
pub fn set_peer6(ctx: &SockAddrContext, address: &Address) {
    let context = unknown(ctx);
    write!((*context).user_ip6[0], address.0[0]);
    write!((*context).user_ip6[1], address.0[1]);
    write!((*context).user_ip6[2], address.0[2]);
    write!((*context).user_ip6[3], address.0[3]);
}

/// Makes another port the other end's.
#[inline(always)]
pub fn set_port(ctx: &SockAddrContext, port: u16) {
    let context = unknown(ctx);
    write!((*context).user_port, u32::from(port.to_be()));
}

/// The context, as LLVM has not seen it yet: it would keep the address of a field from an earlier read.
#[inline(always)]
fn unknown(ctx: &SockAddrContext) -> *mut bpf_sock_addr {
    core::hint::black_box(ctx.sock_addr)
}

/// The device that a socket is bound to, or 0.
#[inline(always)]
pub fn device(ctx: &SockAddrContext) -> u32 {
    let Some(socket) = socket(ctx) else { return 0 };
    read!((*socket).bound_dev_if)
}

/// The address that an IPv4 socket is bound to.
#[inline(always)]
pub fn own4(ctx: &SockAddrContext) -> Address {
    let Some(socket) = socket(ctx) else { return Address::NONE };
    Address::v4(read!((*socket).src_ip4))
}

/// The address that an IPv6 socket is bound to.
#[inline(always)]
pub fn own6(ctx: &SockAddrContext) -> Address {
    let Some(socket) = socket(ctx) else { return Address::NONE };
    read_v6!((*socket).src_ip6)
}

/// Says that a connection is refused for want of a stand-in.
#[inline(always)]
pub fn tell_full(ctx: &SockAddrContext) {
    error!(ctx, "no address is left to stand for a destination");
}

/// The application gets ECONNREFUSED; without this it would be EPERM.
#[inline(always)]
pub fn refuse() -> i32 {
    // SAFETY: the helper takes a number.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    crate::REJECT
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> Option<*mut bpf_sock> {
    // SAFETY: the union has this one readable field.
    let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if socket.is_null() { None } else { Some(socket) }
}

/// What arrives in the pod, if it is of TCP, or of UDP and at the port where questions for names go.
#[inline(always)]
pub fn arrival(ctx: &SkLookupContext) -> Option<Arrival> {
    let lookup = ctx.lookup;
    let protocol = read!((*lookup).protocol);
    let destination_port = read!((*lookup).local_port) as u16;
    // Datagrams to other ports are nobody's business here.
    let is_question = protocol == IPPROTO_UDP && destination_port == HBONE_PORT;
    if protocol != IPPROTO_TCP && !is_question {
        return None;
    }
    let is_v4 = read!((*lookup).family) == AF_INET;
    let v4 = (Address::v4(read!((*lookup).remote_ip4)), Address::v4(read!((*lookup).local_ip4)));
    let v6 = (read_v6!((*lookup).remote_ip6), read_v6!((*lookup).local_ip6));
    let (source, destination) = if is_v4 { v4 } else { v6 };
    Some(Arrival {
        flow: Flow {
            source,
            destination,
            source_port: u16::from_be(read!((*lookup).remote_port)),
            destination_port,
        },
        is_v6: !is_v4,
        is_question,
    })
}

/// A connection of this host, opened by the socket.
#[inline(always)]
pub fn own_flow(ctx: &SockOpsContext) -> Flow {
    let ops = ctx.ops;
    let v4 = (Address::v4(read!((*ops).local_ip4)), Address::v4(read!((*ops).remote_ip4)));
    let v6 = (read_v6!((*ops).local_ip6), read_v6!((*ops).remote_ip6));
    let (source, destination) = if read!((*ops).family) == AF_INET { v4 } else { v6 };
    Flow {
        source,
        destination,
        source_port: read!((*ops).local_port) as u16,
        destination_port: u32::from_be(read!((*ops).remote_port)) as u16,
    }
}
