//! What the mesh is for: identities on both ends, and no plaintext where it is not wanted.

use std::time::Duration;

use anyhow::Result;

use super::super::suite::{MESH, PLAIN, SOON, STRICT, Suite, is_ready, items};
use super::super::table::Outcome;
use super::judge;

const SERVER: &str = "http://server.sotto-e2e-mesh/";
const CLOSED: &str = "http://server.sotto-e2e-strict/";

/// The metric by which Istio's tools tell mutual TLS.
const OPENED: &str = "istio_tcp_connections_opened_total";

pub(in super::super) fn mtls(suite: &Suite) -> Result<Outcome> {
    suite.reaches((MESH, "client"), SERVER)?;
    let agent = suite.agent_on(&suite.far)?;
    let identity = format!("src.identity=spiffe://cluster.local/ns/{MESH}/sa/default");
    let words = [identity.as_str(), "direction=inbound", "dst.workload=server"];
    let lines = suite.wait("the server's agent logs it", SOON, || {
        let lines = suite.log_lines(&agent, &words)?;
        Ok(if lines.is_empty() { Err(String::from("no such line")) } else { Ok(lines.len()) })
    })?;
    let namespace = format!("destination_workload_namespace=\"{MESH}\"");
    let labels =
        |security: &'static str| [security, "reporter=\"destination\"", namespace.as_str()];
    let mutual =
        suite.metric(&agent, OPENED, &labels("connection_security_policy=\"mutual_tls\""))?;
    judge(mutual > 0.0, format!("{lines} lines with it; by its metrics {mutual} over mutual TLS"))
}

pub(in super::super) fn strict(suite: &Suite) -> Result<Outcome> {
    suite.reaches((STRICT, "client"), CLOSED)?;
    let last = suite.wait("plaintext is refused", Duration::from_secs(30), || {
        let said = suite.curl((PLAIN, "client"), CLOSED)?;
        let told = format!("exit {}: {}", said.code, said.last_line());
        Ok(if said.code == 56 && said.err.contains("reset by peer") { Ok(told) } else { Err(told) })
    })?;
    let inside = suite.curl((MESH, "client"), CLOSED)?;
    judge(inside.out == "200", format!("outside: {last}; inside: {}", inside.out))
}

pub(in super::super) fn probes(suite: &Suite) -> Result<Outcome> {
    let restarts = || -> Result<u64> {
        let pod = suite.pod(STRICT, "server")?;
        let counts = items(&pod["status"]["containerStatuses"]).iter();
        Ok(counts.filter_map(|container| container["restartCount"].as_u64()).sum())
    };
    let before = restarts()?;
    // Two failures of a probe, which comes every 2 s, make the pod unready; three restart it.
    let mut ready = 0;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_secs(1));
        ready += u32::from(is_ready(&suite.pod(STRICT, "server")?));
    }
    let restarted = restarts()? - before;
    judge(ready == 10 && restarted == 0, format!("ready {ready} of 10 s, {restarted} restarts"))
}

/// A client that ends its side, and is answered after that: what it sent, counted.
pub(super) fn half_close(suite: &Suite) -> Result<Outcome> {
    let server =
        suite.kubectl.exec_start((MESH, "server"), &["python3", "/e2e/pod.py", "drain", "8003"])?;
    let address = suite.address(MESH, "server")?;
    let mut seen = Vec::new();
    for bytes in ["0", "1", "1000000"] {
        let argv = ["python3", "/e2e/pod.py", "halve", &address, "8003", bytes];
        let said = suite.wait("the server counts", SOON, || {
            let said = suite.kubectl.exec((MESH, "client"), &argv)?;
            Ok(if said.code == 0 { Ok(said) } else { Err(said.last_line().to_owned()) })
        })?;
        seen.push((bytes, said.out.trim().to_owned()));
    }
    drop(server.finish(Duration::from_secs(10)));
    let told: Vec<String> = seen.iter().map(|(sent, got)| format!("{got} of {sent}")).collect();
    judge(seen.iter().all(|(sent, got)| sent == got), format!("bytes counted: {}", told.join(", ")))
}

pub(super) fn address(suite: &Suite) -> Result<Outcome> {
    let own = suite.address(MESH, "client")?;
    let counted = suite.ask((MESH, "client"), 5, ("server.sotto-e2e-mesh", 80))?;
    let seen = counted.clients.keys().cloned().collect::<Vec<_>>().join(", ");
    let expected = counted.lost_nothing() && counted.clients.keys().eq([&own]);
    judge(expected, format!("the client is {own}, the server saw {seen}; {}", counted.told()))
}
