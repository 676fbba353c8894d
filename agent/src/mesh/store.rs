//! The single writer of what we know, and the snapshots everyone reads.
use super::{Authorization, PolicyKey, Service, ServiceKey, Workload, WorkloadUid};
use std::sync::Arc;

/// An immutable snapshot.
#[derive(Debug, Clone, Default)]
pub struct Mesh {}
/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum MeshEvent {
    /// A workload came or changed.
    Workload(Arc<Workload>),
    /// A service came or changed.
    Service(Arc<Service>),
    /// A policy came or changed.
    Policy(Arc<Authorization>),
    /// A workload went.
    RemoveWorkload(WorkloadUid),
    /// A service went.
    RemoveService(ServiceKey),
    /// A policy went.
    RemovePolicy(PolicyKey),
}
/// Reads snapshots.
#[derive(Debug, Clone)]
pub struct MeshReader {}
/// The writer.
#[derive(Debug)]
pub struct Store {}
