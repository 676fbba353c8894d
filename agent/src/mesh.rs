//! What we know: workloads, services and policies, as the control plane told them.
//!
//! Pure: no IO, no clock. One task writes (the [`store`]), every thread reads snapshots.

pub mod address;
pub mod local;
pub mod policy;
pub mod service;
pub mod spiffe;
pub mod store;
pub mod workload;

pub use address::{Network, NetworkAddress};
pub use local::{LocalPod, PodUid};
pub use policy::{Authorization, PolicyKey};
pub use service::{Service, ServiceKey};
pub use spiffe::SpiffeId;
pub use store::{Mesh, MeshEvent, MeshReader, Store};
pub use workload::{Workload, WorkloadUid};
