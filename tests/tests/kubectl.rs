//! Real `kubectl` against the pocket cluster's API server, through what the tutorials do.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "kubectl/cluster.rs"]
mod cluster;
#[path = "kubectl/definitions.rs"]
mod definitions;
#[path = "kubectl/objects.rs"]
mod objects;
#[path = "kubectl/pods.rs"]
mod pods;
#[path = "kubectl/policies.rs"]
mod policies;
