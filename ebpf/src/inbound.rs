//! Who gets a connection that arrives in a pod.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::programs::SkLookupContext;
use sotto_abi::{
    Counter, Flow, HBONE_PORT, POD_FAIL_OPEN, PodConfig, ROLE_HBONE, ROLE_OUTBOUND, ROLE_PLAINTEXT,
    sock_slot,
};

use crate::maps;

/// A connection that arrives in the pod.
pub struct Arrival {
    pub flow: Flow,
    pub is_v6: bool,
    pub on_loopback: bool,
}

/// Who gets it.
pub enum Verdict {
    /// Whoever listens.
    Application,
    /// The agent's listener of this role.
    Agent(u32, Option<Counter>),
}

/// Decides about a connection.
#[inline(always)]
pub fn judge(config: &PodConfig, arrival: &Arrival) -> Verdict {
    let (pod, flow) = (&config.pod, &arrival.flow);
    if arrival.on_loopback {
        // To the pod itself: between its processes, or the agent's dial with a client's source.
        if flow.destination.is_local() || pod.owns(&flow.destination) {
            return Verdict::Application;
        }
        // Counted at connect(2) already.
        return Verdict::Agent(ROLE_OUTBOUND, None);
    }
    // A pod that connects to its own address arrives on its device, not on lo. It may have addresses that the
    // control plane does not know: taken for a stranger there, the agent would meet itself again and again.
    if pod.owns(&flow.source) || flow.source.is(&flow.destination) {
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
