//! Agents under a real istiod: what it, its command line and they say of each other.
//!
//! istiod and istioctl are made outside of this tree. Whoever runs this says where istioctl is, and has istiod's image
//! where the nodes find it. The cluster has no Istio before, and none after.

mod changes;
mod control;
mod dashboard;
mod gateways;
mod ingress;
mod install;
mod names;
mod networks;
mod padlocks;
mod refusals;
mod scale;
mod shapes;
mod tools;

use std::path::PathBuf;

use super::rows::{MTLS_ROW, PROBES_ROW, Row, STRICT_ROW, row};

pub(super) use install::remove;

/// What the user says of the real one.
pub(super) struct Istiod {
    pub(super) istioctl: PathBuf,
    /// Its image: hub, and tag; the name in between is `pilot`.
    pub(super) image: (String, String),
    /// Where it was said that all of it is; the kinds of the Gateway API, too.
    pub(super) folder: PathBuf,
    /// An image with an Envoy and Istio's agent, for waypoints and ingresses.
    pub(super) envoy: Option<String>,
    /// A Prometheus that reads agents, and a Kiali that asks it.
    pub(super) prometheus: Option<String>,
    pub(super) kiali: Option<String>,
}

pub(super) const INSTALL: Row =
    row("install", "istiod by its chart; agents ready under it on every node", 420, install::run);

pub(super) const UNINSTALL: Row = row(
    "uninstall",
    "the DaemonSet deleted, and istiod: all pods talk plaintext",
    300,
    install::off,
);

pub(super) const ROWS: &[Row] = &[
    MTLS_ROW,
    STRICT_ROW,
    PROBES_ROW,
    row(
        "shape-1",
        "root STRICT, workload PERMISSIVE, its port STRICT: istiod names a policy and never sends it; identities \
         pass, plaintext is reset, told once",
        120,
        shapes::port_strict,
    ),
    row(
        "shape-2",
        "the same: root STRICT, namespace and workload UNSET, a port PERMISSIVE",
        120,
        shapes::port_permissive,
    ),
    row(
        "shape-3",
        "the same: namespace STRICT with `selector: {}`, workload UNSET, a port PERMISSIVE",
        120,
        shapes::empty_selector,
    ),
    row("names", "DaemonSet, labels, container and metrics by ztunnel's names", 60, names::all),
    row("ctl-workload", "istioctl ztunnel-config workload: the server, HBONE", 60, tools::workload),
    row("ctl-service", "istioctl ztunnel-config service: its service", 60, tools::service),
    row("ctl-policy", "istioctl ztunnel-config policy: that of STRICT", 60, tools::policy),
    row("ctl-certificate", "istioctl ztunnel-config certificate", 60, tools::certificate),
    row("ctl-connections", "istioctl ztunnel-config connections", 60, tools::connections),
    row("ctl-all", "istioctl ztunnel-config all", 60, tools::all),
    row("ctl-log", "istioctl ztunnel-config log: shown, changed, set back", 60, tools::log),
    row("ctl-status", "istioctl proxy-status: every agent, by its name", 60, tools::proxy_status),
    row("ctl-analyze", "istioctl analyze finds no fault", 60, tools::analyze),
    row("ctl-bug-report", "istioctl bug-report has agents' logs and state", 180, tools::bug_report),
    row("edges", "Prometheus, as Kiali asks it: mutual_tls and unknown", 150, padlocks::edges),
    row(
        "padlocks",
        "Kiali's graph: isMTLS 100 for the meshed edge, none for the other",
        150,
        padlocks::graph,
    ),
    row(
        "dashboard",
        "Istio's dashboard of ztunnels: each of its queries has an answer",
        400,
        dashboard::graphs,
    ),
    row(
        "waypoint",
        "a service's waypoint, an Envoy with istiod's certificate, in front of STRICT pods",
        240,
        gateways::waypoint,
    ),
    row(
        "ingress",
        "an Envoy as ingress in an enrolled pod, in front of STRICT pods",
        150,
        ingress::ordinary,
    ),
    row(
        "ingress-waypoint",
        "a gateway that asks istiod for a service is led to its waypoint, by the label and not without it",
        400,
        ingress::by_waypoint,
    ),
    row(
        "two-networks",
        "an Envoy as another network's gateway, by address and by hostname: a tunnel in a tunnel",
        400,
        networks::both,
    ),
    row("at-once", "pods that ask the moment they start: answered at first", 240, changes::at_once),
    row("restart", "istiod restarted: no request is lost", 180, control::restart),
    row(
        "thousands",
        "istiod away, agent restarted, removals meanwhile: agents know what istiod does",
        420,
        scale::thousands,
    ),
    row(
        "variables",
        "ztunnel's variables: taken, or told to have no effect",
        150,
        refusals::variables,
    ),
    row(
        "wrong-network",
        "told of another network: not ready, and says why",
        150,
        refusals::network,
    ),
    row("bad-token", "a token that istiod refuses: not ready, and says why", 150, refusals::token),
    row(
        "bad-account",
        "an account that istiod does not trust: not ready, and says why",
        240,
        refusals::account,
    ),
    row("revision", "agents under an istiod of a revision, and back", 420, changes::revision),
    row(
        "roots",
        "istiod's root replaced under load, in three steps: nothing lost",
        900,
        changes::roots,
    ),
    row(
        "roots-renewed",
        "the same by renewal alone, agents running on: nothing lost",
        900,
        changes::roots_by_time,
    ),
    row("corp", "trustDomain corp under running agents: mutual TLS goes on", 240, names::corp),
    row("net1", "a named network under running agents: the same", 240, names::network),
    row("east", "another cluster name under running agents: the same", 240, names::cluster),
];
