//! The far side of a connection: a tunnel, a destination outside the mesh, or the app.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use rand::Rng;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::context::Context;
use super::inbound::Arrival;
use super::trust;
use crate::capture::PodCapture;
use crate::capture::bpf::StandInError;
use crate::identify::certs::CertificateError;
use crate::mesh::workload::WorkloadKind;
use crate::mesh::{Home, LocalPod, Workload};
use crate::observe::labels::ResponseFlags;
use crate::route::TunnelRoute;
use crate::sys::socket::{self, AppDialler, Dialled};
use crate::tunnel::hbone::{self, Baggage, Forwarded, TraceParent};
use crate::tunnel::{Account, Asked, Caller, ConnectError, PoolKey, Progress, TunnelStream};

/// When a dial is worth a line of the log. There is one at a time of a pod to a destination.
const SLOW: Duration = Duration::from_secs(10);

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    /// The pod has no certificate to show.
    #[error("failed to identify the pod")]
    Identity(#[source] CertificateError),
    /// The far end did not take the stream.
    #[error("failed to tunnel")]
    Connect(#[source] ConnectError),
    /// Behind the gateway of another network nobody took the stream.
    #[error("failed to tunnel to who serves on the other network")]
    Beyond(#[source] ConnectError),
    /// There is no way to put one tunnel into another.
    #[error("failed to make a connection of the agent's own")]
    Pair(#[source] io::Error),
    /// The far end did not answer on port 15008 at all.
    #[error("connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008")]
    Blocked(#[source] ConnectError),
}

impl TunnelError {
    /// What metrics say of it.
    pub(super) fn flags(&self) -> ResponseFlags {
        match self {
            Self::Identity(_) => ResponseFlags::IdentityError,
            Self::Blocked(_) => ResponseFlags::NetworkPolicy,
            Self::Pair(_) => ResponseFlags::Connect,
            Self::Connect(error) | Self::Beyond(error) => match error {
                ConnectError::Tls { .. } => ResponseFlags::TlsFailure,
                ConnectError::H2 { .. } => ResponseFlags::H2HandshakeFailure,
                ConnectError::App { .. } => ResponseFlags::None,
                ConnectError::Refused { status, .. } if *status == hbone::DENIED => {
                    ResponseFlags::Deny
                }
                _ => ResponseFlags::Connect,
            },
        }
    }
}

/// A connection of a pod of this node, and where it leads; as it is told to the far end.
pub(super) struct From<'a> {
    pub(super) context: &'a Context,
    pub(super) home: &'a Home,
    pub(super) pod: &'a PodCapture,
    pub(super) account: &'a Rc<Account>,
    pub(super) client: SocketAddr,
    pub(super) source: Option<&'a Workload>,
    pub(super) route: &'a TunnelRoute,
}

/// A stream to where the route leads, as the pod's own identity, with the app aboard.
pub(super) async fn tunnel(
    from: &From<'_>,
    (app, progress): (TcpStream, &Rc<Progress>),
) -> Result<TunnelStream, TunnelError> {
    let From { context, pod, route, .. } = *from;
    let local = &pod.pod;
    let source = local.account.identity(&from.home.trust_domain);
    let svid = context.certificates.svid(&source).await.map_err(TunnelError::Identity)?;
    let key = PoolKey {
        source,
        pod: local.uid.clone(),
        gateway: route.gateway,
        expected: route.expected.clone(),
        alone: None,
    };
    // Boxed once it is needed, as most find a tunnel that is there, and lent: many futures pass it on.
    let timeout = context.limits.dial_timeout;
    let dial = pin!(async {
        let dial = socket::dial_from(&pod.netns, route.gateway, timeout);
        Box::pin(told_if_slow(dial, local, route.gateway)).await
    });
    let tls = svid.client_config(&route.expected);
    let caller = Caller { tls, trust: trust::of(&svid), account: Rc::clone(from.account) };
    let connect = context.pool.connect_aboard(&key, dial, caller, from, (app, progress));
    let connected = connect.await;
    let tunnel = connected.map_err(|error| match &error {
        ConnectError::Tcp { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
            TunnelError::Blocked(error)
        }
        ConnectError::Timeout { step: "TCP connect", .. } => TunnelError::Blocked(error),
        _ => TunnelError::Connect(error),
    });
    // What the peer says of itself is not asked for, and would stay as long as the stream.
    tunnel.map(TunnelStream::without_answer)
}

/// Dials, and says so if nothing answers for long: who waits is told nothing until the end.
async fn told_if_slow(
    dial: impl Future<Output = io::Result<TcpStream>>,
    pod: &LocalPod,
    gateway: SocketAddr,
) -> io::Result<TcpStream> {
    let mut dial = pin!(dial);
    if let Ok(dialled) = tokio::time::timeout(SLOW, &mut dial).await {
        return dialled;
    }
    let LocalPod { namespace, name, .. } = pod;
    tracing::warn!(%namespace, pod = %name, %gateway, "no answer yet, maybe a NetworkPolicy is blocking HBONE port 15008");
    dial.await
}

/// A plain connection to outside the mesh, with the pod's own address, as long as the app waits for it.
pub(super) async fn direct(
    context: &Context,
    pod: &PodCapture,
    app: &TcpStream,
    target: SocketAddr,
) -> io::Result<Dialled> {
    let dial = socket::dial_telling(&pod.netns, target, context.timings.connect);
    while_waited_for(dial, socket::gave_up(app, context.timings.ended)).await
}

/// The outcome of a dial, or that nobody waits for it any more.
pub(super) async fn while_waited_for<T, E>(
    dial: impl Future<Output = Result<T, E>>,
    gave_up: impl Future<Output = E>,
) -> Result<T, E> {
    tokio::select! {
        // Most have ended when they are first asked.
        biased;
        dialled = dial => dialled,
        error = gave_up => Err(error),
    }
}

/// Why the app is not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppError {
    /// It would not be shown who the client is.
    #[error("failed to call the application in the client's name")]
    Client(#[source] StandInError),
    /// It does not answer.
    #[error("failed to connect to the application")]
    Connect(#[source] io::Error),
}

/// A connection to the app, which is told who calls if it asks for that, and is shown the client as its other end where both are of one family. It is waited for as long
/// as the client does, as without the mesh: see [`while_waited_for`].
pub(super) async fn app(
    context: &Context,
    dialler: &AppDialler,
    arrival: &Arrival,
) -> Result<TcpStream, AppError> {
    let client = arrival.client();
    // A pod that called itself, or a client of the other family, cannot be told apart by address.
    let preserve =
        !arrival.pod().pod.owns(client.ip()) && client.is_ipv4() == arrival.target().is_ipv4();
    let source = if preserve {
        let stand_in = arrival.pod().stand_ins.of_client(client.ip()).map_err(AppError::Client)?;
        Some(SocketAddr::new(stand_in, client.port()))
    } else {
        None
    };
    let dialled = dialler.dial(source, arrival.target(), context.timings.connect);
    let mut app = dialled.await.map_err(AppError::Connect)?;
    if let Some(header) = arrival.header() {
        // There is room for the first bytes of a connection.
        app.write_all(&header).await.map_err(AppError::Connect)?;
    }
    Ok(app)
}

impl Asked for From<'_> {
    fn authority(&self) -> &str {
        &self.route.authority
    }

    fn headers(&self) -> HeaderMap {
        let host = self.route.service.as_ref().map(|service| service.key.hostname.clone());
        let mut random = rand::rng();
        let named = [
            (hbone::BAGGAGE, baggage(self.home, &self.pod.pod, self.source).header()),
            (hbone::FORWARDED, Forwarded { client: Some(self.client), host }.header()),
            (hbone::TRACEPARENT, TraceParent::new(random.random(), random.random()).header()),
        ];
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Who a pod of this node is, in a tunnel's headers.
pub(super) fn baggage(home: &Home, pod: &LocalPod, workload: Option<&Workload>) -> Baggage {
    let Some(workload) = workload else {
        return Baggage {
            cluster: home.cluster_id.clone(),
            namespace: pod.namespace.clone(),
            workload_kind: arcstr::literal!("pod"),
            workload: pod.name.clone(),
            ..Baggage::default()
        };
    };
    let kind = match workload.kind {
        WorkloadKind::Deployment => arcstr::literal!("deployment"),
        WorkloadKind::CronJob => arcstr::literal!("cronjob"),
        WorkloadKind::Pod => arcstr::literal!("pod"),
        WorkloadKind::Job => arcstr::literal!("job"),
    };
    Baggage {
        cluster: workload.cluster_id.clone(),
        namespace: workload.namespace.clone(),
        workload_kind: kind,
        workload: workload.workload_name.clone(),
        service: workload.canonical_name.clone(),
        revision: workload.canonical_revision.clone(),
        region: workload.locality.region.clone(),
        zone: workload.locality.zone.clone(),
    }
}
