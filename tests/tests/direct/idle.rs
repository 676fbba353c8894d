//! What a connection that does nothing holds, on both of its nodes: a node has thousands of them.

use std::time::Duration;

use sotto::identify::Revocations;
use sotto::tunnel::Limits;

use crate::HEAP;
use crate::node::{Bench, Ca, alone};

/// Opened before the first look, so that tunnels, tables and buffers are there.
const WARM: usize = 100;
const OPENED: usize = 1000;
/// Bytes of heap that both ends of an idle connection may hold together. Most are the runtime's: a
/// registration of each of the two sockets (256 bytes each), and two tasks.
const MOST: usize = 3800;

#[test]
fn an_idle_connection_holds_little_on_both_nodes() {
    alone(60, |place| async move {
        let ca = Ca::new(Duration::from_secs(3600));
        let mut bench = Bench::start(&place, ca, Revocations::default(), Limits::default()).await;
        bench.open.reserve(WARM + OPENED);
        bench.open(WARM).await;
        let before = HEAP.current_usage();
        bench.open(OPENED).await;
        let each = (HEAP.current_usage() - before) / OPENED;
        println!("{each} bytes for each of {OPENED} connections");
        assert!(each <= MOST, "{each} bytes");
    });
}
