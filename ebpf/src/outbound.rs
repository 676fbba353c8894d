//! What becomes of a pod's connect(2).

use sotto_abi::{
    Address, Counter, GLOBAL_CAPTURE_UNKNOWN, GLOBAL_SYNCED, POD_EXCLUDES_CIDRS,
    POD_EXCLUDES_PORTS, POD_FAIL_OPEN, Pod,
};

use crate::maps;

/// Where a connect(2) goes. Port in host order.
pub struct Destination {
    pub address: Address,
    pub port: u16,
}

/// What becomes of it.
pub enum Verdict {
    /// It stays in the pod.
    Local,
    /// It goes out as the application asked.
    Direct(Counter),
    /// It goes to the agent.
    Capture(Counter),
    /// It fails.
    Refuse(Counter),
}

/// Decides about a connect(2) of an enrolled pod.
#[inline(always)]
pub fn judge(cookie: u64, pod: &Pod, to: &Destination) -> Verdict {
    if to.address.is_local() || pod.owns(&to.address) {
        return Verdict::Local;
    }
    if is_excluded(cookie, pod, to) {
        return Verdict::Direct(Counter::Excluded);
    }
    if !is_carried(&to.address) {
        return Verdict::Direct(Counter::Unknown);
    }
    if pod.has_family_of(&to.address) && maps::agent_listens(cookie) {
        return Verdict::Capture(Counter::Captured);
    }
    if pod.flags & POD_FAIL_OPEN != 0 {
        Verdict::Direct(Counter::FailedOpen)
    } else {
        Verdict::Refuse(Counter::Refused)
    }
}

/// Whether the pod's annotations keep the destination out of the mesh.
#[inline(always)]
fn is_excluded(cookie: u64, pod: &Pod, to: &Destination) -> bool {
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
