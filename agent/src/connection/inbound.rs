//! A connection that arrived at a pod of this node: what it is, and what it asks for.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;

use super::context::Context;
use super::plaintext::Encounter;
use super::record::{Record, Way};
use crate::authorize::{Denial, Request};
use crate::capture::{Captured, PodCapture};
use crate::mesh::{Home, Mesh, SpiffeId, Workload};
use crate::observe::connection::{ConnectionInfo, Party};
use crate::observe::labels::Reporter;
use crate::route::{self, Authority, AuthorityError, InboundError, Told};
use crate::tunnel::hbone::{self, Forwarded};
use crate::tunnel::{Incoming, ProxyHeader};

/// Who dialled a tunnel, and where it arrived.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) pod: Arc<PodCapture>,
    /// Where the pod was when the tunnel was taken.
    pub(super) home: Arc<Home>,
    pub(super) client: SocketAddr,
    /// The pod's address and port 15008.
    pub(super) destination: SocketAddr,
    /// What its certificate says.
    pub(super) identity: SpiffeId,
}

/// What arrived, and what policies judge of it.
#[derive(Debug)]
pub(super) struct Arrival {
    pod: Arc<PodCapture>,
    request: Request,
    /// Who the app is to see: port 0 if that is not known.
    client: SocketAddr,
    target: SocketAddr,
    told: Option<Told>,
    info: ConnectionInfo,
}

/// Why a CONNECT is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unservable {
    /// The authority makes no sense.
    #[error("malformed authority")]
    Authority(#[from] AuthorityError),
    /// It leads nowhere in this pod.
    #[error("not to be served by this pod")]
    Target(#[from] InboundError),
}

impl Unservable {
    /// The HTTP status that answers the CONNECT.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Authority(_) => hbone::BAD_REQUEST,
            Self::Target(error) => {
                StatusCode::from_u16(error.status()).unwrap_or(hbone::UNAVAILABLE)
            }
        }
    }
}

impl Arrival {
    /// Something in the clear.
    ///
    /// # Errors
    /// It is addressed to a port of ours: to serve it would be to call ourselves.
    pub(super) fn plaintext(context: &Context, captured: &Captured) -> Result<Self, InboundError> {
        let (client, destination) = (captured.client, captured.original_destination);
        if route::is_illegal_port(destination.port()) {
            return Err(InboundError::IllegalPort(destination.port()));
        }
        let mesh = context.mesh.load();
        let workload = mesh.workload_of(&captured.pod.pod).cloned();
        let asked = (None, destination.port());
        let service = workload.as_deref().and_then(|w| route::likely_service(&mesh, w, asked));
        let info = ConnectionInfo {
            reporter: Reporter::Destination,
            source: source(&mesh, client, None),
            destination: Party {
                address: destination,
                workload,
                local: Some(captured.pod.pod.clone()),
                identity: None,
            },
            service,
            hbone_target: None,
            mutual_tls: false,
        };
        let request = Request { source_ip: client.ip(), source: None, destination };
        let pod = captured.pod.clone();
        Ok(Self { pod, request, client, target: destination, told: None, info })
    }

    /// A stream of a tunnel.
    ///
    /// # Errors
    /// What it asks for is not this pod's to serve.
    pub(super) fn tunnelled(
        context: &Context,
        caller: &Caller,
        incoming: &Incoming,
    ) -> Result<Self, Unservable> {
        let mesh = context.mesh.load();
        let authority: Authority = incoming.authority().parse()?;
        let pod = &caller.pod.pod;
        let to = route::inbound(&mesh, &caller.home.network, pod, &authority, caller.destination)?;
        let forwarded = hbone::text(incoming.headers(), &hbone::FORWARDED).map(Forwarded::parse);
        let (from, host) = forwarded.map_or((None, None), |told| (told.client, told.host));
        // The peer may say anything: the port it is believed, of an address that is proved.
        let from = from.filter(|from| from.ip().to_canonical() == caller.client.ip());
        let client = SocketAddr::new(caller.client.ip(), from.map_or(0, |from| from.port()));
        let service = to.service.or_else(|| {
            let workload = to.workload.as_deref()?;
            route::likely_service(&mesh, workload, (host.as_deref(), to.destination.port()))
        });
        let info = ConnectionInfo {
            reporter: Reporter::Destination,
            source: source(&mesh, caller.client, Some(&caller.identity)),
            destination: Party {
                address: caller.destination,
                workload: to.workload,
                local: Some(pod.clone()),
                identity: Some(pod.account.identity(&caller.home.trust_domain)),
            },
            service,
            hbone_target: Some(incoming.authority().into()),
            mutual_tls: true,
        };
        let request = Request {
            source_ip: caller.client.ip(),
            source: Some(caller.identity.clone()),
            destination: to.destination,
        };
        let (pod, target) = (caller.pod.clone(), to.target);
        Ok(Self { pod, request, client, target, told: to.told, info })
    }

    /// Counts and lists it from now on.
    pub(super) fn record(&self, context: &Context) -> Record {
        let way = Way {
            pod: self.pod.pod.uid.clone(),
            original_destination: self.request.destination,
            actual_destination: self.target,
        };
        Record::open(context, self.info.clone(), way)
    }

    /// The pod it arrived at.
    pub(super) fn pod(&self) -> &Arc<PodCapture> {
        &self.pod
    }

    /// What policies judge, and of which pod.
    pub(super) fn judged(self) -> (Arc<PodCapture>, Request) {
        (self.pod, self.request)
    }

    /// Its parties, to be counted.
    pub(super) fn encounter(&self) -> Encounter<'_> {
        Encounter {
            pod: &self.pod.pod,
            workload: self.workload(),
            client: self.info.source.workload.as_deref(),
            request: &self.request,
        }
    }

    /// What policies judge.
    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    /// Who the app is to see; with port 0 if only the address is known.
    pub(super) fn client(&self) -> SocketAddr {
        self.client
    }

    /// The app's address.
    pub(super) fn target(&self) -> SocketAddr {
        self.target
    }

    /// What the app is told before all else, if it asks for that.
    pub(super) fn header(&self) -> Option<Vec<u8>> {
        let told = self.told.as_ref()?;
        let header = ProxyHeader {
            client: self.client,
            destination: told.destination,
            identity: self.request.source.as_ref(),
            service: told.service.as_deref(),
        };
        Some(header.to_bytes())
    }

    /// The pod's workload, if the mesh knows it.
    pub(super) fn workload(&self) -> Option<&Workload> {
        self.info.destination.workload.as_deref()
    }
}

/// The client as the mesh knows it. An address alone proves nothing: the workload it belongs to is
/// named only if the identity agrees, or where there is no identity to disagree.
fn source(mesh: &Mesh, client: SocketAddr, identity: Option<&SpiffeId>) -> Party {
    let known = mesh.home().ok();
    let workload = known
        .and_then(|home| mesh.workload_by_address(&home.network, client.ip()))
        .filter(|workload| identity.is_none_or(|identity| workload.identity == *identity))
        .cloned();
    Party { address: client, workload, local: None, identity: identity.cloned() }
}

/// The HTTP status that answers a denied CONNECT.
pub(super) fn status(denial: &Denial) -> StatusCode {
    StatusCode::from_u16(denial.status()).unwrap_or(hbone::DENIED)
}
