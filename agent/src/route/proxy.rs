//! The tunnel to a proxy on the way: a waypoint, or the gateway of another network.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::mesh::{Service, Workload};

use super::peer::address_for;
use super::{Proxied, Route, RouteError, TunnelRoute, Unresolved};

/// Where a proxy is reached, at an address that may be used; by its hostname if it has none.
pub(super) fn route(
    (proxy, port): (&Arc<Workload>, u16),
    service: Option<&Arc<Service>>,
    proxied: Proxied,
    may_be: impl Fn(IpAddr) -> bool,
) -> Result<Route, RouteError> {
    let like = proxied.target.ip();
    if proxy.addresses.is_empty() && !proxy.hostname.is_empty() {
        return Ok(Route::Resolve(Unresolved {
            workload: proxy.clone(),
            service: service.cloned(),
            port,
            like,
            proxy: Some(Box::new(proxied)),
        }));
    }
    let ip = address_for(proxy, like, may_be)?;
    Ok(tunnel(proxy, service, SocketAddr::new(ip, port), proxied))
}

/// The tunnel, once it is known where the proxy is.
pub(super) fn tunnel(
    proxy: &Arc<Workload>,
    service: Option<&Arc<Service>>,
    gateway: SocketAddr,
    proxied: Proxied,
) -> Route {
    let Proxied { expected, authority, target, across } = proxied;
    let (workload, service) = (proxy.clone(), service.cloned());
    Route::Tunnel(TunnelRoute { workload, service, gateway, authority, expected, target, across })
}
