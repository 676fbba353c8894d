//! The rows of the acceptance, in the order in which they run. Each leaves the cluster as it found it, but for the
//! last.

mod agents;
mod alone;
mod ends;
mod enrolment;
mod families;
pub(super) mod install;
mod outage;
mod outside;
mod own;
mod plane;
mod reboot;
mod replaced;
mod services;
mod silence;
mod slices;
mod taint;
mod told;
mod tools;
mod traffic;

use std::time::Duration;

use anyhow::Result;

use super::suite::Suite;
use super::table::Outcome;

pub(super) use ends::take_off;

/// A row: a fact that is to be seen.
pub(super) struct Row {
    /// What `--only` knows it by.
    pub(super) name: &'static str,
    pub(super) expected: &'static str,
    /// What it may take.
    pub(super) limit: Duration,
    pub(super) run: fn(&Suite) -> Result<Outcome>,
}

pub(super) const fn row(
    name: &'static str,
    expected: &'static str,
    limit_seconds: u64,
    run: fn(&Suite) -> Result<Outcome>,
) -> Row {
    Row { name, expected, limit: Duration::from_secs(limit_seconds), run }
}

/// The first: all others need what it makes.
pub(super) const INSTALL: Row =
    row("install", "no warning; agents and control plane ready on every node", 420, install::run);

/// The last: takes the mesh off.
pub(super) const UNINSTALL: Row = row(
    "uninstall",
    "pods start and talk plaintext; nothing of the mesh is left, policies stay",
    420,
    ends::uninstall,
);

/// What holds under any control plane.
pub(super) const MTLS_ROW: Row =
    row("mtls", "the server's agent logs the client's identity", 90, traffic::mtls);
pub(super) const STRICT_ROW: Row =
    row("strict", "plaintext: exit 56, reset; the mesh: 200", 90, traffic::strict);
pub(super) const PROBES_ROW: Row =
    row("probes", "the kubelet's probes go on under STRICT", 60, traffic::probes);

/// All between them.
pub(super) const ROWS: &[Row] = &[
    MTLS_ROW,
    STRICT_ROW,
    PROBES_ROW,
    row("address", "the server sees the client's own address", 60, traffic::address),
    row("check", "`sotto check` in the agent's container: nothing MISSING", 60, tools::check),
    row("status", "`sotto status`, `certs`, `connections`: exit 0", 60, tools::status),
    row("adopted", "pods older than the mesh are captured, not restarted", 120, enrolment::adopted),
    row("toggled", "five times off and on under load: nothing lost", 180, enrolment::toggled),
    row("come-and-go", "pods start and end, enrolled or not", 180, enrolment::come_and_go),
    row(
        "init",
        "init containers and native sidecars are in the mesh",
        150,
        enrolment::init_containers,
    ),
    row(
        "half-close",
        "what is half closed goes on in the other direction",
        90,
        traffic::half_close,
    ),
    row("slice-not-ready", "by hand, ready: false: 0 of 30 connections", 120, slices::not_ready),
    row("slice-ready", "by hand, ready, though its probe fails: 30 of 30", 120, slices::ready),
    row(
        "slice-elsewhere",
        "a slice of pods of another namespace: 10 of 10",
        120,
        slices::elsewhere,
    ),
    row("no-endpoint", "a service without endpoints: refused within 3 s", 90, slices::none),
    row("awaited", "`until nc -z` waits for an endpoint, and curl is served", 150, slices::awaited),
    row("terminating", "the last endpoint ends and serves: 10 of 10", 150, services::terminating),
    row("balancer", "a node's address in a status stays the node's", 120, services::balancer),
    row("affinity", "sessionAffinity ClientIP: one endpoint of three", 120, services::affinity),
    row(
        "local-policy",
        "internalTrafficPolicy Local: the node's own endpoint",
        120,
        services::local,
    ),
    row("node-port", "a node's port: 10 of 10, and 0 of STRICT pods", 120, outside::node_port),
    row("external-name", "an ExternalName is what its name leads to", 120, outside::external_name),
    row("ip6", "by IPv6: pods and services; STRICT holds", 120, families::ip6),
    row("own-ports", "an app may have 15000, 15001, 15006, 15020, 15021", 120, own::listeners),
    row("any-port", "a server can have every port but 15008 and its own", 120, own::any_port),
    row("lo-address", "an address on lo: answered, without a loop", 120, own::lo_address),
    row("table-100", "a pod's own routing table 100 stays", 120, own::routing_table),
    row("late", "an app that is silent for 33 s is served then", 180, silence::late),
    row("host-network", "not captured; Event and condition say why", 120, told::host_network),
    row("sandbox", "a class named gvisor: not captured, told", 120, told::sandbox),
    row("machine", "a virtual machine's pod: not captured, told", 120, told::machine),
    row("bridge", "a pod with a bridge (Docker): captured, the rest is told", 240, told::bridge),
    row("bad-pod", "cannot be captured: told; its agent stays ready", 150, told::bad_pod),
    row(
        "upgrade",
        "ends, though a pod cannot be captured; nothing in the clear",
        420,
        agents::upgrade,
    ),
    row(
        "replaced",
        "ten times under connections of every kind: none lost, no byte wrong, nothing in the clear",
        900,
        replaced::replaced,
    ),
    row(
        "pod-deleted",
        "an agent's pod deleted by hand: nothing in the clear, and the next is soon there",
        240,
        agents::pod_deleted,
    ),
    row(
        "plane",
        "three times replaced: no certificate refused, no request lost",
        420,
        plane::replaced,
    ),
    row("alone", "an agent starts without a control plane: outbound goes on", 300, alone::run),
    row("outage", "an agent starts without an API server: the mesh goes on", 600, outage::run),
    row(
        "away",
        "no agents: enrolled pods wait, others start, nothing in the clear",
        420,
        agents::away,
    ),
    row(
        "deleted",
        "the DaemonSet deleted without the uninstall step: all pods start",
        300,
        agents::deleted,
    ),
    row("startup-taint", "the overlay takes the taint off a ready node", 420, taint::run),
    row("reboot", "undrained: nothing in the clear, the mesh comes back", 1800, reboot::run),
];

/// What was seen is what was expected: else it would be an error.
fn holds(seen: String) -> Result<Outcome> {
    Ok(Outcome::Holds(seen))
}

/// What was seen, and whether that is what was expected.
pub(super) fn judge(as_expected: bool, seen: String) -> Result<Outcome> {
    Ok(if as_expected { Outcome::Holds(seen) } else { Outcome::Fails(seen) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{INSTALL, ROWS, UNINSTALL};

    #[test]
    fn rows_have_names_of_their_own() {
        let rows = ROWS.iter().chain([&INSTALL, &UNINSTALL]);
        let names: BTreeSet<&str> = rows.map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len() + 2);
    }
}
