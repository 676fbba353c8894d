//! Who gets a connection that arrives in a pod.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::programs::SkLookupContext;
use sotto_abi::{
    Counter, Flow, HBONE_PORT, POD_FAIL_OPEN, PodConfig, Prefixes, ROLE_HBONE, ROLE_OUTBOUND,
    ROLE_PLAINTEXT, ROLE_QUESTIONS, sock_slot,
};

use crate::maps;

/// A connection, or a datagram, that arrives in the pod.
pub struct Arrival {
    pub flow: Flow,
    pub is_v6: bool,
    pub is_question: bool,
}

/// Who gets it.
pub enum Verdict {
    /// Whoever listens.
    Application,
    /// The agent's listener of this role.
    Agent(u32, Option<Counter>),
    /// Nobody.
    Nobody,
}

/// Decides about a connection.
///
/// Addresses alone tell what it is. Nobody outside can use those of stand-ins: over IPv4 the kernel takes neither
/// what is addressed to 127.0.0.0/8 nor what comes from an address that is local here; over IPv6 they lack the secret.
#[inline(always)]
pub fn judge(config: &PodConfig, prefixes: &Prefixes, arrival: &Arrival) -> Verdict {
    let (pod, flow) = (&config.pod, &arrival.flow);
    let (source, destination) = (&flow.source, &flow.destination);
    if prefixes.is_out(destination) {
        // Counted at connect(2) already.
        return Verdict::Agent(ROLE_OUTBOUND, None);
    }
    if prefixes.is_client(destination) || prefixes.is_of_v6(destination) {
        maps::count(config.cookie, Counter::Dropped);
        return Verdict::Nobody;
    }
    // The agent, as a client.
    if prefixes.is_client(source) {
        return Verdict::Application;
    }
    // The pod itself, whatever address it uses: it may have some that the control plane does not know.
    if source.is_loopback() || pod.owns(source) || source.is(destination) {
        return Verdict::Application;
    }
    if maps::is_probe(flow) {
        maps::count(config.cookie, Counter::Probe);
        return Verdict::Application;
    }
    if flow.destination_port == HBONE_PORT {
        return Verdict::Agent(ROLE_HBONE, Some(Counter::Hbone));
    }
    Verdict::Agent(ROLE_PLAINTEXT, Some(Counter::Plaintext))
}

/// Gives a datagram to the agent, if it is addressed as questions for names are. Without the agent it is refused, which its
/// sender is told; all others are the application's.
#[inline(always)]
pub fn take_question(ctx: &SkLookupContext, prefixes: &Prefixes, arrival: &Arrival) -> u32 {
    let flow = &arrival.flow;
    if prefixes.is_out(&flow.destination) {
        let slot = sock_slot(ROLE_QUESTIONS, arrival.is_v6);
        let _absent_is_refused = maps::SOCKS.redirect_sk_lookup(ctx, slot, 0);
    }
    SK_PASS
}

/// Gives the connection to the agent's listener. Without one it is reset, or the application's if the pod fails open.
#[inline(always)]
pub fn hand_over(
    ctx: &SkLookupContext,
    config: &PodConfig,
    arrival: &Arrival,
    role: u32,
    counter: Option<Counter>,
) -> u32 {
    // One listener, not a reuseport group of the kernel's: an application of the listeners' user could join it, and
    // take connections that nobody has judged.
    if maps::SOCKS.redirect_sk_lookup(ctx, sock_slot(role, arrival.is_v6), 0).is_ok() {
        if let Some(counter) = counter {
            maps::count(config.cookie, counter);
        }
        return SK_PASS;
    }
    if config.pod.flags & POD_FAIL_OPEN != 0 {
        return SK_PASS;
    }
    maps::count(config.cookie, Counter::Dropped);
    SK_DROP
}
