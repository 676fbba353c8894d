//! Agents that are replaced, and agents that are not there.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::clients::{Counted, Swept};
use super::super::mesh::NAMESPACE;
use super::super::objects;
use super::super::suite::{MESH, PLAIN, SOON, STRICT, Suite, is_ready};
use super::super::table::Outcome;
use super::judge;
use super::told::make_bad_pod;

/// A rolling update under load, with a pod on a node that cannot be captured.
pub(super) fn upgrade(suite: &Suite) -> Result<Outcome> {
    make_bad_pod(suite)?;
    let load = suite.load((MESH, "client"), "upgrade", ("server.sotto-e2e-mesh", 80))?;
    let kept = suite.keep((MESH, "client"), "kept", 20, ("server.sotto-e2e-mesh", 80))?;
    let addresses = [suite.address(STRICT, "client")?, suite.address(STRICT, "server")?];
    let sweep = suite.sweep((PLAIN, "client"), "upgrade", &addresses)?;
    let started = Instant::now();
    if suite.settings.from.is_some() {
        suite.install(&suite.settings.overlay, &suite.settings.image)?;
    } else {
        suite.kubectl.ok(&format!("rollout restart -n {NAMESPACE} daemonset/sotto"))?;
    }
    suite.installed()?;
    let took = started.elapsed().as_secs();
    // What the last agent has to take up again shows in the load.
    std::thread::sleep(Duration::from_secs(5));
    let (load, sweep): (Counted, Swept) = (load.stop()?, sweep.stop()?);
    let kept: Counted = kept.stop()?;
    suite.reaches((MESH, "client"), "http://server.sotto-e2e-mesh/")?;
    suite.delete_pod(PLAIN, "bad")?;
    let clear: u64 = sweep.answered.values().sum();
    let seen = format!(
        "rolled out in {took} s; load: {}; on 20 open connections: {}; in the clear {clear} of {} attempts",
        load.told(),
        kept.told(),
        sweep.asked
    );
    // An earlier release may give its connections away in another way, or not at all.
    let kept_all = suite.settings.from.is_some() || kept.lost_nothing();
    judge(clear == 0 && sweep.asked > 100 && load.answered > 0 && kept_all, seen)
}

/// One agent's pod deleted by hand: no other is there before it is gone.
pub(super) fn pod_deleted(suite: &Suite) -> Result<Outcome> {
    let agent = suite.agent_on(&suite.far)?;
    let addresses = [suite.address(STRICT, "server")?];
    let sweep = suite.sweep((PLAIN, "client"), "pod-deleted", &addresses)?;
    let load = suite.load((MESH, "client"), "pod-deleted", ("server.sotto-e2e-mesh", 80))?;
    std::thread::sleep(Duration::from_secs(1));
    let line = format!("delete pod -n {NAMESPACE} {} --timeout=60s", agent.name);
    suite.kubectl.ok_within(&line, Duration::from_secs(70))?;
    suite.agent_ready(&suite.far, Duration::from_secs(90))?;
    std::thread::sleep(Duration::from_secs(3));
    let (load, sweep): (Counted, Swept) = (load.stop()?, sweep.stop()?);
    suite.reaches((MESH, "client"), "http://server.sotto-e2e-mesh/")?;
    let clear: u64 = sweep.answered.values().sum();
    let gap = load.longest_gap;
    let seen =
        format!("{}; longest without an answer {gap:.1} s; in the clear {clear}", load.told());
    judge(clear == 0 && load.answered > 100 && gap < 15.0, seen)
}

