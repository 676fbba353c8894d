//! Agents beside Istio's own: some nodes have ztunnel and istio-cni, one has ours, and istiod tells both.
//!
//! As MIGRATION.md says it, with its commands: the cluster has all of Istio's ambient profile first, one node is taken over,
//! and given back. ztunnel's and the CNI agent's images are of the same hub and tag as istiod's.

mod dns;
mod install;
mod pages;
mod shape;
mod tools;
mod traffic;

use super::rows::{Row, row};

pub(super) use install::remove;

pub(super) const INSTALL: Row = row(
    "install",
    "istiod, ztunnel and istio-cni by their charts serve all pods",
    420,
    install::run,
);

pub(super) const UNINSTALL: Row =
    row("uninstall", "all of it deleted: all pods talk plaintext", 300, install::off);

pub(super) const ROWS: &[Row] = &[
    row("taken", "one node is taken over by MIGRATION.md's steps", 420, install::taken),
    row("both-ways", "mutual TLS from ztunnel's node to ours and back", 120, traffic::both_ways),
    row("closed", "STRICT at both: plaintext is reset, the mesh: 200", 120, traffic::closed),
    row(
        "allowed",
        "who a policy does not name is reset, both ways; who it does: 200",
        120,
        traffic::allowed,
    ),
    row("held", "connections that stay open, both ways, and half closed", 120, traffic::held),
    row("ctl", "istioctl's outputs have the same form for both", 120, tools::outputs),
    row("ctl-log", "istioctl ztunnel-config log: the same answers", 90, tools::levels),
    row("dump", "config_dump: each field that ztunnel has", 90, pages::dumps),
    row("metrics", "each metric that ztunnel has, with its labels", 90, pages::metrics),
    row("dns", "names: the same answers from both DNS proxies", 300, dns::answers),
    row("given-back", "the node is given back to ztunnel and istio-cni", 420, install::given_back),
];
