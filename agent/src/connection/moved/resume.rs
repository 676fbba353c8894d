//! Here, from another agent.

use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use sotto_proto::handover::{self as proto, parcel::What};
use tokio_util::sync::CancellationToken;

use super::super::carry::{self, Carrying};
use super::super::context::{Context, MeshUnknown};
use super::super::inbound::Caller as Peer;
use super::super::of_pod::OfPod;
use super::super::plaintext::Encounter;
use super::super::quota::{Full, Place};
use super::super::record::Record;
use super::super::serve_streams;
use super::error::ResumeError as Error;
use super::parcel::Parcel;
use super::told::{self, Told};
use crate::authorize::{Request, watch};
use crate::capture::PodCapture;
use crate::identify::peer;
use crate::identify::svid::Svid;
use crate::mesh::SpiffeId;
use crate::observe::labels::Reporter;
use crate::tunnel::tls::Frozen;
use crate::tunnel::{
    Brake, Caller, Moving, Passage, PoolKey, Progress, Server, Terms, Trust, Way, relay_aboard,
    relay_tcp,
};

/// On which pod's part of which thread they go on.
pub struct Host {
    /// The thread's.
    pub context: Rc<Context>,
    /// The pod, as it is captured now.
    pub pod: Arc<PodCapture>,
    /// Its part of the thread.
    pub of_pod: Rc<OfPod>,
    /// Tells peers' tunnels to go elsewhere.
    pub stop: CancellationToken,
}

/// Goes on with connections of another agent: nothing moves in them until the futures are polled, each a task of its own.
///
/// # Errors
/// They cannot be gone on with; nothing was done to them.
pub async fn resume(host: Host, parcel: Parcel) -> Result<Vec<Carrying>, Error> {
    let Parcel { message, session, sockets } = parcel;
    match message.what.ok_or(Error::Unsound("nothing"))? {
        What::Accepted(tunnel) => accepted(host, tunnel, (session, sockets)).await,
        What::Dialled(tunnel) => dialled(host, tunnel, (session, sockets)).await,
        What::Plain(plain) => Ok(vec![carried_plain(host, plain, sockets)?]),
    }
}

async fn accepted(
    host: Host,
    told: proto::Accepted,
    parts: (Option<Frozen>, Vec<TcpStream>),
) -> Result<Vec<Carrying>, Error> {
    let Host { context, pod, of_pod, stop } = host;
    let home = context.home().await.map_err(unknown)?;
    let local = pod.pod.account.identity(&home.trust_domain);
    let svid = context.certificates.svid(&local).await.map_err(Error::Identity)?;
    let certificates = certificates(told.certificates);
    let identity = peer::chain_identity(&certificates).map_err(Error::Peer)?;
    let (client, destination) = (told::address(&told.client)?, told::address(&told.destination)?);
    let arrived = arrive(&context, &pod, &of_pod, told.connections)?;
    let moving = moving(told.tunnel, parts, &arrived)?;
    let (drain, abort) = (stop.child_token(), CancellationToken::new());
    let terms = Terms {
        account: Rc::clone(&of_pod.account),
        trust: unbelieved(&svid, told.shown_root),
        drain: drain.clone(),
        abort: abort.clone(),
    };
    let held = of_pod.quota.take().map_err(full)?;
    let (server, streams) = Server::thaw(moving, certificates, &context.limits, terms)?;
    let caller = Rc::new(Peer { pod: Arc::clone(&pod), home, client, destination, identity });
    let watched = context.accepted.watch(local, &server, &caller, (drain, abort));
    let carried = streams.into_iter().zip(arrived).map(|(stream, arrived)| {
        let (record, place, request) = arrived.open(&context);
        let revoked = carry::revoked(Rc::clone(&context), Arc::clone(&pod), request);
        carry::run(record, place, relay_aboard(stream), revoked)
    });
    let carried: Vec<Carrying> = carried.collect();
    let held = (held, watched);
    Ok(vec![Box::pin(serve_streams(Rc::clone(&context), of_pod, held, (server, carried), caller))])
}

async fn dialled(
    host: Host,
    told: proto::Dialled,
    parts: (Option<Frozen>, Vec<TcpStream>),
) -> Result<Vec<Carrying>, Error> {
    let Host { context, pod, of_pod, .. } = host;
    let source: SpiffeId = told.source.parse().map_err(|_| Error::Unsound("an identity"))?;
    let home = context.home().await.map_err(unknown)?;
    if source != pod.pod.account.identity(&home.trust_domain) {
        return Err(Error::Unsound("an identity"));
    }
    let svid = context.certificates.svid(&source).await.map_err(Error::Identity)?;
    let key = PoolKey {
        source,
        pod: pod.pod.uid.clone(),
        gateway: told::address(&told.gateway)?,
        expected: told.expected.into_iter().map(Into::into).collect(),
        alone: None,
    };
    let tls = svid.client_config(&key.expected);
    let caller = Caller {
        tls,
        trust: unbelieved(&svid, told.shown_root),
        account: Rc::clone(&of_pod.account),
    };
    let arrived = arrive(&context, &pod, &of_pod, told.connections)?;
    let moving = moving(told.tunnel, parts, &arrived)?;
    let streams = context.pool.thaw(key, moving, certificates(told.certificates), caller)?;
    let carried = streams.into_iter().zip(arrived).map(|(stream, arrived)| {
        let (record, place, _) = arrived.open(&context);
        carry::run(record, place, relay_aboard(stream), std::future::pending())
    });
    Ok(carried.collect())
}

