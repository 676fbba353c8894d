//! What agents that redirected by a mark left in pods: a rule and a route for each family, and three settings. Their
//! open connections depend on it, so it goes when the last of those has ended.

use std::io;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::routing::{RoutingError, done};
use crate::sys::netlink::{Family, MarkRule, Netlink, Route, RouteKind};
use crate::sys::{Netns, sock_diag, sysctl};

/// The mark of what looped, and that of the agent's inbound connections.
const MARKS: [u32; 2] = [0x111, 0x539];
/// Routing table, and priority of the rule.
const TABLE: u32 = 100;
const PRIORITY: u32 = 100;
/// All were off by default; a bit each tells which were on before.
const SETTINGS: [&str; 3] =
    ["net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"];

/// Takes it back if no connection needs it; tells whether it is gone.
pub(super) fn close_unused(netns: &Netns, were_on: u32) -> Result<bool, RoutingError> {
    let close = || {
        let mut needed = false;
        let listed = sock_diag::connections(|one| {
            needed |= one.mark.is_some_and(|mark| MARKS.contains(&mark));
        });
        done("list sockets", listed)?;
        if !needed {
            close(were_on)?;
        }
        Ok(!needed)
    };
    netns.enter(close).map_err(RoutingError::Enter)?
}

/// Takes everything back but the settings that were on before, in the calling thread's network namespace. Goes on
/// after an error; the first is returned.
fn close(were_on: u32) -> Result<(), RoutingError> {
    let mut results = Vec::new();
    let netlink = done("open netlink", Netlink::open())?;
    let all4 = IpNet::V4(Ipv4Net::default());
    let all6 = IpNet::V6(Ipv6Net::default());
    for (family, to) in [(Family::V4, all4), (Family::V6, all6)] {
        let rule = MarkRule { family, mark: MARKS[0], table: TABLE, priority: PRIORITY };
        let route = Route { to, kind: RouteKind::LoopOf { table: TABLE } };
        results.push(done("delete a rule", absent(family, netlink.delete_rule(rule))));
        results.push(done("delete a route", absent(family, netlink.delete_route(route))));
    }
    for (bit, name) in SETTINGS.into_iter().enumerate() {
        if were_on & (1 << bit) == 0 && sysctl::read(name).is_ok_and(|value| value != "0") {
            let failed = |source| RoutingError::Setting { name, source };
            results.push(sysctl::write(name, "0").map_err(failed));
        }
    }
    results.into_iter().collect()
}

/// Without IPv6 there is nothing of it to take back.
fn absent(family: Family, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if family == Family::V6
                && matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) =>
        {
            Ok(())
        }
        other => other,
    }
}
