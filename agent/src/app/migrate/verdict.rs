//! Whether a client that came in the clear would come so again.
//!
//! It would not if all its pods' connections go through their agents by now, with nothing kept out
//! of the mesh, and none has come in the clear since that began. What is not known counts as a yes:
//! a pod whose agent was not asked, or captured it before it started; a connection that is open.
//!
//! Nodes' clocks differ. Times of two nodes are compared by their ages when told, and with the time
//! that the telling took against the client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::answer::{Answer, Client};

/// An agent's answer, and when it was asked for and came by the clock of whoever asked.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) answer: Answer,
    pub(super) asked: Duration,
    pub(super) answered: Duration,
}

/// Since when a pod's connections are redirected.
#[derive(Debug, Clone)]
struct Since {
    node: String,
    /// By the node's clock; none if that is not known, or some destinations are kept out.
    time: Option<u64>,
    /// The earliest it can be by the clock of whoever asked.
    earliest: i128,
}

/// The redirected pods of all nodes that were asked.
#[derive(Debug, Default)]
pub(super) struct Redirections(HashMap<IpAddr, Since>);

impl Redirections {
    /// What all agents told.
    pub(super) fn new(all: &[Told]) -> Self {
        let mut by_ip: HashMap<IpAddr, Since> = HashMap::new();
        for Told { answer, asked, .. } in all {
            for pod in &answer.redirected {
                let time = pod.since.filter(|_| !pod.excludes);
                let earliest = on_own_clock(time.unwrap_or_default(), answer.now, *asked);
                let since = Since { node: answer.node.clone(), time, earliest };
                for ip in &pod.ips {
                    let known = by_ip.entry(*ip).or_insert_with(|| since.clone());
                    // An address that two nodes claim is on its way from one to the other.
                    if known.node != since.node {
                        known.time = None;
                    }
                }
            }
        }
        Self(by_ip)
    }

    /// Since when, in seconds since 1970 by its node's clock, all of a client's connections would be
    /// mutual TLS; none if some may still come in the clear.
    pub(super) fn pass_since(&self, client: &Client, told: &Told) -> Option<u64> {
        if client.counts.open > 0 || !client.client_enrolled {
            return None;
        }
        let now = client.client_ips.iter().map(|ip| self.0.get(ip).filter(|s| s.time.is_some()));
        let now = now.collect::<Option<Vec<_>>>()?;
        let newest = *now.iter().max_by_key(|since| since.earliest)?;
        let is_past = |(ip, opened): (&IpAddr, &u64)| {
            // A pod that is gone sends no more; those after it must be newer than its last.
            let since = self.0.get(ip).filter(|_| client.client_ips.contains(ip));
            before(*opened, told, since.unwrap_or(newest))
        };
        let past = client.opened.iter().all(is_past);
        past.then(|| now.iter().filter_map(|since| since.time).max().map(|time| time / 1000))?
    }
}

/// Whether a connection that opened at `opened`, as `told`, did so before `since` for certain.
fn before(opened: u64, told: &Told, since: &Since) -> bool {
    if told.answer.node == since.node {
        return since.time.is_some_and(|time| opened < time);
    }
    on_own_clock(opened, told.answer.now, told.answered) < since.earliest
}

/// A time in milliseconds on the clock of whoever asked, if it was `now` on the node's at `then`.
fn on_own_clock(time: u64, now: u64, then: Duration) -> i128 {
    let then = i128::try_from(then.as_millis()).unwrap_or(i128::MAX);
    then - i128::from(now) + i128::from(time)
}

#[cfg(test)]
mod tests;
