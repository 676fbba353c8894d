//! The story: what happens to a captured connection, outbound and inbound.
//!
//! A connection is one task on one data thread. It waits a bounded time for what is not known yet;
//! whatever goes wrong ends in a reset for the app and one line in the access log.

mod carry;
mod context;
mod denied;
mod inbound;
mod of_pod;
mod open;
mod plaintext;
mod quota;
mod record;
mod upstream;

use std::rc::Rc;

use http::HeaderMap;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authorize::watch;
use crate::capture::{Captured, Role};
use crate::identify::peer;
use crate::observe::labels::{Reporter, ResponseFlags};
use crate::route::{self, Route};
use crate::sys::socket;
use crate::tunnel::accept::{self, Incoming};
use crate::tunnel::hbone;

use inbound::{Arrival, Caller};

pub use context::{Context, Shared, Timings};
pub use of_pod::OfPod;
pub use open::{Direction, OpenConnection};
pub use plaintext::{PlaintextPeer, PlaintextPeers, Tally};
pub use quota::Quota;

/// Serves one captured connection to its end, if its pod may have another; `stop` tells peers' tunnels to
/// go elsewhere.
pub async fn handle(
    context: &Rc<Context>,
    captured: Captured,
    of_pod: &Rc<OfPod>,
    stop: &CancellationToken,
) {
    // Whatever cuts it short, an app sees a reset, never what looks like an orderly end. A tunnel's
    // peer is no app: it may have an alert to read.
    if captured.role != Role::Hbone
        && let Err(error) = socket::reset_on_close(&captured.stream)
    {
        tracing::debug!(%error, client = %captured.client, "the client is gone already");
        return;
    }
    let _place = match of_pod.quota.take() {
        Ok(place) => place,
        Err(full) => {
            let outbound = captured.role == Role::Outbound;
            let reporter = if outbound { Reporter::Source } else { Reporter::Destination };
            return record::never_opened(reporter, &captured, &full);
        }
    };
    match captured.role {
        Role::Outbound => outbound(context, captured).await,
        // Boxed, so that a connection of the other kind does not hold the room for it.
        Role::Plaintext => Box::pin(inbound_plaintext(context, of_pod, captured)).await,
        Role::Hbone => Box::pin(inbound_tunnel(context, captured, of_pod, stop)).await,
    }
}

/// From an app of this node to wherever the mesh says its destination is.
async fn outbound(context: &Context, captured: Captured) {
    let mesh = match context.synced_mesh().await {
        Ok(mesh) => mesh,
        Err(unknown) => return record::never_opened(Reporter::Source, &captured, &unknown),
    };
    let (pod, destination) = (&captured.pod.pod, captured.original_destination);
    let source = mesh.workload_of(&context.network, pod).cloned();
    let route = route::outbound(
        &mesh,
        pod,
        source.as_deref(),
        &context.network,
        destination,
        &mut rand::rng(),
    );
    // The connection may outlive many snapshots; it must not keep this one.
    drop(mesh);
    let record = record::outbound(context, &captured, source.clone(), &route);
    match route {
        Route::Tunnel(to) => {
            let (source, live) = (source.as_deref(), record.live());
            let from = (captured.client, captured.stream, live.progress());
            // Boxed, and gone once there is a stream: dialling takes more room than carrying.
            let tunnel = Box::pin(upstream::tunnel(context, &captured.pod, from, source, &to));
            match tunnel.await {
                Ok(tunnel) => carry::outbound_tunnel(record, tunnel).await,
                Err(error) => record.fail(error.flags(), &error),
            }
        }
        Route::Direct(to) => {
            match Box::pin(upstream::direct(context, &captured.pod, to.target)).await {
                Ok(server) => carry::outbound_direct(record, captured.stream, server).await,
                Err(error) => record.fail(ResponseFlags::Connect, &error),
            }
        }
        Route::Refuse(error) => record.fail(ResponseFlags::Connect, &error),
    }
}

