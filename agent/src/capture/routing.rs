//! What a pod's network namespace needs so that captured flows loop through `lo`: three settings, routes, rules.
//! All idempotent.
//!
//! Two kinds of flows take the loop, and always bear its mark: what the pod opens, whose sockets are bound to `lo`,
//! and what the application answers to our dials with a client's source, whose sockets are not. A rule can lead
//! both. But a namespace with a rule of its own goes from rule to rule for every destination, those outside the
//! mesh too, and checks the source of what arrives:
//!
//! | flows | IPv4 | IPv6 |
//! |---|---|---|
//! | the pod opens | a route in the last table: as the pod has a default route, only what is bound to `lo` gets there | the rule |
//! | answers to our dials | the rule, added with the first ([`crate::sys::socket::AppDialler`]) | the rule |
//!
//! IPv6 has no last table, and in the main one it passes over a route whose router does not answer. A pod without
//! a default route has the rule in any case.
//!
//! What the rule would do better: the kernel's reset for a socket that is gone for good knows of no device. Without
//! the rule it leaves the pod (it bears no payload), and who wrote to the socket learns it by timeout only. An
//! application's socket is not gone before `tcp_fin_timeout` (60 s) after it is closed.

use std::io;
use std::net::IpAddr;

use sotto_abi::LOOP_TABLE;

use crate::mesh::LocalPod;
use crate::sys::netlink::{Family, LoopRoute, MarkRule, Netlink};
use crate::sys::{Netns, sysctl};

