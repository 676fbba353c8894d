//! Where a connection really goes: a pure function of what was captured and what we know.
//!
//! Outbound, a destination address becomes a tunnel to a workload or a waypoint, a direct
//! connection, or a refusal. Inbound, the authority a peer asked for becomes an address of the
//! local pod, or a refusal. Nothing here ever turns a tunnel into plaintext: what cannot be
//! reached the way the mesh says is refused.

mod across;
pub mod authority;
mod balance;
mod inbound;
mod outbound;
mod peer;
mod proxy;
mod waypoint;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arcstr::ArcStr;

use crate::mesh::{Network, Service, ServiceKey, Workload, WorkloadUid};

pub use authority::{Authority, AuthorityError};
pub use inbound::{InboundError, InboundTarget, Told, inbound, likely_service};
pub use outbound::{outbound, resolved};

#[cfg(test)]
mod tests;

/// The port tunnels arrive at.
pub const HBONE_PORT: u16 = 15008;

/// Whether a port can never be the final target of a tunnel or of captured plaintext: that would be a loop. Other
/// proxies' ports (15001, 15006) are an application's here, as nothing listens there.
pub fn is_illegal_port(port: u16) -> bool {
    port == HBONE_PORT
}

/// What to do with a captured outbound connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    /// Through mutual TLS.
    Tunnel(TunnelRoute),
    /// As it is.
    Direct(DirectRoute),
    /// To a workload whose hostname must be resolved first: see [`resolved`].
    Resolve(Unresolved),
    /// Not at all: close the connection with a reset.
    Refuse(RouteError),
}

/// A tunnel to a workload or to a waypoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TunnelRoute {
    /// The far end of the tunnel: the destination, or its waypoint.
    pub workload: Arc<Workload>,
    /// The service the app addressed.
    pub service: Option<Arc<Service>>,
    /// Where to connect.
    pub gateway: SocketAddr,
    /// What to ask the far end for.
    pub authority: String,
    /// SPIFFE URIs, one of which the far end must prove; never empty.
    pub expected: Vec<ArcStr>,
    /// What the authority says, as an address; what the app addressed, if it says a name.
    pub target: SocketAddr,
    /// Set if the destination is on another network: it takes a tunnel inside of one to the gateway.
    pub across: Option<Across>,
}

/// The inner of two tunnels, whose bytes the outer one carries to the gateway of another network, and the gateway to
/// whoever serves there.
#[derive(Debug, Clone, PartialEq)]
pub struct Across {
    /// SPIFFE URIs, one of which its far end must prove; never empty.
    pub expected: Vec<ArcStr>,
}

/// A plain connection.
///
/// When the target is the pod's own address, the pod reached itself through a service: its own
/// kernel passes that straight to the app.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectRoute {
    /// Where to connect.
    pub target: SocketAddr,
    /// The destination, if the mesh knows it.
    pub workload: Option<Arc<Workload>>,
    /// The service the app addressed.
    pub service: Option<Arc<Service>>,
}

/// A workload that has a hostname instead of an address.
#[derive(Debug, Clone, PartialEq)]
pub struct Unresolved {
    /// The destination.
    pub workload: Arc<Workload>,
    /// The service the app addressed.
    pub service: Option<Arc<Service>>,
    /// The workload's port.
    pub port: u16,
    /// An address of the family that the app addressed, which is preferred.
    pub like: IpAddr,
    /// Set if it is a proxy on the way: a waypoint, or the gateway of another network.
    pub proxy: Option<Box<Proxied>>,
}

/// What a proxy on the way is asked for, wherever it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxied {
    /// SPIFFE URIs, one of which the proxy must prove; never empty.
    pub expected: Vec<ArcStr>,
    /// What to ask it for.
    pub authority: String,
    /// What the app addressed.
    pub target: SocketAddr,
    /// Set if the destination is on another network.
    pub across: Option<Across>,
}

impl Unresolved {
    /// That there is no address.
    pub fn failure(&self) -> RouteError {
        RouteError::NoAddress {
            workload: self.workload.uid.clone(),
            hostname: self.workload.hostname.clone(),
        }
    }
}

/// Why a connection goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The service has no endpoint that can be used.
    #[error("no healthy upstream: {0}")]
    NoHealthyUpstream(SocketAddr),
    /// The service has no such port.
    #[error("no healthy upstream: {destination}: {service} has no port {}", destination.port())]
    UnknownPort {
        /// What the app addressed.
        destination: SocketAddr,
        /// The service behind it.
        service: ServiceKey,
    },
    /// The connection would end at the node's own ports.
    #[error("{0} ends at a port of the mesh's own")]
    IllegalPort(SocketAddr),
    /// The agent has dialled an application, and rules in the pod lead that back to the agent.
    #[error(
        "the agent's own connection to the application came back to it, as one to {0}: rules in the pod redirect it"
    )]
    Back(SocketAddr),
    /// The waypoint in front of the destination cannot be found or used.
    #[error("no usable waypoint in front of {0}")]
    NoWaypoint(SocketAddr),
    /// The destination is on another network, to which no usable gateway leads.
    #[error(
        "workload {workload} is on network {network:?}, and no gateway is known that leads there"
    )]
    OtherNetwork {
        /// The destination.
        workload: WorkloadUid,
        /// Its network.
        network: Network,
    },
    /// Nobody is told who may answer on another network.
    #[error(
        "{service} is reached across networks, and it is not told whose identities may answer there"
    )]
    NobodyExpected {
        /// The service.
        service: ServiceKey,
    },
    /// The destination takes tunnels that are not HBONE.
    #[error("workload {0} takes tunnels of a kind that is not supported")]
    UnknownTunnel(WorkloadUid),
    /// What the control plane says of the destination cannot be read, such as how to reach it.
    #[error(
        "what the control plane says of {name}, which has {destination}, cannot be read by this version"
    )]
    Unreadable {
        /// What the app addressed.
        destination: SocketAddr,
        /// The name of the workload or the service.
        name: ArcStr,
    },
    /// The destination has a hostname instead of addresses.
    #[error(
        "workload {workload} has no address, and its hostname {hostname:?} has none that can be used"
    )]
    NoAddress {
        /// The destination.
        workload: WorkloadUid,
        /// What it has instead; may be empty.
        hostname: ArcStr,
    },
}
