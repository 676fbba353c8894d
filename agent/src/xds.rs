//! How we learn it: delta ADS for workloads, services and policies.
//!
//! [`delta`] is the protocol without IO, [`decode`] turns messages into the mesh's types, and
//! [`client`] is the one task that talks to the control plane and writes the store. While the
//! control plane is away the last state stays in force.

mod backoff;
pub mod client;
pub mod config;
mod connect;
pub mod decode;
pub mod delta;
mod encode;
#[cfg(test)]
mod istiod_tests;
pub mod kept;
mod resource;
pub mod status;
mod version;
mod wire;

pub use client::run;
pub use config::XdsConfig;
pub use kept::Kept;
/// The names of the two kinds of resources, as discovery and metrics spell them.
pub use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
pub use status::{StatusReader, StatusWriter, XdsStatus};
