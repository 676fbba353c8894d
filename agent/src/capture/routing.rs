//! What makes stand-ins local in a pod: a route or two for each family, on the pod's own device, and none by which
//! they could get anywhere else. All idempotent.
//!
//! A local route of a device also holds for sockets that are bound to it, and its source is what sockets get as their
//! own address. Nothing else is changed in a pod: no rule, no setting, no table of its own.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{if_nameindex, if_nametoindex};
use sotto_abi::CANARY;

use super::StandInRanges;
use crate::mesh::LocalPod;
use crate::sys::netlink::{Netlink, Route, RouteKind};
use crate::sys::socket::UNPACED;
use crate::sys::{Netns, sysctl};

/// Why a pod's network namespace cannot be made ready or be restored.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The namespace is gone, or may not be entered.
    #[error("failed to enter the network namespace")]
    Enter(#[source] io::Error),
    /// The pod has not got its address yet, or no longer.
    #[error("no device of the pod has its address {0}")]
    NoDevice(IpAddr),
    /// The pod uses what would stand for other addresses.
    #[error(
        "the pod uses {address}, of {range}, which is for stand-ins: choose other ranges for them (--stand-ins)"
    )]
    InUse {
        /// What it uses.
        address: IpAddr,
        /// Of which range.
        range: IpNet,
    },
    /// As [`RoutingError::InUse`], of the node: its own traffic would have nowhere to go.
    #[error(
        "the node has the address {address}, of {range}, which is for stand-ins: choose other ranges for them (--stand-ins)"
    )]
    NodeHas {
        /// What it has.
        address: IpAddr,
        /// Of which range.
        range: IpNet,
    },
    /// A setting cannot be read or written.
    #[error("failed to set {name} in the pod")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A route or rule is refused.
    #[error("failed to {action} in the pod")]
    Netlink {
        /// What was to be done.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Metric of the routes of a pod's own device, before those of others.
const OWN: u32 = 1;
/// `lo` is the first device of every network namespace.
const LOOPBACK: u32 = 1;
/// Number of the nexthop in a pod that leads nowhere: one that nobody counts up to.
const NOWHERE: u32 = 0x534f_5454;

/// A pod's device: its index, and the addresses on it.
#[derive(Debug, Clone)]
struct Device {
    index: u32,
    name: String,
}

/// Makes the namespace ready; tells the index of the pod's device, if all its addresses are on one.
pub(super) fn open(
    netns: &Netns,
    pod: &LocalPod,
    ranges: &StandInRanges,
) -> Result<Option<u32>, RoutingError> {
    let open = || {
        let netlink = done("open netlink", Netlink::open())?;
        done("bring up lo", netlink.set_loopback_up())?;
        let mut devices = Vec::new();
        for ip in addresses(pod) {
            let device = device_of(ip, ranges)?;
            devices.push(device.index);
            warn_of_settings(pod, &device);
            for to in of_family(ranges, ip) {
                done("bar all other ways", bar(&netlink, to))?;
                let source = gives_source(ranges, to).then_some(ip);
                done("add a route", set_local(&netlink, (to, source), device.index, OWN))?;
                // A socket may be bound to another device; its routes might lead on.
                for other in others(&device)? {
                    let metric = OWN.saturating_add(other);
                    done("add a route", set_local(&netlink, (to, source), other, metric))?;
                }
            }
        }
        devices.dedup();
        Ok(if let [one] = devices[..] { Some(one) } else { None })
    };
    netns.enter(open).map_err(RoutingError::Enter)?
}

/// Takes everything back. Goes on after an error; the first is returned.
pub(super) fn close(
    netns: &Netns,
    addresses: &[IpAddr],
    ranges: &StandInRanges,
) -> Result<(), RoutingError> {
    let close = || {
        let mut results = Vec::new();
        let netlink = done("open netlink", Netlink::open())?;
        for &ip in addresses {
            for to in of_family(ranges, ip) {
                // Whatever its device: that may be gone, and the route with it.
                let (device, metric, source, congestion_control) = (0, 0, None, None);
                let local = RouteKind::Local { device, metric, source, congestion_control };
                let local = Route { to, kind: local };
                results.push(done("delete a route", netlink.delete_route(local)));
                results.push(done("delete a route", unbar(&netlink, to)));
            }
        }
        results.into_iter().collect()
    };
    netns.enter(close).map_err(RoutingError::Enter)?
}

/// Makes sure that what a pod sends to stand-ins goes no further than its `node`, whatever the pod does to its own
/// routes. The agent's canary stays local there, as the agent may have the node's network: without rules of its own, a
/// namespace has its local routes and all others in one table, so that the longer prefix wins.
///
/// # Errors
/// The node itself has an address of one, or the kernel refuses a route.
pub fn confine(node: &Netns, ranges: &StandInRanges) -> Result<(), RoutingError> {
    let confine = || {
        if let Some((address, range)) = all_addresses()?.find_map(|(_, ip)| in_range(ip, ranges)) {
            return Err(RoutingError::NodeHas { address, range });
        }
        let netlink = done("open netlink", Netlink::open())?;
        done("add a route", netlink.set_route(of_canary(ranges)))?;
        for to in ranges.all() {
            match netlink.set_route(prohibition(to)) {
                // No IPv6 on this node.
                Err(error) if to.network().is_ipv6() && is_absent(&error) => {}
                set => done("prohibit a range", set)?,
            }
        }
        Ok(())
    };
    node.enter(confine).map_err(RoutingError::Enter)?
}

/// Undoes [`confine`].
pub(super) fn unconfine(node: &Netns, ranges: &StandInRanges) -> Result<(), RoutingError> {
    let unconfine = || {
        let netlink = done("open netlink", Netlink::open())?;
        let mut all = ranges.all().map(prohibition).into_iter().chain([of_canary(ranges)]);
        all.try_for_each(|route| match netlink.delete_route(route) {
            // No IPv6 on this node.
            Err(error) if route.to.network().is_ipv6() && is_absent(&error) => Ok(()),
            deleted => done("delete a route", deleted),
        })
    };
    node.enter(unconfine).map_err(RoutingError::Enter)?
}

fn of_canary(ranges: &StandInRanges) -> Route {
    let (device, metric, source, congestion_control) = (LOOPBACK, OWN, None, None);
    let kind = RouteKind::Local { device, metric, source, congestion_control };
    let address = IpAddr::from(ranges.record([0; 2]).out(true, CANARY));
    Route { to: address.into(), kind }
}

/// A pod's addresses.
pub(super) fn addresses(pod: &LocalPod) -> Vec<IpAddr> {
    pod.ip4.map(IpAddr::V4).into_iter().chain(pod.ip6.map(IpAddr::V6)).collect()
}

fn of_family(ranges: &StandInRanges, ip: IpAddr) -> impl Iterator<Item = IpNet> {
    ranges.all().into_iter().filter(move |range| range.addr().is_ipv4() == ip.is_ipv4())
}

/// Whether sockets are to get an address by the range's route: not those of clients, which bind to theirs.
fn gives_source(ranges: &StandInRanges, range: IpNet) -> bool {
    range != IpNet::V4(ranges.client4())
}

/// Nobody gets to a range by any other device than those that are told of it, also not by one that is plugged in later.
fn bar(netlink: &Netlink, to: IpNet) -> io::Result<()> {
    if to.network().is_ipv4() {
        return netlink.set_route(prohibition(to));
    }
    netlink.set_blackhole(NOWHERE)?;
    netlink.set_route(Route { to, kind: RouteKind::Blackhole { nexthop: NOWHERE } })
}

/// Undoes [`bar`].
fn unbar(netlink: &Netlink, to: IpNet) -> io::Result<()> {
    if to.network().is_ipv4() {
        return netlink.delete_route(prohibition(to));
    }
    netlink.delete_nexthop(NOWHERE)
}

fn prohibition(to: IpNet) -> Route {
    Route { to, kind: RouteKind::Prohibit }
}

/// Sets the route with the first congestion control that this kernel has.
fn set_local(
    netlink: &Netlink,
    (to, source): (IpNet, Option<IpAddr>),
    device: u32,
    metric: u32,
) -> io::Result<()> {
    let route = |congestion_control| {
        let kind = RouteKind::Local { device, metric, source, congestion_control };
        netlink.set_route(Route { to, kind })
    };
    for name in UNPACED {
        match route(Some(name)) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            set => return set,
        }
    }
    route(None)
}