/// Why a pod's network namespace cannot be made ready or be restored.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The namespace is gone, or may not be entered.
    #[error("failed to enter the pod's network namespace")]
    Enter(#[source] io::Error),
    /// A setting cannot be read or written.
    #[error("failed to set {name} in the pod")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A rule or route is refused.
    #[error("failed to {action} in the pod")]
    Netlink {
        /// What was to be done.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A connection accepted from a marked packet carries the mark on, and so do the kernel's own answers
/// (resets, acknowledgements of closed connections). All are off by default.
const SETTINGS: [&str; 3] =
    ["net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"];

/// Congestion control for the legs between an application and the agent, the better first. One kernel holds both
/// ends: with bbr as the node's default, pacing on loopback costs a third of the throughput.
const UNPACED: [&str; 2] = ["cubic", "reno"];

/// The table that is asked last (`RT_TABLE_DEFAULT`), and where in it we stand: behind all that a pod may have there.
const LAST: (u32, u32) = (253, u32::MAX);

/// Which of [`SETTINGS`] were on before we came, a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SavedSettings(pub(super) u32);

/// Makes the namespace ready; tells which settings were on.
pub(super) fn open(netns: &Netns, pod: &LocalPod) -> Result<SavedSettings, RoutingError> {
    let open = || {
        let netlink = done("open netlink", Netlink::open())?;
        done("bring up lo", netlink.set_loopback_up())?;
        let mut saved = SavedSettings::default();
        for (bit, name) in settings_for(pod) {
            if switch(name, true)? {
                saved.0 |= 1 << bit;
            }
        }
        for ip in addresses(pod) {
            done("add a route", set_route(&netlink, loop_route(ip)))?;
            if ip.is_ipv4() && done("read the routes", has_default_route())? {
                done("add a route", set_route(&netlink, last_route(ip)))?;
            } else {
                done("add a rule", netlink.add_rule(rule(ip)))?;
            }
        }
        Ok(saved)
    };
    netns.enter(open).map_err(RoutingError::Enter)?
}

/// Takes everything back, but the settings that were on before. Goes on after an error; the first is returned.
pub(super) fn close(
    netns: &Netns,
    addresses: &[IpAddr],
    saved: SavedSettings,
) -> Result<(), RoutingError> {
    let close = || {
        let mut results = Vec::new();
        let netlink = done("open netlink", Netlink::open())?;
        for &ip in addresses {
            results.push(done("delete a rule", netlink.delete_rule(rule(ip))));
            results.push(done("delete a route", netlink.delete_route(loop_route(ip))));
            if ip.is_ipv4() {
                results.push(done("delete a route", netlink.delete_route(last_route(ip))));
            }
        }
        let has_v6 = addresses.iter().any(IpAddr::is_ipv6);
        for (bit, name) in settings(has_v6) {
            if saved.0 & (1 << bit) == 0 {
                results.push(switch(name, false).map(drop));
            }
        }
        results.into_iter().collect()
    };
    netns.enter(close).map_err(RoutingError::Enter)?
}

/// A pod's addresses.
pub(super) fn addresses(pod: &LocalPod) -> Vec<IpAddr> {
    pod.ip4.map(IpAddr::V4).into_iter().chain(pod.ip6.map(IpAddr::V6)).collect()
}

fn settings_for(pod: &LocalPod) -> impl Iterator<Item = (usize, &'static str)> {
    settings(pod.ip6.is_some())
}

fn settings(has_v6: bool) -> impl Iterator<Item = (usize, &'static str)> {
    let count = if has_v6 { SETTINGS.len() } else { SETTINGS.len() - 1 };
    SETTINGS.into_iter().enumerate().take(count)
}

/// Turns a setting on or off; tells whether it was on.
fn switch(name: &'static str, on: bool) -> Result<bool, RoutingError> {
    let failed = |source| RoutingError::Setting { name, source };
    let was_on = sysctl::read(name).map_err(failed)? != "0";
    if was_on != on {
        sysctl::write(name, if on { "1" } else { "0" }).map_err(failed)?;
    }
    Ok(was_on)
}

fn rule(ip: IpAddr) -> MarkRule {
    MarkRule::to_loopback(Family::of(ip))
}

fn loop_route(ip: IpAddr) -> LoopRoute {
    LoopRoute { source: ip, table: LOOP_TABLE, metric: 0, congestion_control: None }
}

fn last_route(ip: IpAddr) -> LoopRoute {
    let (table, metric) = LAST;
    LoopRoute { table, metric, ..loop_route(ip) }
}

/// Sets the route with the first congestion control that this kernel has.
fn set_route(netlink: &Netlink, route: LoopRoute) -> io::Result<()> {
    for name in UNPACED {
        match netlink.set_route(LoopRoute { congestion_control: Some(name), ..route }) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            set => return set,
        }
    }
    netlink.set_route(route)
}

/// Whether IPv4 knows a way to everywhere: without one the last table would answer for all that has none.
fn has_default_route() -> io::Result<bool> {
    Ok(leads_everywhere(&std::fs::read_to_string("/proc/thread-self/net/route")?))
}

/// Reads `/proc/net/route`: interface, destination, gateway, flags, three numbers, mask. A route that refuses has
/// `*` for its interface.
fn leads_everywhere(routes: &str) -> bool {
    routes.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        matches!(fields[..], [device, "00000000", _, _, _, _, _, "00000000", ..] if device != "*")
    })
}

fn done<T>(action: &'static str, result: io::Result<T>) -> Result<T, RoutingError> {
    result.map_err(|source| RoutingError::Netlink { action, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn with(route: &str) -> bool {
        leads_everywhere(&format!("{HEAD}{route}\t0\t0\t0\n"))
    }

    #[test]
    fn only_a_default_route_over_a_device_leads_everywhere() {
        assert!(with("eth0\t00000000\t01004D0A\t0003\t0\t0\t0\t00000000"));
        assert!(!with("eth0\t00004D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF"));
        assert!(!with("eth0\t00000000\t01004D0A\t0003\t0\t0\t0\t00000080"));
        assert!(!with("*\t00000000\t00000000\t0200\t0\t0\t0\t00000000"));
        assert!(!leads_everywhere(HEAD));
        assert!(!leads_everywhere(""));
    }
}
