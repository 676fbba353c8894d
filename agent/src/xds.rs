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
pub mod status;

pub use client::run;
pub use config::XdsConfig;
/// The names of the two kinds of resources, as discovery and metrics spell them.
pub use sotto_proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
pub use status::{StatusReader, StatusWriter, XdsStatus};

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some wrappers print their source themselves.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
