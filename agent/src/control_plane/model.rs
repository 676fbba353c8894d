//! Kubernetes objects reduced to what the mesh needs of them: plain records, cheap to compare.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use arcstr::ArcStr;
use sotto_proto::security::{Action, Group};

use crate::mesh::service::Locality;

/// Labels of an object, or those a selector asks for.
pub type Labels = BTreeMap<String, String>;

/// A namespaced object's name, printed `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Name.
    pub name: ArcStr,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What every record has.
pub trait Record {
    /// Its key.
    fn key(&self) -> &ObjectKey;
}

/// Whether `selector` picks an object with `labels`: every pair it asks for is there.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The records of one namespace, by name.
pub fn of_namespace<'r, R>(
    records: &'r BTreeMap<ObjectKey, R>,
    namespace: &str,
) -> impl Iterator<Item = &'r R> + use<'r, R> {
    let first = ObjectKey::new(namespace, "");
    let namespace = first.namespace.clone();
    records.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, r)| r)
}

/// A pod that has not failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Kubernetes UID.
    pub uid: ArcStr,
    /// Canonical addresses; none while it has no sandbox.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Its service account, never empty.
    pub service_account: ArcStr,
    /// The node it is bound to; may be empty.
    pub node: ArcStr,
    /// Shares its node's network.
    pub host_network: bool,
    /// Ready; may be so until it has left.
    pub ready: bool,
    /// Being deleted.
    pub leaving: bool,
    /// Ended well: no longer on the network, although its object remains.
    pub terminal: bool,
    /// Its node agent took it into the mesh.
    pub redirected: bool,
    /// Its controller.
    pub owner: Option<Owner>,
    /// Its containers' named TCP ports.
    pub ports: BTreeMap<String, u16>,
}

impl Pod {
    /// Ready, and not being deleted.
    pub fn healthy(&self) -> bool {
        self.ready && !self.leaving
    }
}

/// What made a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Kubernetes kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// A service with addresses or endpoints of this cluster (never `ExternalName`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels of its pods; none means that its EndpointSlices are made by hand.
    pub selector: Option<Labels>,
    /// Cluster IPs; none for a headless service.
    pub addresses: Vec<IpAddr>,
    /// Addresses of load balancers that stand for the service inside the cluster too.
    pub balancers: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// Its IP families.
    pub families: Families,
    /// Endpoints that are not ready count too.
    pub publish_not_ready: bool,
    /// Only endpoints on the client's node.
    pub node_local: bool,
    /// Which endpoints are preferred.
    pub distribution: Distribution,
    /// A client keeps its endpoint.
    pub sticky: bool,
}

impl Service {
    /// Whether its selector picks a pod with `labels`.
    pub fn picks(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|selector| selects(selector, labels))
    }
}

/// Which endpoints of a service are preferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Distribution {
    /// None.
    #[default]
    Any,
    /// Those in the client's zone.
    SameZone,
    /// Those on the client's node, then those in its zone.
    SameNode,
}

/// A TCP port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; may be empty for a service's only port.
    pub name: String,
    /// The port clients connect to.
    pub port: u16,
    /// Where it leads.
    pub target: TargetPort,
}

/// The workload's side of a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container's port.
    Name(String),
}

/// IP families of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Families {
    /// Not told.
    #[default]
    Automatic,
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
    /// Both.
    Dual,
}

/// Part of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The service's name, in the same namespace.
    pub service: ArcStr,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Its TCP ports, by the service port's name.
    pub ports: BTreeMap<String, u16>,
    /// Kubernetes makes it, of a service's selector.
    pub managed: bool,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Canonical addresses.
    pub addresses: Vec<IpAddr>,
    /// Ready for traffic.
    pub ready: bool,
    /// Able to take traffic, even if it is leaving.
    pub serving: bool,
    /// On its way out.
    pub leaving: bool,
    /// The pod that is said to be behind it.
    pub pod: Option<ObjectKey>,
    /// The node it is on; may be empty.
    pub node: ArcStr,
}

/// Whom a policy governs, of its namespace, or of the mesh if that is the root namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Selector {
    /// All workloads.
    #[default]
    All,
    /// Those with all of these labels, which are not none.
    Labels(Labels),
    /// It cannot be read: whichever it may mean.
    Unreadable,
}

/// A mode of mutual TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Inherit.
    #[default]
    Unset,
    /// In the ambient mesh the same as `Permissive`: the tunnel is not for the server to refuse.
    Disable,
    /// Mutual TLS and plaintext.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// A PeerAuthentication. Of one that cannot be read the mode is `Strict`, on every port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Namespace and name.
    pub key: ObjectKey,
    /// When it was made, in milliseconds of the Unix epoch.
    pub created: i64,
    /// Whom it governs.
    pub selector: Selector,
    /// For every port not in `ports`.
    pub mode: Mode,
    /// By workload port.
    pub ports: BTreeMap<u16, Mode>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name; the namespace part is empty.
    pub key: ObjectKey,
    /// Canonical addresses.
    pub addresses: Vec<IpAddr>,
    /// Where it is.
    pub locality: Locality,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name; the namespace part is empty.
    pub key: ObjectKey,
    /// It is being deleted: nothing can be made in it.
    pub terminating: bool,
}

macro_rules! keyed {
    ($($record:ty),*) => {
        $(impl Record for $record {
            fn key(&self) -> &ObjectKey {
                &self.key
            }
        })*
    };
}
keyed!(Pod, Service, Slice, Node, PeerAuthentication, Namespace, AuthorizationPolicy);

/// An AuthorizationPolicy, already converted: what is enforced at layer 4. One that cannot be read
/// denies everything.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Whom it governs.
    pub selector: Selector,
    /// The resource for the nodes, but for its scope; none if it is not for them to enforce.
    pub rules: Option<Rules>,
}

/// A policy's converted content; its scope depends on where it lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// ALLOW or DENY.
    pub action: Action,
    /// ORed; none matches nothing.
    pub groups: Vec<Group>,
    /// Logged, never enforced.
    pub dry_run: bool,
}

impl Rules {
    /// Those of a policy that cannot be read: a group without conditions matches everything.
    pub fn closed() -> Self {
        let everything = Group { rules: Vec::new() };
        Self { action: Action::Deny, groups: vec![everything], dry_run: false }
    }
}

/// A change of one kind of record.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<R> {
    /// It came or changed.
    Apply(R),
    /// It went.
    Delete(ObjectKey),
    /// The complete list: whatever is not in it is gone.
    Replace(Vec<R>),
}

/// A change of what the snapshot is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A pod.
    Pod(Change<Pod>),
    /// A service.
    Service(Change<Service>),
    /// An EndpointSlice.
    Slice(Change<Slice>),
    /// A node.
    Node(Change<Node>),
    /// A PeerAuthentication.
    PeerAuthentication(Change<PeerAuthentication>),
    /// An AuthorizationPolicy.
    AuthorizationPolicy(Change<AuthorizationPolicy>),
}
