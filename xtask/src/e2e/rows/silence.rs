//! Servers that say nothing for a while.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::clients::in_url;
use super::super::suite::{MESH, SOON, Suite};
use super::super::table::Outcome;
use super::judge;

/// Longer than a proxy's usual patience. SYNs are repeated ever more rarely: it is the first after that time that is served.
const SILENT: &str = "33";

pub(super) fn late(suite: &Suite) -> Result<Outcome> {
    let argv = ["python3", "/e2e/pod.py", "late", "8001", SILENT];
    let server = suite.kubectl.exec_start((MESH, "server"), &argv)?;
    suite.wait("it listens", SOON, || {
        let said = suite
            .kubectl
            .exec((MESH, "server"), &["sh", "-c", "cat /proc/net/tcp* | grep -q ':1F41 '"])?;
        Ok(if said.code == 0 { Ok(()) } else { Err(String::from("not yet")) })
    })?;
    // Its queue is full within 2 s.
    std::thread::sleep(Duration::from_secs(2));
    let address = suite.address(MESH, "server")?;
    let url = format!("http://{}:8001/", in_url(&address));
    let started = Instant::now();
    let argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "90", &url];
    let said = suite.kubectl.exec((MESH, "client"), &argv)?;
    let took = started.elapsed();
    drop(server.finish(Duration::from_secs(10)));
    let seen = format!("exit {}: {} after {} s", said.code, said.last_line(), took.as_secs());
    judge(said.out == "200" && took.as_secs() >= 25, seen)
}
