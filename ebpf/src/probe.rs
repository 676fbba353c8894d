//! Knows the kubelet's connections by their four-tuple, from connect to close: those to where a pod's own spec
//! declares probes. A probe of some other pod's address is no different from the connection of anyone.
//!
//! Kept until the end, not only until the handshake is done: with SYN cookies the last packet of the handshake
//! is looked up like the first. Dropped at the end: another process may get the same port next.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
};
use aya_ebpf::programs::SockOpsContext;

use crate::{context, maps};

/// Follows a socket of the kubelet.
#[inline(always)]
pub fn follow(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            let flow = context::own_flow(ctx);
            // A flow whose end would go unseen is not exempt: the probe then meets the mesh, and fails safe.
            if maps::may_be_probed(&flow)
                && ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32).is_ok()
            {
                let _full_means_not_exempt = maps::remember(&flow);
            }
        }
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            maps::forget(&context::own_flow(ctx));
        }
        _ => {}
    }
}