/// The device with an address, in the calling thread's network namespace, where none may have a stand-in's.
fn device_of(ip: IpAddr, ranges: &StandInRanges) -> Result<Device, RoutingError> {
    let mut found = None;
    for (device, address) in all_addresses()? {
        if let Some((address, range)) = in_range(address, ranges) {
            return Err(RoutingError::InUse { address, range });
        }
        if address == ip {
            found = Some(device);
        }
    }
    let name = found.ok_or(RoutingError::NoDevice(ip))?;
    let index = if_nametoindex(name.as_str()).map_err(io::Error::from);
    Ok(Device { index: done("find the device", index)?, name })
}

/// All addresses in the calling thread's network namespace, each with its device's name.
fn all_addresses() -> Result<impl Iterator<Item = (String, IpAddr)>, RoutingError> {
    let all = done("list addresses", getifaddrs().map_err(io::Error::from))?;
    Ok(all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        Some((interface.interface_name, v4.or(v6)?))
    }))
}

fn in_range(address: IpAddr, ranges: &StandInRanges) -> Option<(IpAddr, IpNet)> {
    ranges.holds(address).map(|range| (address, range))
}

/// The indices of all other devices.
fn others(device: &Device) -> Result<Vec<u32>, RoutingError> {
    let all = done("list devices", if_nameindex().map_err(io::Error::from))?;
    Ok(all.iter().map(|one| one.index()).filter(|index| *index != device.index).collect())
}

/// Settings that would let others on the pod's link use addresses that are local in the pod.
fn warn_of_settings(pod: &LocalPod, device: &Device) {
    for (setting, means) in [
        ("accept_local", "its clients may be others than they seem"),
        ("route_localnet", "others may connect as the pod itself"),
    ] {
        for of in [device.name.as_str(), "all"] {
            let is_on = sysctl::read_of_device(of, setting).is_ok_and(|value| value != "0");
            if is_on {
                let setting = format!("net.ipv4.conf.{of}.{setting}");
                tracing::warn!(pod = %pod.name, namespace = %pod.namespace, setting, means, "a pod has a setting that redirection does not expect");
            }
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

pub(super) fn done<T>(action: &'static str, result: io::Result<T>) -> Result<T, RoutingError> {
    result.map_err(|source| RoutingError::Netlink { action, source })
}
