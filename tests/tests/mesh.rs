//! The whole mesh on the pocket cluster: real programs in the kernel, real `kubectl`, real wire.
//!
//! Each test has a cluster of its own and is named by the fact that it shows.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "mesh/bench.rs"]
mod bench;
#[path = "mesh/callers.rs"]
mod callers;
#[path = "mesh/closed.rs"]
mod closed;
#[path = "mesh/enrolment.rs"]
mod enrolment;
#[path = "mesh/flips.rs"]
mod flips;
#[path = "mesh/hbone.rs"]
mod hbone;
#[path = "mesh/idle.rs"]
mod idle;
#[path = "mesh/ingress.rs"]
mod ingress;
#[path = "mesh/input.rs"]
mod input;
#[path = "mesh/kubelet.rs"]
mod kubelet;
#[path = "mesh/live.rs"]
mod live;
#[path = "mesh/loops.rs"]
mod loops;
#[path = "mesh/names.rs"]
mod names;
#[path = "mesh/namespaces.rs"]
mod namespaces;
#[path = "mesh/order.rs"]
mod order;
#[path = "mesh/outages.rs"]
mod outages;
#[path = "mesh/peers.rs"]
mod peers;
#[path = "mesh/policies.rs"]
mod policies;
#[path = "mesh/pressed.rs"]
mod pressed;
#[path = "mesh/pushes.rs"]
mod pushes;
#[path = "mesh/recorder.rs"]
mod recorder;
#[path = "mesh/reload.rs"]
mod reload;
#[path = "mesh/resolved.rs"]
mod resolved;
#[path = "mesh/resolvers.rs"]
mod resolvers;
#[path = "mesh/roots.rs"]
mod roots;
#[path = "mesh/scraped.rs"]
mod scraped;
#[path = "mesh/script.rs"]
mod script;
#[path = "mesh/telemetry.rs"]
mod telemetry;
#[path = "mesh/threads.rs"]
mod threads;
#[path = "mesh/tutorials.rs"]
mod tutorials;
#[path = "mesh/unserved.rs"]
mod unserved;
#[path = "mesh/upgrades.rs"]
mod upgrades;
#[path = "mesh/waypoints.rs"]
mod waypoints;
#[path = "mesh/wire.rs"]
mod wire;
