//! What we know: workloads, services and policies, as the control plane told them.
//!
//! Pure: no IO, no clock. One task writes (the [`store`]), every thread reads snapshots.

pub mod address;
pub mod addresses;
pub mod backed;
mod cidr;
mod claims;
mod closed;
pub mod destinations;
mod endpoints;
pub mod hashes;
pub mod home;
pub mod local;
pub mod names;
pub mod policies;
pub mod policy;
pub mod service;
pub mod snapshot;
pub mod spiffe;
pub mod store;
pub mod table;
pub mod unreadable;
mod watchers;
pub mod workload;

pub use address::{Network, NetworkAddress};
pub use addresses::Addresses;
pub use backed::Backed;
pub use destinations::DestinationsDelta;
pub use home::{Given, Home, HomeUnknown};
pub use local::{LocalPod, PodUid};
pub use names::{Names, Pool};
pub use policies::{PolicyIndex, PolicyList, PolicySet, Selection};
pub use policy::{Authorization, MatchedRule, PolicyKey};
pub use service::{Service, ServiceKey};
pub use snapshot::{Mesh, ResourceKind};
pub use spiffe::{Account, SpiffeId, TrustDomain};
pub use store::{MeshEvent, MeshReader, Store};
pub use workload::{Workload, WorkloadUid};