/// From outside the mesh, in the clear, to an app of this node.
async fn inbound_plaintext(context: &Context, of_pod: &OfPod, captured: Captured) {
    let arrival = match Arrival::plaintext(context, &captured) {
        Ok(arrival) => arrival,
        Err(error) => return record::never_opened(Reporter::Destination, &captured, &error),
    };
    let record = arrival.record(context);
    let (pod, request) = (&captured.pod.pod, arrival.request());
    let hold = context.timings.hold;
    let judged = Box::pin(watch::permit(&context.mesh, &context.network, pod, request, hold));
    let permit = match judged.await {
        Ok(permit) => permit,
        Err(denial) => {
            context.plaintext.keep_out(&arrival.encounter());
            denied::reset(captured.stream).await;
            return record.deny(&denial);
        }
    };
    let _counted = context.plaintext.let_in(&arrival.encounter());
    match Box::pin(upstream::app(context, &of_pod.dialler, &arrival)).await {
        Ok(app) => {
            let client = captured.stream;
            carry::inbound_plaintext(context, record, &arrival, client, app, &permit).await;
        }
        Err(error) => record.fail(ResponseFlags::Connect, &error),
    }
}

/// From another pod of the mesh: a tunnel, and in it a stream for each connection.
async fn inbound_tunnel(
    context: &Rc<Context>,
    captured: Captured,
    of_pod: &Rc<OfPod>,
    stop: &CancellationToken,
) {
    let (mut tunnel, caller) = match handshake(context, captured, stop).await {
        Some(done) => done,
        None => return,
    };
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            incoming = tunnel.next() => match incoming {
                Some(incoming) => {
                    let (context, caller) = (context.clone(), caller.clone());
                    streams.spawn_local(inbound_stream(context, of_pod.clone(), caller, incoming));
                }
                None => break,
            },
            Some(ended) = streams.join_next() => log_panic(ended),
        }
    }
    while let Some(ended) = streams.join_next().await {
        log_panic(ended);
    }
}

/// From another pod, through its tunnel, to an app of this node.
async fn inbound_stream(
    context: Rc<Context>,
    of_pod: Rc<OfPod>,
    caller: Caller,
    incoming: Incoming,
) {
    let _place = match of_pod.quota.take() {
        Ok(place) => place,
        Err(full) => {
            record::unservable(&caller, &full);
            return incoming.refuse(hbone::UNAVAILABLE);
        }
    };
    let arrival = match Arrival::tunnelled(&context, &caller, &incoming) {
        Ok(arrival) => arrival,
        Err(error) => {
            record::unservable(&caller, &error);
            return incoming.refuse(error.status());
        }
    };
    let record = arrival.record(&context);
    let (pod, request) = (&caller.pod.pod, arrival.request());
    let hold = context.timings.hold;
    let judged = Box::pin(watch::permit(&context.mesh, &context.network, pod, request, hold));
    let permit = match judged.await {
        Ok(permit) => permit,
        Err(denial) => {
            incoming.refuse(inbound::status(&denial));
            return record.deny(&denial);
        }
    };
    let app = match Box::pin(upstream::app(&context, &of_pod.dialler, &arrival)).await {
        Ok(app) => app,
        Err(error) => {
            incoming.refuse(hbone::UNAVAILABLE);
            return record.fail(ResponseFlags::Connect, &error);
        }
    };
    match incoming.accept(&permit, answer(&context, &arrival)) {
        Ok(stream) => carry::inbound_tunnel(&context, record, &arrival, stream, app).await,
        Err(error) => record.fail(ResponseFlags::H2HandshakeFailure, &error),
    }
}

/// Takes a tunnel from a peer that proves who it is; what goes wrong is logged.
async fn handshake(
    context: &Context,
    captured: Captured,
    stop: &CancellationToken,
) -> Option<(accept::Server, Caller)> {
    let pod = captured.pod.clone();
    let (client, destination) = (captured.client, captured.original_destination);
    let failed = |error: &(dyn std::error::Error + 'static)| {
        record::never_opened_at(Reporter::Destination, client, destination, error);
    };
    let svid =
        context.certificates.svid(&pod.pod.identity).await.inspect_err(|e| failed(e)).ok()?;
    let tls = svid.server_config();
    let tunnel = accept::accept(captured.stream, tls, &context.limits, stop.clone())
        .await
        .inspect_err(|e| failed(e))
        .ok()?;
    let identity =
        peer::chain_identity(tunnel.peer_certificates()).inspect_err(|e| failed(e)).ok()?;
    Some((tunnel, Caller { pod, client, destination, identity }))
}

/// Headers of a 200: who answers.
fn answer(context: &Context, arrival: &Arrival) -> HeaderMap {
    let pod = &arrival.pod().pod;
    let baggage = upstream::baggage(context, pod, arrival.workload()).header();
    baggage.map(|value| (hbone::BAGGAGE, value)).into_iter().collect()
}

/// A panic in one stream is that stream's alone.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; the connection was reset");
    }
}
