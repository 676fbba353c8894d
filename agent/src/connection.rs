//! The story: what happens to a captured connection, outbound and inbound.
//!
//! A connection is one task on one data thread. It waits a bounded time for what is not known yet;
//! whatever goes wrong ends in a reset for the app and one line in the access log.

mod accepted;
mod across;
mod carry;
mod context;
mod denied;
mod direct;
mod hops;
mod hosts;
mod inbound;
mod life;
mod moved;
mod names;
mod of_pod;
mod open;
mod plaintext;
mod quota;
mod record;
mod trust;
mod upstream;

use std::io;
use std::rc::Rc;

use http::HeaderMap;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authorize::watch;
use crate::capture::{Captured, Role};
use crate::identify::peer;
use crate::mesh::Home;
use crate::observe::labels::{Reporter, ResponseFlags};
use crate::route::{self, Route, RouteError};
use crate::sys::socket;
use crate::tunnel::accept::{self, AcceptError, Incoming};
use crate::tunnel::{Terms, hbone};

use accepted::Watched;
use carry::Carrying;
use inbound::{Arrival, Caller};
use life::{Connection, Opening};
use quota::Place;

pub use context::{Context, Shared, Timings};
pub use hosts::{HostError, Hosts};
pub use moved::{Departure, Host, Parcel, ResumeError, departures, resume};
pub use names::serve as answer_names;
pub use of_pod::OfPod;
pub use open::{Direction, OpenConnection};
pub use plaintext::{PlaintextPeer, PlaintextPeers, Tally};
pub use quota::{Means, Quota};

