//! Agents that are replaced again and again, under connections of every kind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Deserialize;

use super::super::clients::{Counted, Swept, in_url};
use super::super::mesh::NAMESPACE;
use super::super::objects::{OURS, PORT};
use super::super::suite::{MESH, PLAIN, STRICT, Suite};
use super::super::table::Outcome;
use super::judge;

/// How often all agents are replaced.
const TIMES: u32 = 10;
/// The replacement before which plaintext is denied, and the one before which it is let in again.
const STRICT_FROM: u32 = 3;
const STRICT_UNTIL: u32 = 7;
/// Where the echo listens.
const ECHO: u16 = 7000;
/// New connections a second, idle ones, ones that echo, transfers; bytes of each of these each way, and bytes a second.
const LOAD: [&str; 6] = ["200", "1000", "100", "2", "1073741824", "8000000"];
/// What is left of the transfers when all else has ended, and connections that hang, take at most this long.
const REST: Duration = Duration::from_secs(240);

/// What is known of the connections of one kind.
#[derive(Debug, Deserialize)]
struct Kind {
    begun: u64,
    good: u64,
    errors: BTreeMap<String, u64>,
    #[serde(default)]
    p99_ms: f64,
    #[serde(default)]
    longest_ms: f64,
}

/// `kubectl rollout restart` again and again.
pub(super) fn replaced(suite: &Suite) -> Result<Outcome> {
    suite.kubectl.apply(&[suite.far_pod(MESH, "echo")])?;
    suite.ready(MESH, "echo")?;
    suite.captured(MESH, "echo")?;
    let echo = suite.address(MESH, "echo")?;
    let port = ECHO.to_string();
    let server = suite.streams((MESH, "echo"), "echo", "serve", &[&port])?;
    std::thread::sleep(Duration::from_secs(2));
    let to = [&[echo.as_str(), &port], &LOAD[..]].concat();
    let streams = suite.streams((MESH, "client"), "streams", "drive", &to)?;
    let plain = suite.keep((PLAIN, "client"), "plain", 20, ("server.sotto-e2e-mesh", 80))?;
    let addresses = [suite.address(STRICT, "client")?, suite.address(STRICT, "server")?];
    let sweep = suite.sweep((PLAIN, "client"), "replaced", &addresses)?;
    std::thread::sleep(Duration::from_secs(8));
    let started = Instant::now();
    let judged = rounds(suite, &echo);
    let took = started.elapsed().as_secs();
    // What the last agent has to take up again shows.
    std::thread::sleep(Duration::from_secs(5));
    let (sweep, plain): (Swept, Counted) = (sweep.stop()?, plain.stop()?);
    let streams: BTreeMap<String, Kind> = streams.stop_within(REST)?;
    server.end(Duration::from_secs(30))?;
    judged?;
    suite.delete_pod(MESH, "echo")?;
    let clear: u64 = sweep.answered.values().sum();
    let all_good = streams.len() == 4 && streams.values().all(|kind| kind.begun == kind.good);
    let seen = format!(
        "{TIMES} times in {took} s: {}; plaintext, on 20 open connections: {}; in the clear to STRICT pods {clear} of {}",
        told(&streams),
        plain.told(),
        sweep.asked
    );
    judge(all_good && plain.lost_nothing() && clear == 0 && sweep.asked > 100, seen)
}

/// All replacements; policy holds after each.
fn rounds(suite: &Suite, echo: &str) -> Result<()> {
    let strict = serde_json::json!({ "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "echo", "namespace": MESH, "labels": { OURS: "true" } },
        "spec": { "selector": { "matchLabels": { "app": "echo" } }, "mtls": { "mode": "STRICT" } } });
    let url = format!("http://{}:{PORT}/", in_url(echo));
    for round in 0..TIMES {
        if round == STRICT_FROM {
            suite.kubectl.apply(std::slice::from_ref(&strict))?;
        }
        if round == STRICT_UNTIL {
            suite.kubectl.ok(&format!("delete peerauthentication -n {MESH} echo"))?;
        }
        suite.kubectl.ok(&format!("rollout restart -n {NAMESPACE} daemonset/sotto"))?;
        suite.installed()?;
        let expected = if (STRICT_FROM..STRICT_UNTIL).contains(&round) { 56 } else { 0 };
        let said = suite.curl((PLAIN, "client"), &url)?;
        if said.code != expected {
            bail!("plaintext after replacement {round}: exit {}, not {expected}", said.code);
        }
    }
    Ok(())
}

fn told(streams: &BTreeMap<String, Kind>) -> String {
    let all = streams.iter().map(|(name, kind)| {
        let mut told = format!("{name} {} of {}", kind.good, kind.begun);
        kind.errors.iter().for_each(|(error, count)| told.push_str(&format!(", {count} {error}")));
        if kind.longest_ms > 0.0 {
            told.push_str(&format!(" (p99 {} ms, longest {})", kind.p99_ms, kind.longest_ms));
        }
        told
    });
    all.collect::<Vec<_>>().join("; ")
}
