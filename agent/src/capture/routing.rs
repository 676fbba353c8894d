//! What a pod's network namespace needs so that marked flows loop through `lo`: three settings, and one rule and
//! one route for each family. All idempotent.

use std::io;
use std::net::IpAddr;

use sotto_abi::{LOOP_RULE_PRIORITY, LOOP_TABLE, MARK_LOOP};

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
            done("add a rule", netlink.add_rule(rule(ip)))?;
            done("add a route", set_route(&netlink, ip))?;
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
            results.push(done("delete a route", netlink.delete_route(route(ip, None))));
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
    let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
    MarkRule { family, mark: MARK_LOOP, table: LOOP_TABLE, priority: LOOP_RULE_PRIORITY }
}

/// Sets the route with the first congestion control that this kernel has.
fn set_route(netlink: &Netlink, ip: IpAddr) -> io::Result<()> {
    for name in UNPACED {
        match netlink.set_route(route(ip, Some(name))) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            set => return set,
        }
    }
    netlink.set_route(route(ip, None))
}

fn route(ip: IpAddr, congestion_control: Option<&'static str>) -> LoopRoute {
    LoopRoute { source: ip, table: LOOP_TABLE, congestion_control }
}

fn done<T>(action: &'static str, result: io::Result<T>) -> Result<T, RoutingError> {
    result.map_err(|source| RoutingError::Netlink { action, source })
}
