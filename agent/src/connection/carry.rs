//! Carrying the bytes: the relay runs, policy is asked again on every change, and one line is written at the
//! end. Totals are told meanwhile by the thread's clock ([`super::Context::tell`]).

use std::pin::pin;

use tokio::net::TcpStream;

use super::context::Context;
use super::inbound::Arrival;
use super::record::Record;
use crate::authorize::{Denial, Permit, watch};
use crate::observe::labels::ResponseFlags;
use crate::tunnel::{Passage, RelayError, TunnelStream, relay, relay_aboard, relay_tcp};

/// From an app of this node into the tunnel it is aboard of.
pub(super) async fn outbound_tunnel(record: Record, tunnel: TunnelStream) {
    run(record, relay_aboard(tunnel), std::future::pending()).await;
}

/// From an app of this node to where no tunnel leads.
pub(super) async fn outbound_direct(record: Record, app: TcpStream, server: TcpStream) {
    let live = record.live();
    let relay = relay_tcp(app, server, Passage::Outbound, live.progress());
    run(record, relay, std::future::pending()).await;
}

/// From a tunnel to an app of this node, for as long as policy allows.
pub(super) async fn inbound_tunnel(
    context: &Context,
    record: Record,
    arrival: &Arrival,
    tunnel: TunnelStream,
    app: TcpStream,
) {
    let live = record.live();
    run(record, relay(app, tunnel, live.progress()), revoked(context, arrival)).await;
}

/// From a plaintext client to an app of this node, for as long as policy allows.
pub(super) async fn inbound_plaintext(
    context: &Context,
    record: Record,
    arrival: &Arrival,
    client: TcpStream,
    app: TcpStream,
    permit: &Permit,
) {
    let live = record.live();
    let relay = relay_tcp(client, app, Passage::Inbound(permit), live.progress());
    run(record, relay, revoked(context, arrival)).await;
}

/// Ends when policy no longer allows what it allowed.
async fn revoked(context: &Context, arrival: &Arrival) -> Denial {
    let (pod, request) = (&arrival.pod().pod, arrival.request());
    watch::revoked(&context.mesh, &context.network, pod, request, context.timings.hold).await
}

/// Runs a relay to its end. Dropping it half-way resets both sides.
async fn run(
    record: Record,
    relay: impl Future<Output = Result<(), RelayError>>,
    revoked: impl Future<Output = Denial>,
) {
    let (mut relay, mut revoked) = (Box::pin(relay), pin!(revoked));
    let ended = tokio::select! {
        // A denial goes before an end. The bytes go on in the tunnel's task, by at most one pass of
        // it until this is dropped.
        biased;
        denial = &mut revoked => Err(denial),
        ended = &mut relay => Ok(ended),
    };
    // Both sides are closed before anyone reads of it.
    drop(relay);
    match ended {
        Err(denial) => record.deny(&denial),
        Ok(Ok(())) => record.complete(),
        Ok(Err(error)) => record.fail(ResponseFlags::None, &error),
    }
}
