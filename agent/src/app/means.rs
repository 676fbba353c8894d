//! What the node's pods may have open and hold, from what the process may have: its memory and its descriptors.
//!
//! | of the memory | for |
//! |---|---|
//! | a half | connections, [`CONNECTION`] bytes each while they do nothing, the kernel's part included |
//! | a quarter | what waits: bytes that nobody reads, handshakes, requests |
//! | a quarter | the program, the mesh as it knows it, what flows |

use std::sync::Arc;

use anyhow::Context as _;
use tracing::info;

use crate::config::AgentConfig;
use crate::connection::Means;
use crate::sys::cgroup::{self, Cgroup};
use crate::sys::descriptors;
use crate::tunnel::Budget;

/// What is counted on where nobody has set a limit, in bytes.
const UNLIMITED: u64 = 2 << 30;
/// An idle connection at one of its nodes, in bytes: two sockets and their files in the kernel, a record, a task, and
/// registrations here.
const CONNECTION: u64 = 8 << 10;
/// Descriptors that no pod gets, one in so many..
const RESERVE: u64 = 16;
/// ..but at least so many, if the limit is no less than four times as much: listeners of a hundred pods, the admin
/// ports, the control plane, the CNI plugin.
const LEAST_RESERVE: u64 = 2048;

/// What may be had of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    connections: u64,
    bytes: u64,
    reserved_descriptors: u64,
}

impl Limits {
    fn new(memory: u64, descriptors: u64) -> Self {
        let least = LEAST_RESERVE.min(descriptors / 4);
        let reserved_descriptors = (descriptors / RESERVE).max(least);
        // A connection has two at most: its client's end, and its server's.
        let by_descriptors = (descriptors - reserved_descriptors) / 2;
        let connections = by_descriptors.min(memory / 2 / CONNECTION).max(1);
        Self { connections, bytes: memory / 4, reserved_descriptors }
    }
}

/// Of the process in its `cgroup`. To be called when the limit of descriptors is raised.
pub(super) fn means(config: &AgentConfig, cgroup: &Cgroup) -> anyhow::Result<Arc<Means>> {
    let descriptors = descriptors::limit().context("failed to read the limit of open files")?;
    let memory = match config.memory_limit {
        Some(limit) => limit,
        None => cgroup::memory_limit(cgroup)
            .context("failed to read the cgroup's limit of memory (--memory-limit sets one)")?
            .unwrap_or(UNLIMITED),
    };
    let limits = Limits::new(memory, descriptors);
    info!(
        memory,
        descriptors,
        connections = limits.connections,
        waiting_bytes = limits.bytes,
        reserved_descriptors = limits.reserved_descriptors,
        "limits"
    );
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(Means::new(size(limits.connections), Budget::new(size(limits.bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_from_memory_and_descriptors() {
        let check = |memory, descriptors, connections, bytes, reserved_descriptors| {
            let expected = Limits { connections, bytes, reserved_descriptors };
            assert_eq!(Limits::new(memory, descriptors), expected, "{memory} {descriptors}");
        };
        check(2 << 30, 1 << 20, 131_072, 512 << 20, 65_536);
        check(256 << 20, 1 << 20, 16_384, 64 << 20, 65_536);
        check(64 << 30, 1 << 20, 491_520, 16 << 30, 65_536);
        check(2 << 30, 1024, 384, 512 << 20, 256);
        check(0, 0, 1, 0, 0);
    }
}
