//! A service: virtual addresses and names in front of workloads.

use std::fmt;
use std::net::IpAddr;

use arcstr::ArcStr;
use ipnet::IpNet;

use super::address::{Network, NetworkAddress};

/// A service's key, printed `namespace/hostname`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Fully qualified, as `details.bookinfo.svc.cluster.local`.
    pub hostname: ArcStr,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// A service port and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The port clients connect to.
    pub service_port: u16,
    /// The workload's port; none means named: each endpoint tells its own.
    pub target_port: Option<u16>,
}

/// A proxy to send traffic through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waypoint {
    /// Where it is.
    pub destination: WaypointDestination,
    /// Its HBONE port, usually 15008.
    pub hbone_port: u16,
}

/// How a waypoint is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaypointDestination {
    /// By service.
    Service(ServiceKey),
    /// By address.
    Address(NetworkAddress),
}

/// Where a workload runs; parts may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// Region.
    pub region: ArcStr,
    /// Zone.
    pub zone: ArcStr,
    /// Subzone.
    pub subzone: ArcStr,
}

/// What an endpoint should share with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Region.
    Region,
    /// Zone.
    Zone,
    /// Subzone.
    Subzone,
    /// Node.
    Node,
    /// Cluster.
    Cluster,
    /// Network.
    Network,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BalancingMode {
    /// Any endpoint, preferences ignored.
    #[default]
    Any,
    /// Only endpoints that match every preference.
    Strict,
    /// Those that match most preferences in order.
    Failover,
    /// No choice: the original destination is kept.
    Passthrough,
}

/// Load balancing of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// Preferences, most important first.
    pub preferences: Vec<Scope>,
    /// How they count.
    pub mode: BalancingMode,
    /// Endpoints that are not ready are used too.
    pub allow_unhealthy: bool,
    /// A client keeps its endpoint, as long as that can be used.
    pub sticky: bool,
}

/// Of which families the addresses are that clients of a service are sent to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Families {
    /// Not told: any.
    #[default]
    Any,
    /// IPv4 alone.
    Ip4,
    /// IPv6 alone.
    Ip6,
    /// Both.
    Dual,
}

impl Families {
    /// Whether an address is of one of them.
    pub fn include(self, address: IpAddr) -> bool {
        match self {
            Self::Any | Self::Dual => true,
            Self::Ip4 => address.is_ipv4(),
            Self::Ip6 => address.is_ipv6(),
        }
    }
}

/// For whom a service is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Every client.
    #[default]
    Public,
    /// Clients of its own namespace.
    Namespace,
}

/// The name of the extension of a service's resource that says that a client keeps its endpoint.
pub const STICKY_EXTENSION: &str = "sotto.io/client-affinity";

/// One service of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Kubernetes name.
    pub name: ArcStr,
    /// Namespace and hostname.
    pub key: ServiceKey,
    /// Virtual addresses; none for a headless service.
    pub vips: Vec<NetworkAddress>,
    /// Virtual address ranges.
    pub cidr_vips: Vec<(Network, IpNet)>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Identities besides the endpoints' own that may answer for it (SPIFFE URIs).
    pub subject_alt_names: Vec<ArcStr>,
    /// A proxy in front of it.
    pub waypoint: Option<Waypoint>,
    /// Proxies that share its connections instead, each with its weight; the one above is among them. None where it is alone.
    pub weighted_waypoints: Vec<(Waypoint, u32)>,
    /// How endpoints are chosen.
    pub load_balancing: LoadBalancing,
    /// The service that stands for its hostname when namespaces disagree.
    pub canonical: bool,
    /// The families of its endpoints' addresses that are used.
    pub families: Families,
    /// For whom it is there.
    pub visibility: Visibility,
}

impl Service {
    /// Whether it is there for clients of a namespace.
    pub fn is_visible_to(&self, namespace: &str) -> bool {
        match self.visibility {
            Visibility::Public => true,
            Visibility::Namespace => self.key.namespace == namespace,
        }
    }

    /// Every proxy that may be in front of it.
    pub fn waypoints(&self) -> impl Iterator<Item = &Waypoint> {
        self.waypoint.iter().chain(self.weighted_waypoints.iter().map(|(waypoint, _)| waypoint))
    }

    /// Whether it has a port.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|own| own.service_port == port)
    }

    /// The port of an endpoint behind one of the service's: the endpoint's `own` mapping first, which alone knows
    /// named ports.
    pub fn target_port(&self, own: &[Port], port: u16) -> Option<u16> {
        let find = |ports: &[Port]| {
            let found = ports.iter().find(|candidate| candidate.service_port == port);
            found.and_then(|port| port.target_port)
        };
        find(own).or_else(|| find(&self.ports))
    }
}
