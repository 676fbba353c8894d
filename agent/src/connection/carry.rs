//! Carrying the bytes: the relay runs, totals are told every few seconds, policy is asked again on
//! every change, and one line is written at the end.

use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use super::context::Context;
use super::inbound::Arrival;
use super::record::Record;
use crate::authorize::{Denial, Permit, watch};
use crate::observe::connection::Transferred;
use crate::observe::labels::ResponseFlags;
use crate::tunnel::{Passage, Progress, RelayError, TunnelStream, relay, relay_tcp};

/// How often the totals of a long connection are told.
const TELL: Duration = Duration::from_secs(5);

/// From an app of this node into a tunnel.
pub(super) async fn outbound_tunnel(record: Record, app: TcpStream, tunnel: TunnelStream) {
    let progress = Progress::default();
    let from_app =
        |p: &Progress| Transferred { from_client_bytes: p.sent(), from_server_bytes: p.received() };
    let relay = relay(app, tunnel, &progress);
    run(record, &progress, from_app, relay, std::future::pending()).await;
}

/// From an app of this node to where no tunnel leads.
pub(super) async fn outbound_direct(record: Record, app: TcpStream, server: TcpStream) {
    let progress = Progress::default();
    let from_app =
        |p: &Progress| Transferred { from_client_bytes: p.sent(), from_server_bytes: p.received() };
    let relay = relay_tcp(app, server, Passage::Outbound, &progress);
    run(record, &progress, from_app, relay, std::future::pending()).await;
}

/// From a tunnel to an app of this node, for as long as policy allows.
pub(super) async fn inbound_tunnel(
    context: &Context,
    record: Record,
    arrival: &Arrival,
    tunnel: TunnelStream,
    app: TcpStream,
) {
    let progress = Progress::default();
    let to_app =
        |p: &Progress| Transferred { from_client_bytes: p.received(), from_server_bytes: p.sent() };
    let relay = relay(app, tunnel, &progress);
    run(record, &progress, to_app, relay, revoked(context, arrival)).await;
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
    let progress = Progress::default();
    let to_app =
        |p: &Progress| Transferred { from_client_bytes: p.sent(), from_server_bytes: p.received() };
    let relay = relay_tcp(client, app, Passage::Inbound(permit), &progress);
    run(record, &progress, to_app, relay, revoked(context, arrival)).await;
}

/// Ends when policy no longer allows what it allowed.
async fn revoked(context: &Context, arrival: &Arrival) -> Denial {
    let (pod, request) = (&arrival.pod().pod, arrival.request());
    watch::revoked(&context.mesh, &context.network, pod, request, context.timings.hold).await
}

/// Runs a relay to its end. Dropping it half-way resets both sides.
async fn run(
    mut record: Record,
    progress: &Progress,
    total: impl Fn(&Progress) -> Transferred,
    relay: impl Future<Output = Result<(), RelayError>>,
    revoked: impl Future<Output = Denial>,
) {
    let (mut relay, mut revoked) = (Box::pin(relay), pin!(revoked));
    let mut tell = interval(TELL);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tell.reset();
    let ended = loop {
        tokio::select! {
            // A denial goes first: not one more byte for who may not have it.
            biased;
            denial = &mut revoked => break Err(denial),
            ended = &mut relay => break Ok(ended),
            _ = tell.tick() => record.transferred(total(progress)),
        }
    };
    // Both sides are closed before anyone reads of it.
    drop(relay);
    match ended {
        Err(denial) => record.deny(total(progress), &denial),
        Ok(Ok(())) => record.complete(total(progress)),
        Ok(Err(error)) => record.fail_after(total(progress), ResponseFlags::None, &error),
    }
}
