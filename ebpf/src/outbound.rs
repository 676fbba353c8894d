//! What becomes of a pod's connect(2).

use sotto_abi::{
    Address, Counter, DNS_PORT, FIRST_RESOLVER, GLOBAL_CAPTURE_UNKNOWN, GLOBAL_SYNCED,
    POD_EXCLUDES_CIDRS, POD_EXCLUDES_PORTS, POD_FAIL_OPEN, POD_NAMES, POD_STAND_INS, Pod, Prefixes,
};

use crate::maps;

/// What a connect(2) asks for. Port in host order.
pub struct Asked {
    /// What the socket is bound to.
    pub own: Address,
    /// The device that it is bound to, or 0.
    pub device: u32,
    pub address: Address,
    pub port: u16,
}

/// What becomes of it.
pub enum Verdict {
    /// It stays in the pod.
    Local,
    /// It goes out as the application asked.
    Direct(Counter),
    /// It goes to the agent, at this address.
    Capture(Address),
    /// It would go to the agent, but nothing is left to stand for its destination.
    Full,
    /// It fails.
    Refuse(Counter),
}

/// Decides about a connect(2) of an enrolled pod.
#[inline(always)]
pub fn judge(cookie: u64, pod: &Pod, prefixes: &Prefixes, to: &Asked) -> Verdict {
    // Whoever has a client's stand-in is shown as that client.
    if prefixes.is_client(&to.own) || prefixes.is_client(&to.address) {
        return Verdict::Refuse(Counter::Refused);
    }
    // Who has seen a stand-in elsewhere may as well use it.
    if to.address.is_local() || pod.owns(&to.address) || prefixes.is_out(&to.address) {
        return Verdict::Local;
    }
    if prefixes.is_of_v6(&to.address) {
        return Verdict::Refuse(Counter::Refused);
    }
    if is_excluded(cookie, pod, to) {
        return Verdict::Direct(Counter::Excluded);
    }
    if to.port == DNS_PORT
        && pod.flags & POD_NAMES != 0
        && maps::agent_listens(cookie)
        && let Some(address) = resolver(cookie, pod, prefixes, to)
    {
        return Verdict::Capture(address);
    }
    if !is_carried(&to.address) {
        return Verdict::Direct(Counter::Unknown);
    }
    // Nothing from there gets to another host; what answers it might.
    if to.own.is_loopback() {
        return Verdict::Refuse(Counter::Refused);
    }
    // What it is answered would not find it.
    if to.device != 0 && pod.device != 0 && to.device != pod.device {
        return Verdict::Refuse(Counter::Refused);
    }
    if pod.has_family_of(&to.address)
        && pod.flags & POD_STAND_INS != 0
        && maps::agent_listens(cookie)
    {
        // As without a mesh: who waits for a service by connecting to it waits.
        if maps::is_closed(&to.address, to.port) {
            return Verdict::Refuse(Counter::Refused);
        }
        return match maps::stand_in(&to.address) {
            Some(index) => Verdict::Capture(prefixes.out(to.address.is_v4(), index)),
            None => Verdict::Full,
        };
    }
    if pod.flags & POD_FAIL_OPEN != 0 {
        Verdict::Direct(Counter::FailedOpen)
    } else {
        Verdict::Refuse(Counter::Refused)
    }
}

/// Where a datagram of an enrolled pod goes instead, if it is a question for a name and the agent answers those. All else
/// goes where it would go without the agent.
#[inline(always)]
pub fn judge_question(cookie: u64, pod: &Pod, prefixes: &Prefixes, to: &Asked) -> Option<Address> {
    if to.port != DNS_PORT
        || pod.flags & POD_NAMES == 0
        || to.address.is_local()
        || pod.owns(&to.address)
        || prefixes.is_client(&to.own)
        || prefixes.is_client(&to.address)
        || prefixes.is_out(&to.address)
        || prefixes.is_of_v6(&to.address)
        || is_excluded(cookie, pod, to)
    {
        return None;
    }
    resolver(cookie, pod, prefixes, to)
}

/// The address that stands for a resolver of a pod with [`POD_NAMES`], if the agent answers in its place.
#[inline(always)]
fn resolver(cookie: u64, pod: &Pod, prefixes: &Prefixes, to: &Asked) -> Option<Address> {
    // What it is answered would not find a socket of another device, or of an address that is nobody's outside the pod.
    if pod.flags & POD_STAND_INS == 0
        || !pod.has_family_of(&to.address)
        || to.own.is_loopback()
        || (to.device != 0 && to.device != pod.device)
        || !maps::agent_answers(cookie)
    {
        return None;
    }
    let slot = maps::resolver(cookie, &to.address)?;
    Some(prefixes.out(to.address.is_v4(), FIRST_RESOLVER + slot))
}

/// Whether the pod's annotations keep the destination out of the mesh.
#[inline(always)]
fn is_excluded(cookie: u64, pod: &Pod, to: &Asked) -> bool {
    (pod.flags & POD_EXCLUDES_PORTS != 0 && maps::excludes_port(cookie, to.port))
        || (pod.flags & POD_EXCLUDES_CIDRS != 0 && maps::excludes_address(cookie, &to.address))
}

/// Whether the destination is the agent's to carry. As long as the mesh is not known completely, all are.
#[inline(always)]
fn is_carried(address: &Address) -> bool {
    let Some(global) = maps::global() else { return true };
    global.flags & GLOBAL_SYNCED == 0
        || global.flags & GLOBAL_CAPTURE_UNKNOWN != 0
        || maps::is_destination(address)
}
