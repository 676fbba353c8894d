//! What a capture between the nodes says of the calls of one pod to another.

use std::net::IpAddr;

use crate::wire::{Kind, Trace};

/// In words: how the bytes from `client` to `server` look on the wire, and whether `marker`, which
/// the client sent, can be read there.
pub(super) fn describe(trace: &Trace, client: IpAddr, server: IpAddr, marker: &str) -> String {
    let between =
        |flow: &&crate::wire::Flow| flow.client.ip() == client && flow.server.ip() == server;
    let mut seen: Vec<String> = trace
        .flows
        .iter()
        .filter(between)
        .filter(|flow| flow.kind() != Kind::Empty)
        .map(|flow| format!("{} to port {}", flow.kind(), flow.server.port()))
        .collect();
    seen.sort();
    seen.dedup();
    let kinds = if seen.is_empty() { String::from("nothing") } else { seen.join(" and ") };
    let readable = if trace.reads(marker.as_bytes()) { "readable" } else { "not readable" };
    format!("{kinds}, {readable}")
}
