//! The programs that redirect enrolled pods' connections to the agent.
//!
//! Hooks here are shims: they read their context, ask a decision of [`outbound`], [`inbound`], [`shown`] or
//! [`probe`],
//! and carry it out. Nothing runs per packet; a pod that is not enrolled pays one map lookup per connect(2).
#![no_std]
#![no_main]

mod context;
mod inbound;
mod maps;
mod outbound;
mod probe;
mod shown;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::macros::{cgroup_sock_addr, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};

use outbound::{Asked, Verdict};
use sotto_abi::{Address, Counter, DNS_PORT, HBONE_PORT};

/// The kernel goes on with the call.
const PROCEED: i32 = 1;
/// The kernel ends the call with the error set before.
const REJECT: i32 = 0;

/// connect(2) on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    if !context::is_tcp(&ctx) {
        return ask4(&ctx);
    }
    let Some(cookie) = whose(&ctx) else { return PROCEED };
    match connect(&ctx, cookie, &asked4(&ctx)) {
        Outcome::Proceed => PROCEED,
        Outcome::To(address) => {
            context::set_peer4(&ctx, &address);
            PROCEED
        }
        Outcome::Refuse => context::refuse(),
    }
}

/// connect(2) on an IPv6 socket, also to an IPv4-mapped address.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    if !context::is_tcp(&ctx) {
        return ask6(&ctx);
    }
    let Some(cookie) = whose(&ctx) else { return PROCEED };
    match connect(&ctx, cookie, &asked6(&ctx)) {
        Outcome::Proceed => PROCEED,
        Outcome::To(address) => {
            context::set_peer6(&ctx, &address);
            PROCEED
        }
        Outcome::Refuse => context::refuse(),
    }
}

/// A datagram to an IPv4 address, of a socket that need not be connected to it.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    ask4(&ctx)
}

/// A datagram to an IPv6 address, of a socket that need not be connected to it.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    ask6(&ctx)
}

#[inline(always)]
fn asked4(ctx: &SockAddrContext) -> Asked {
    let (own, address) = (context::own4(ctx), context::peer4(ctx));
    let (device, port) = (context::device(ctx), context::port(ctx));
    Asked { own, device, address, port }
}

#[inline(always)]
fn asked6(ctx: &SockAddrContext) -> Asked {
    let (own, address) = (context::own6(ctx), context::peer6(ctx));
    let (device, port) = (context::device(ctx), context::port(ctx));
    Asked { own, device, address, port }
}

/// Has the agent answer, if it is a question for a name.
#[inline(always)]
fn ask4(ctx: &SockAddrContext) -> i32 {
    // Most datagrams are none.
    if context::port(ctx) != DNS_PORT {
        return PROCEED;
    }
    let Some(cookie) = whose(ctx) else { return PROCEED };
    if let Some(address) = question(ctx, cookie, &asked4(ctx)) {
        context::set_peer4(ctx, &address);
        context::set_port(ctx, HBONE_PORT);
    }
    PROCEED
}

/// As [`ask4`].
#[inline(always)]
fn ask6(ctx: &SockAddrContext) -> i32 {
    if context::port(ctx) != DNS_PORT {
        return PROCEED;
    }
    let Some(cookie) = whose(ctx) else { return PROCEED };
    if let Some(address) = question(ctx, cookie, &asked6(ctx)) {
        context::set_peer6(ctx, &address);
        context::set_port(ctx, HBONE_PORT);
    }
    PROCEED
}

#[inline(always)]
fn question(ctx: &SockAddrContext, cookie: u64, asked: &Asked) -> Option<Address> {
    if !context::is_udp(ctx) {
        return None;
    }
    outbound::judge_question(cookie, maps::enrolled(cookie)?, maps::prefixes()?, asked)
}

/// The network namespace of a call that is ours to judge, if its pod is enrolled.
#[inline(always)]
fn whose(ctx: &SockAddrContext) -> Option<u64> {
    let cookie = context::netns_cookie(ctx);
    maps::enrolled(cookie)?;
    (!context::is_agent()).then_some(cookie)
}

/// What is done to a connect(2).
enum Outcome {
    Proceed,
    To(Address),
    Refuse,
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, cookie: u64, asked: &Asked) -> Outcome {
    let (Some(pod), Some(prefixes)) = (maps::enrolled(cookie), maps::prefixes()) else {
        return Outcome::Refuse;
    };
    match outbound::judge(cookie, pod, prefixes, asked) {
        Verdict::Local => Outcome::Proceed,
        Verdict::Direct(counter) => {
            maps::count(cookie, counter);
            Outcome::Proceed
        }
        Verdict::Capture(address) => {
            maps::count(cookie, Counter::Captured);
            Outcome::To(address)
        }
        Verdict::Full => {
            context::tell_full(ctx);
            maps::count(cookie, Counter::Refused);
            Outcome::Refuse
        }
        Verdict::Refuse(counter) => {
            maps::count(cookie, counter);
            Outcome::Refuse
        }
    }
}

/// getpeername(2), accept(2) and `SO_PEERNAME` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    show4(&ctx)
}

/// getpeername(2), accept(2) and `SO_PEERNAME` of an IPv6 socket, also with an IPv4-mapped address.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    show6(&ctx)
}

/// Whom a datagram comes from, as an IPv4 socket is told.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    if context::port(&ctx) == HBONE_PORT {
        return show4(&ctx);
    }
    PROCEED
}

/// Whom a datagram comes from, as an IPv6 socket is told.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if context::port(&ctx) == HBONE_PORT {
        return show6(&ctx);
    }
    PROCEED
}

#[inline(always)]
fn show4(ctx: &SockAddrContext) -> i32 {
    if let Some(real) = shown::real(context::netns_cookie(ctx), &context::peer4(ctx)) {
        context::set_peer4(ctx, &real);
        show_port(ctx);
    }
    PROCEED
}

#[inline(always)]
fn show6(ctx: &SockAddrContext) -> i32 {
    if let Some(real) = shown::real(context::netns_cookie(ctx), &context::peer6(ctx)) {
        context::set_peer6(ctx, &real);
        show_port(ctx);
    }
    PROCEED
}

/// Datagrams to stand-ins have another port than the application asked for: only questions for names go there.
#[inline(always)]
fn show_port(ctx: &SockAddrContext) {
    if context::is_udp(ctx) && context::port(ctx) == HBONE_PORT {
        context::set_port(ctx, DNS_PORT);
    }
}

/// The lookup of a listener for a connection that arrives in the pod. One instance for each pod.
#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    let (Some(config), Some(prefixes)) = (maps::pod(), maps::prefixes()) else { return SK_PASS };
    let Some(arrival) = context::arrival(&ctx) else { return SK_PASS };
    if arrival.is_question {
        return inbound::take_question(&ctx, prefixes, &arrival);
    }
    match inbound::judge(config, prefixes, &arrival) {
        inbound::Verdict::Application => SK_PASS,
        inbound::Verdict::Agent(role, counter) => {
            inbound::hand_over(&ctx, config, &arrival, role, counter)
        }
        inbound::Verdict::Nobody => SK_DROP,
    }
}

/// State changes of the kubelet's connections.
#[sock_ops]
pub fn probe(ctx: SockOpsContext) -> u32 {
    probe::follow(&ctx);
    1
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
