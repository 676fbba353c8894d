//! The programs that redirect enrolled pods' connections to the agent.
//!
//! Hooks here are shims: they read their context, ask a decision of [`outbound`], [`inbound`] or [`probe`],
//! and carry it out. Nothing runs per packet; a pod that is not enrolled pays one map lookup per connect(2).
#![no_std]
#![no_main]

mod context;
mod inbound;
mod maps;
mod outbound;
mod probe;

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::macros::{cgroup_sock_addr, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};

use outbound::Verdict;

/// The kernel goes on with the connect(2).
const PROCEED: i32 = 1;
/// The kernel ends the connect(2) with the error set before.
const REJECT: i32 = 0;

/// connect(2) on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, context::destination4)
}

/// connect(2) on an IPv6 socket, also to an IPv4-mapped address.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, context::destination6)
}

#[inline(always)]
fn connect(
    ctx: &SockAddrContext,
    destination: impl Fn(&SockAddrContext) -> outbound::Destination,
) -> i32 {
    let cookie = context::netns_cookie(ctx);
    let Some(pod) = maps::enrolled(cookie) else { return PROCEED };
    if !context::is_tcp(ctx) || context::is_agent() {
        return PROCEED;
    }
    let done = match outbound::judge(cookie, pod, &destination(ctx)) {
        Verdict::Local => context::leave(ctx),
        Verdict::Direct(counter) => {
            maps::count(cookie, counter);
            context::leave(ctx)
        }
        Verdict::Capture(counter) => {
            maps::count(cookie, counter);
            context::take(ctx)
        }
        Verdict::Refuse(counter) => {
            maps::count(cookie, counter);
            false
        }
    };
    if done { PROCEED } else { context::refuse() }
}

/// The lookup of a listener for a connection that arrives in the pod. One instance for each pod.
#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    let Some(config) = maps::pod() else { return SK_PASS };
    let Some(arrival) = context::arrival(&ctx) else { return SK_PASS };
    let inbound::Verdict::Agent(role, counter) = inbound::judge(config, &arrival) else {
        return SK_PASS;
    };
    inbound::hand_over(&ctx, config, &arrival, role, counter)
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