fn carried_plain(
    host: Host,
    told: proto::Plain,
    sockets: Vec<TcpStream>,
) -> Result<Carrying, Error> {
    let Host { context, pod, of_pod, .. } = host;
    let connection = told.connection.ok_or(Error::Unsound("no connection"))?;
    let way = |told: Option<proto::Way>| {
        let proto::Way { rest, ended } = told.ok_or(Error::Unsound("no direction"))?;
        Ok::<_, Error>(Way { rest, ended })
    };
    let ways = [way(told.from_first)?, way(told.from_second)?];
    let [first, second] =
        <[TcpStream; 2]>::try_from(sockets).map_err(|_| Error::Unsound("sockets"))?.map(|socket| {
            socket.set_nonblocking(true)?;
            tokio::net::TcpStream::from_std(socket)
        });
    let ends = (first?, second?);
    let mut arrived = arrive(&context, &pod, &of_pod, vec![connection])?;
    let arrived = arrived.pop().ok_or(Error::Unsound("no connection"))?;
    let info = &arrived.told.info;
    let is_inbound = info.reporter == Reporter::Destination;
    let (server, client) = (info.destination.workload.clone(), info.source.workload.clone());
    let (record, place, request) = arrived.open(&context);
    let live = record.live();
    let brake = live.set_brake(Brake::at(ways));
    let account = Rc::clone(&of_pod.account);
    Ok(Box::pin(async move {
        let (progress, brake) = (live.progress(), &brake);
        if !is_inbound {
            let relay = relay_tcp(ends.0, ends.1, Passage::Outbound, (progress, brake), &account);
            return carry::run(record, place, Box::pin(relay), std::future::pending()).await;
        }
        let hold = context.timings.hold;
        let judged = watch::permit(&context.mesh, &pod.pod, &request, hold).await;
        let met = Encounter {
            pod: &pod.pod,
            workload: server.as_deref(),
            client: client.as_deref(),
            request: &request,
        };
        match judged {
            Err(denial) => {
                context.plaintext.keep_out(&met);
                record.deny(&denial);
            }
            Ok(permit) => {
                // Who comes in the clear is told by the agent that lets it in.
                let held = (place, context.plaintext.let_in(&met));
                let passage = Passage::Inbound(&permit);
                let relay = relay_tcp(ends.0, ends.1, passage, (progress, brake), &account);
                let revoked = carry::revoked(Rc::clone(&context), Arc::clone(&pod), request);
                carry::run(record, held, Box::pin(relay), revoked).await;
            }
        }
    }))
}

/// A connection that is going to be gone on with.
struct Arrived {
    told: Told,
    place: Place,
    progress: Rc<Progress>,
}

impl Arrived {
    /// Tells of it here from now on; with it, what policies judge.
    fn open(self, context: &Context) -> (Record, Place, Request) {
        let Self { told: Told { info, way, age, .. }, place, progress } = self;
        let request = Request {
            source_ip: info.source.address.ip(),
            source: info.source.identity.clone().filter(|_| info.mutual_tls),
            destination: way.original_destination,
        };
        (Record::resume(context, info, way, (progress, age)), place, request)
    }
}

fn arrive(
    context: &Context,
    pod: &PodCapture,
    of_pod: &OfPod,
    told: Vec<proto::Connection>,
) -> Result<Vec<Arrived>, Error> {
    let mesh = context.mesh.load();
    let arrive = |told| {
        let told = told::arriving(told, pod, &mesh)?;
        let progress = Rc::new(Progress::at(told.sent, told.received));
        Ok(Arrived { told, place: of_pod.quota.take().map_err(full)?, progress })
    };
    told.into_iter().map(arrive).collect()
}

fn moving(
    tunnel: Option<proto::Tunnel>,
    (session, sockets): (Option<Frozen>, Vec<TcpStream>),
    arrived: &[Arrived],
) -> Result<Moving, Error> {
    let tunnel = tunnel.ok_or(Error::Unsound("no tunnel"))?;
    let session = session.ok_or(Error::Unsound("no TLS session"))?;
    let mut sockets = sockets.into_iter();
    let tcp = sockets.next().ok_or(Error::Unsound("no socket"))?;
    if sockets.len() != arrived.len() {
        return Err(Error::Unsound("sockets"));
    }
    let progress = arrived.iter().map(|arrived| Rc::clone(&arrived.progress));
    Ok(Moving { tunnel, session, tcp, apps: sockets.zip(progress).collect() })
}

/// By what this process believes the peer is looked at anew, at once. What it was shown it was shown by another process: at
/// the end of a change of roots, the certificate that this one has may hang on another.
fn unbelieved(svid: &Svid, shown: u32) -> Trust {
    Trust { by: !svid.trust(), shown }
}

fn certificates(told: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    told.into_iter().map(CertificateDer::from).collect()
}

fn full(full: Full) -> Error {
    Error::Full(full.to_string())
}

fn unknown(unknown: MeshUnknown) -> Error {
    Error::Mesh(crate::error::chain(&unknown))
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("pod", &self.pod.pod.name).finish_non_exhaustive()
    }
}
