//! Reads and writes of the programs' contexts.
//!
//! Fields are read volatile, and outside branches: LLVM otherwise merges the reads of two branches into arithmetic
//! on the context pointer, which the verifier refuses.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_set_retval, bpf_setsockopt,
};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};
use aya_log_ebpf::error;
use sotto_abi::{Address, Flow, MARK_LOOP};

use crate::inbound::Arrival;
use crate::maps;
use crate::outbound::Destination;

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;
/// A kernel may show an MPTCP socket as itself rather than as its first TCP subflow.
const IPPROTO_MPTCP: u32 = 262;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;
const SO_BINDTOIFINDEX: i32 = 62;
const ECONNREFUSED: i32 = 111;
/// `lo` is the first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

macro_rules! read {
    ($field:expr) => {
        // SAFETY: a field of a context that the kernel keeps alive over the program's run.
        unsafe { core::ptr::read_volatile(&raw const $field) }
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

/// Whether the agent itself calls. It is known by its cgroup, which a pod cannot choose.
#[inline(always)]
pub fn is_agent() -> bool {
    let Some(global) = maps::global() else { return false };
    // SAFETY: the helper takes nothing.
    let current = unsafe { bpf_get_current_cgroup_id() };
    global.agent_cgroups[0] == current || global.agent_cgroups[1] == current
}

/// Where a connect(2) on an IPv4 socket goes.
#[inline(always)]
pub fn destination4(ctx: &SockAddrContext) -> Destination {
    Destination { address: Address::v4(read!((*ctx.sock_addr).user_ip4)), port: port(ctx) }
}

/// Where a connect(2) on an IPv6 socket goes.
#[inline(always)]
pub fn destination6(ctx: &SockAddrContext) -> Destination {
    Destination { address: read_v6!((*ctx.sock_addr).user_ip6), port: port(ctx) }
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> u16 {
    u16::from_be(read!((*ctx.sock_addr).user_port) as u16)
}

/// Makes the socket's flow take the loop to the agent. False if the kernel refuses, which must not let it go.
#[inline(always)]
pub fn take(ctx: &SockAddrContext) -> bool {
    let taken = unbind(ctx) && set_option(ctx, SO_MARK, MARK_LOOP);
    if !taken {
        error!(ctx, "failed to redirect a socket");
    }
    taken
}

/// A socket bound to a device would pass by the loop, in the clear.
#[inline(always)]
fn unbind(ctx: &SockAddrContext) -> bool {
    let Some(socket) = socket(ctx) else { return false };
    read!((*socket).bound_dev_if) == 0 || set_option(ctx, SO_BINDTOIFINDEX, 0)
}

/// Lets the socket go its way, without the mark that an earlier connect(2) on it may have left.
#[inline(always)]
pub fn leave(ctx: &SockAddrContext) -> bool {
    let Some(socket) = socket(ctx) else { return true };
    read!((*socket).mark) != MARK_LOOP || set_option(ctx, SO_MARK, 0)
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

#[inline(always)]
fn set_option(ctx: &SockAddrContext, option: i32, value: u32) -> bool {
    let mut value = value;
    // SAFETY: the value lives over the call, and its size is given.
    unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, option, (&raw mut value).cast(), 4) == 0 }
}

/// A connection that arrives in the pod, if it is one of TCP.
#[inline(always)]
pub fn arrival(ctx: &SkLookupContext) -> Option<Arrival> {
    let lookup = ctx.lookup;
    if read!((*lookup).protocol) != IPPROTO_TCP {
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
            destination_port: read!((*lookup).local_port) as u16,
        },
        is_v6: !is_v4,
        on_loopback: read!((*lookup).ingress_ifindex) == LOOPBACK_INDEX,
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