/// Serves one captured connection to its end, if its pod may have another; `stop` tells peers' tunnels to
/// go elsewhere.
pub fn handle(
    context: Rc<Context>,
    captured: Captured,
    of_pod: Rc<OfPod>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Unpin {
    open(context, captured, of_pod, stop).map_or(Connection::Over, Connection::Opening)
}

/// Starts to open a captured connection, if it can be.
fn open(
    context: Rc<Context>,
    captured: Captured,
    of_pod: Rc<OfPod>,
    stop: CancellationToken,
) -> Option<Opening> {
    let place = match of_pod.quota.take() {
        Ok(place) => place,
        Err(full) => {
            let outbound = captured.role == Role::Outbound;
            let reporter = if outbound { Reporter::Source } else { Reporter::Destination };
            record::never_opened(reporter, &captured, &full);
            return None;
        }
    };
    if captured.asks {
        return Some(Box::pin(async move {
            names::stream(context, of_pod, captured, place).await;
            None
        }));
    }
    Some(match captured.role {
        Role::Outbound => Box::pin(outbound(context, of_pod, captured, place)),
        Role::Plaintext => Box::pin(inbound_plaintext(context, of_pod, captured, place)),
        Role::Hbone => Box::pin(inbound_tunnel(context, captured, of_pod, stop, place)),
    })
}

/// From an app of this node to wherever the mesh says its destination is.
async fn outbound(
    context: Rc<Context>,
    of_pod: Rc<OfPod>,
    captured: Captured,
    place: Place,
) -> Option<Carrying> {
    let (mesh, home) = match context.synced_mesh().await {
        Ok(known) => known,
        Err(unknown) => {
            record::never_opened(Reporter::Source, &captured, &unknown);
            return None;
        }
    };
    let (pod, destination) = (&captured.pod.pod, captured.original_destination);
    let source = mesh.workload_of(pod).cloned();
    let client = captured.client.ip();
    // An application has an address of its pod's. Few have another than its first.
    let route = if !pod.owns(client) && captured.pod.stand_ins.has_client(client) {
        Route::Refuse(RouteError::Back(destination))
    } else {
        let rng = &mut rand::rng();
        route::outbound(&mesh, pod, source.as_deref(), &home.network, destination, rng)
    };
    // The connection may outlive many snapshots; it must not keep this one.
    drop(mesh);
    let route = context.hosts.settle(pod, route, context.metrics.names()).await;
    let record = record::outbound(&context, &home, &captured, source.clone(), &route);
    match &route {
        Route::Tunnel(to) => {
            let from = upstream::From {
                context: &context,
                home: &home,
                pod: &captured.pod,
                account: &of_pod.account,
                client: captured.client,
                source: source.as_deref(),
                route: to,
            };
            if let Some(across) = &to.across {
                return across::open(&from, across, captured.stream, (record, place)).await;
            }
            let live = record.live();
            match upstream::tunnel(&from, (captured.stream, live.progress())).await {
                Ok(tunnel) => return Some(carry::outbound_tunnel(record, place, tunnel)),
                Err(error) => record.fail(error.flags(), &error),
            }
        }
        Route::Direct(to) => {
            let opening = direct::open(&context, &of_pod, captured, (record, place), to.target);
            return Box::pin(opening).await;
        }
        Route::Refuse(error) => record.fail(ResponseFlags::Connect, error),
        Route::Resolve(to) => record.fail(ResponseFlags::Connect, &to.failure()),
    }
    None
}

/// From outside the mesh, in the clear, to an app of this node.
async fn inbound_plaintext(
    context: Rc<Context>,
    of_pod: Rc<OfPod>,
    captured: Captured,
    place: Place,
) -> Option<Carrying> {
    let arrival = match Arrival::plaintext(&context, &captured) {
        Ok(arrival) => arrival,
        Err(error) => {
            record::never_opened(Reporter::Destination, &captured, &error);
            return None;
        }
    };
    let record = arrival.record(&context);
    let (pod, request) = (&captured.pod.pod, arrival.request());
    let hold = context.timings.hold;
    let judged = Box::pin(watch::permit(&context.mesh, pod, request, hold));
    let permit = match judged.await {
        Ok(permit) => permit,
        Err(denial) => {
            context.plaintext.keep_out(&arrival.encounter());
            denied::reset(captured.stream).await;
            record.deny(&denial);
            return None;
        }
    };
    let held = (place, context.plaintext.let_in(&arrival.encounter()));
    let dial = upstream::app(&context, &of_pod.dialler, &arrival);
    let gone = async {
        upstream::AppError::Connect(socket::gave_up(&captured.stream, context.timings.ended).await)
    };
    match Box::pin(upstream::while_waited_for(dial, gone)).await {
        Ok(app) => {
            let ends = (captured.stream, app);
            let by = (&permit, &of_pod.account);
            Some(carry::inbound_plaintext(context, record, held, arrival, ends, by))
        }
        Err(error) => {
            record.fail(ResponseFlags::Connect, &error);
            None
        }
    }
}

/// From another pod of the mesh: a tunnel, and in it a stream for each connection.
async fn inbound_tunnel(
    context: Rc<Context>,
    captured: Captured,
    of_pod: Rc<OfPod>,
    stop: CancellationToken,
    place: Place,
) -> Option<Carrying> {
    let (tunnel, caller, watched) = handshake(&context, &of_pod, captured, stop).await?;
    let (held, tunnel) = ((place, watched), (tunnel, Vec::new()));
    Some(Box::pin(serve_streams(context, of_pod, held, tunnel, caller)))
}

/// Serves a tunnel's streams, those that are open first, until it has ended.
async fn serve_streams(
    context: Rc<Context>,
    of_pod: Rc<OfPod>,
    _held: (Place, Watched),
    (mut tunnel, open): (accept::Server, Vec<Carrying>),
    caller: Rc<Caller>,
) {
    let mut streams = JoinSet::new();
    open.into_iter().for_each(|carrying| drop(streams.spawn_local(carrying)));
    loop {
        tokio::select! {
            incoming = tunnel.next() => match incoming {
                Some(incoming) => {
                    let (context, caller) = (context.clone(), caller.clone());
                    let opening = inbound_stream(context, of_pod.clone(), caller, incoming);
                    streams.spawn_local(Connection::Opening(Box::pin(opening)));
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
    caller: Rc<Caller>,
    incoming: Incoming,
) -> Option<Carrying> {
    let place = match of_pod.quota.take() {
        Ok(place) => place,
        Err(full) => {
            record::unservable(&caller, &full);
            incoming.refuse(hbone::UNAVAILABLE);
            return None;
        }
    };
    let arrival = match Arrival::tunnelled(&context, &caller, &incoming) {
        Ok(arrival) => arrival,
        Err(error) => {
            record::unservable(&caller, &error);
            incoming.refuse(error.status());
            return None;
        }
    };
    let record = arrival.record(&context);
    let (pod, request) = (&caller.pod.pod, arrival.request());
    let hold = context.timings.hold;
    let judged = Box::pin(watch::permit(&context.mesh, pod, request, hold));
    let permit = match judged.await {
        Ok(permit) => permit,
        Err(denial) => {
            incoming.refuse(inbound::status(&denial));
            record.deny(&denial);
            return None;
        }
    };
    let dial = upstream::app(&context, &of_pod.dialler, &arrival);
    let gone = async {
        incoming.gave_up().await;
        upstream::AppError::Connect(io::ErrorKind::ConnectionReset.into())
    };
    let app = match Box::pin(upstream::while_waited_for(dial, gone)).await {
        Ok(app) => app,
        Err(error) => {
            incoming.refuse(hbone::UNAVAILABLE);
            record.fail(ResponseFlags::Connect, &error);
            return None;
        }
    };
    match incoming.accept(&permit, answer(&caller.home, &arrival)) {
        Ok(stream) => Some(carry::inbound_tunnel(context, record, place, arrival, stream, app)),
        Err(error) => {
            record.fail(ResponseFlags::H2HandshakeFailure, &error);
            None
        }
    }
}

/// Takes a tunnel from a peer that proves who it is; what goes wrong is logged.
async fn handshake(
    context: &Context,
    of_pod: &OfPod,
    captured: Captured,
    stop: CancellationToken,
) -> Option<(accept::Server, Rc<Caller>, Watched)> {
    let pod = captured.pod.clone();
    let (client, destination) = (captured.client, captured.original_destination);
    let failed = |error: &(dyn std::error::Error + 'static)| {
        record::never_opened_at(Reporter::Destination, &pod.pod, (client, destination), error);
    };
    let home = context.home().await.inspect_err(|e| failed(e)).ok()?;
    let local = pod.pod.account.identity(&home.trust_domain);
    let svid = context.certificates.svid(&local).await.inspect_err(|e| failed(e)).ok()?;
    let tls = svid.server_config();
    let abort = CancellationToken::new();
    let (drain, account) = (stop.child_token(), of_pod.account.clone());
    let ends = (drain.clone(), abort.clone());
    let terms = Terms { account, trust: trust::of(&svid), drain, abort: abort.clone() };
    let begun = of_pod.handshakes.enter(client.ip(), abort.clone());
    let accepted = accept::accept(captured.stream, tls, &context.limits, terms).await;
    let tunnel = match accepted {
        Err(AcceptError::Stopped) if abort.is_cancelled() => {
            failed(&Crowded(of_pod.handshakes.most()));
            return None;
        }
        accepted => accepted.inspect_err(|e| failed(e)).ok()?,
    };
    drop(begun);
    let identity =
        peer::chain_identity(tunnel.peer_certificates()).inspect_err(|e| failed(e)).ok()?;
    let caller = Rc::new(Caller { pod, home, client, destination, identity });
    let watched = context.accepted.watch(local, &tunnel, &caller, ends);
    Some((tunnel, caller, watched))
}

/// A handshake was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("given up for a newer handshake: {0} are unfinished, most of them of this source")]
struct Crowded(usize);

/// Headers of a 200: who answers.
fn answer(home: &Home, arrival: &Arrival) -> HeaderMap {
    let pod = &arrival.pod().pod;
    let baggage = upstream::baggage(home, pod, arrival.workload()).header();
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