/// All agents gone, the DaemonSet still there: as between an eviction and its end, or with a broken image.
pub(super) fn away(suite: &Suite) -> Result<Outcome> {
    select(suite, r#"{"sotto-e2e/none":"true"}"#)?;
    let seen = while_away(suite);
    select(suite, r#"{"sotto-e2e/none":null}"#)?;
    suite.installed()?;
    let seen = seen?;
    suite.ready(MESH, "waits")?;
    suite.captured(MESH, "waits")?;
    suite.reaches((MESH, "waits"), "http://server.sotto-e2e-strict/")?;
    suite.delete_pod(MESH, "waits")?;
    suite.delete_pod(PLAIN, "starts")?;
    judge(seen.expected, format!("{}; the pod that waited started with the agents", seen.told))
}

/// The mesh is torn out by somebody who knows no better: no node may be left that starts no pods.
pub(super) fn deleted(suite: &Suite) -> Result<Outcome> {
    let line = format!("delete daemonset -n {NAMESPACE} sotto --timeout=90s");
    suite.kubectl.ok_within(&line, Duration::from_secs(100))?;
    agents_gone(suite)?;
    let started = Instant::now();
    let mut all = Vec::new();
    for namespace in [PLAIN, MESH] {
        for (name, node) in [("torn-near", &suite.near), ("torn-far", &suite.far)] {
            let pod = objects::pod(namespace, name, node, &suite.settings.tools_image);
            suite.kubectl.apply(&[pod])?;
            all.push((namespace, name));
        }
    }
    let seen: Result<()> =
        all.iter().try_for_each(|(namespace, name)| suite.ready(namespace, name));
    let took = started.elapsed().as_secs();
    suite.install(&suite.settings.overlay, &suite.settings.image)?;
    suite.installed()?;
    seen?;
    suite.captured(MESH, "torn-far")?;
    suite.reaches((MESH, "torn-far"), "http://server.sotto-e2e-strict/")?;
    for (namespace, name) in all {
        suite.delete_pod(namespace, name)?;
    }
    judge(
        took < 60,
        format!("4 pods started in {took} s, and were captured after installing again"),
    )
}

fn agents_gone(suite: &Suite) -> Result<()> {
    suite.wait("the agents are gone", Duration::from_secs(90), || {
        let line = format!("pods -n {NAMESPACE} -l app.kubernetes.io/component=agent");
        let left = suite.kubectl.list(&line)?;
        Ok(if left.is_empty() { Ok(()) } else { Err(format!("{} left", left.len())) })
    })
}

struct Away {
    expected: bool,
    told: String,
}

fn while_away(suite: &Suite) -> Result<Away> {
    agents_gone(suite)?;
    let addresses = [suite.address(STRICT, "client")?, suite.address(STRICT, "server")?];
    let sweep = suite.sweep((PLAIN, "client"), "away", &addresses)?;
    suite.kubectl.apply(&[suite.far_pod(PLAIN, "starts"), suite.far_pod(MESH, "waits")])?;
    let started = Instant::now();
    suite.ready(PLAIN, "starts")?;
    let took = started.elapsed().as_secs();
    let event = suite.wait("an Event says what the pod waits for", SOON, || {
        let events = suite.events(MESH, "waits")?;
        let found = events.iter().find(|event| event.contains("wait for it")).cloned();
        Ok(found.map(Some).ok_or_else(|| events.join("; ")))
    });
    let event = event.ok().flatten();
    let waits = !is_ready(&suite.pod(MESH, "waits")?);
    let refused = suite.curl((MESH, "client"), "http://server.sotto-e2e-mesh/")?;
    let swept: Swept = sweep.stop()?;
    let clear: u64 = swept.answered.values().sum();
    let told = format!(
        "outside: started in {took} s; enrolled: {}, told: {}; enrolled client: exit {}; in the clear {clear} of {}",
        if waits { "waits" } else { "started" },
        if event.is_some() { "by an Event" } else { "nowhere" },
        refused.code,
        swept.asked
    );
    let expected = waits && event.is_some() && refused.code != 0 && clear == 0 && swept.asked > 50;
    Ok(Away { expected, told })
}

fn select(suite: &Suite, labels: &str) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{labels}}}}}}}}}"#);
    suite.kubectl.ok_args(&["patch", "daemonset", "-n", NAMESPACE, "sotto", "-p", &patch])?;
    Ok(())
}
