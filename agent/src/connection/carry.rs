//! Carrying the bytes: the relay runs, policy is asked again on every change, and one line is written at the
//! end. Totals are told meanwhile by the thread's clock ([`super::Context::tell`]).
//!
//! A connection is this for most of its life, and a node may have many thousands that do nothing: what is
//! here holds no more than it needs until the end. Each future uses what it was given in place; to
//! move it would take room for both places.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::context::Context;
use super::inbound::Arrival;
use super::quota::Place;
use super::record::Record;
use crate::authorize::{Denial, Permit, Request, watch};
use crate::capture::PodCapture;
use crate::observe::labels::ResponseFlags;
use crate::tunnel::{
    Account, Brake, Passage, RelayError, TunnelStream, relay, relay_aboard, relay_tcp,
};

/// How long the end of a tunnel within another may take to arrive.
const LINGER: Duration = Duration::from_secs(10);

/// An open connection, until it ends.
pub(super) type Carrying = Pin<Box<dyn Future<Output = ()>>>;

/// From an app of this node into the tunnel it is aboard of.
pub(super) fn outbound_tunnel(record: Record, place: Place, tunnel: TunnelStream) -> Carrying {
    run(record, place, relay_aboard(tunnel), std::future::pending())
}

/// From an app of this node into a tunnel within a tunnel. The outer one goes on for a while after the end of the inner
/// one: what that has sent last may be under way in it.
pub(super) fn outbound_across(
    record: Record,
    place: Place,
    (inner, outer): (TunnelStream, TunnelStream),
) -> Carrying {
    let carrying = outbound_tunnel(record, place, inner);
    Box::pin(async move {
        carrying.await;
        drop(timeout(LINGER, relay_aboard(outer)).await);
    })
}

/// From an app of this node to where no tunnel leads.
pub(super) fn outbound_direct(
    record: Record,
    held: impl Sized + 'static,
    (app, server): (TcpStream, TcpStream),
    account: &Rc<Account>,
) -> Carrying {
    let live = record.live();
    let brake = live.set_brake(Brake::default());
    let relay = relay_tcp(app, server, Passage::Outbound, (live.progress(), &brake), account);
    let relay = Box::pin(relay);
    run(record, held, relay, std::future::pending())
}

/// From a tunnel to an app of this node, for as long as policy allows.
pub(super) fn inbound_tunnel(
    context: Rc<Context>,
    record: Record,
    place: Place,
    arrival: Arrival,
    tunnel: TunnelStream,
    app: TcpStream,
) -> Carrying {
    let live = record.live();
    let relay = relay(app, tunnel, live.progress());
    run(record, place, relay, revoked_of(context, arrival))
}

/// From a plaintext client to an app of this node, for as long as policy allows; `counted` counts it.
pub(super) fn inbound_plaintext(
    context: Rc<Context>,
    record: Record,
    counted: impl Sized + 'static,
    arrival: Arrival,
    (client, app): (TcpStream, TcpStream),
    (permit, account): (&Permit, &Rc<Account>),
) -> Carrying {
    let live = record.live();
    let brake = live.set_brake(Brake::default());
    let relay =
        relay_tcp(client, app, Passage::Inbound(permit), (live.progress(), &brake), account);
    let relay = Box::pin(relay);
    run(record, counted, relay, revoked_of(context, arrival))
}

fn revoked_of(context: Rc<Context>, arrival: Arrival) -> Pin<Box<impl Future<Output = Denial>>> {
    let (pod, request) = arrival.judged();
    revoked(context, pod, request)
}

/// Ends when policy no longer allows what it allowed.
pub(super) fn revoked(
    context: Rc<Context>,
    pod: Arc<PodCapture>,
    request: Request,
) -> Pin<Box<impl Future<Output = Denial>>> {
    Box::pin(async move {
        let hold = context.timings.hold;
        watch::revoked(&context.mesh, &pod.pod, &request, hold).await
    })
}

/// Runs a relay to its end. Dropping it half-way resets both sides. What is `held` is let go at the end.
pub(super) fn run(
    record: Record,
    held: impl Sized + 'static,
    mut relay: impl Future<Output = Result<(), RelayError>> + Unpin + 'static,
    mut revoked: impl Future<Output = Denial> + Unpin + 'static,
) -> Carrying {
    Box::pin(async move {
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
            Ok(Err(RelayError::Moved)) => record.moved(),
            Ok(Err(error)) => record.fail(ResponseFlags::None, &error),
        }
        drop(held);
    })
}
