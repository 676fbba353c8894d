//! To another network: a tunnel to the gateway of that network, and inside of it one to whoever serves there.
//!
//! The gateway sees the name of the service, and nothing of the inner tunnel: identities are proved end to end. Which
//! workload it leads to is for the far side to choose, so what may answer there is what the service names.

use std::net::SocketAddr;
use std::sync::Arc;

use rand::Rng;

use crate::mesh::{Mesh, Service, Workload};

use super::balance::Client;
use super::peer::expected;
use super::proxy;
use super::waypoint::{self, Instance};
use super::{Across, Proxied, Route, RouteError};

/// What answers on another network.
pub(super) struct Far<'a> {
    /// An endpoint of the service, or an instance of its waypoint.
    pub(super) workload: &'a Workload,
    /// The service that it backs.
    pub(super) service: &'a Service,
}

/// Where a connection to a service goes that is served on another network.
pub(super) fn route(
    mesh: &Mesh,
    client: &Client<'_>,
    far: &Far<'_>,
    (service, destination): (&Arc<Service>, SocketAddr),
    rng: &mut impl Rng,
) -> Result<Route, RouteError> {
    let Far { workload, service: answering } = *far;
    let unreachable = || RouteError::OtherNetwork {
        workload: workload.uid.clone(),
        network: workload.network.clone(),
    };
    let gateway = workload.network_gateway.as_ref().ok_or_else(unreachable)?;
    let Instance { workload: gateway, service: behind, port } =
        waypoint::instance(mesh, gateway, client, rng).ok_or_else(unreachable)?;
    if answering.subject_alt_names.is_empty() {
        return Err(RouteError::NobodyExpected { service: answering.key.clone() });
    }
    let proxied = Proxied {
        expected: expected(gateway, behind.map(Arc::as_ref)),
        authority: format!("{}:{}", service.key.hostname, destination.port()),
        target: destination,
        across: Some(Across { expected: answering.subject_alt_names.clone() }),
    };
    // The gateway's address can be reached from here, whatever network it is said to be of.
    proxy::route((gateway, port), Some(service), proxied, |_| true)
}
