//! An agent that is started anew while the API server is away, by the user's own command: no Kubernetes API takes itself
//! away.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use super::super::mesh::NAMESPACE;
use super::super::objects::PORT;
use super::super::suite::{MESH, PLAIN, SOON, STRICT, Suite, items};
use super::super::table::Outcome;
use super::judge;

/// When the agent is killed: until then the API server is gone.
const KILL: u64 = 15;
/// When the next agent has to serve: the kubelet starts it within a few seconds.
const SETTLED: u64 = 40;
/// How long all of it takes.
const SECONDS: u64 = 75;

/// How long a cluster's own parts may take to find the API server again.
const PATIENCE: Duration = Duration::from_secs(180);

/// What kills the agent of a node, and only that. The pattern does not match this line.
const KILLS: &str =
    "setsid sh -c 'sleep 15; pkill -KILL -f \"[s]otto agent\"' </dev/null >/dev/null 2>&1 &";

pub(super) fn run(suite: &Suite) -> Result<Outcome> {
    let Some(command) = &suite.settings.api else {
        return Ok(Outcome::NotRun(String::from("no --api was given")));
    };
    let mut killer = suite.near_pod(PLAIN, "killer");
    killer["spec"]["hostPID"] = true.into();
    killer["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
    suite.kubectl.apply(&[killer])?;
    suite.ready(PLAIN, "killer")?;
    let before = restarts(suite)?;
    let clients = [
        ("mesh", (MESH, "client"), suite.address(STRICT, "server")?),
        ("outside", (MESH, "client"), suite.address(PLAIN, "server")?),
        ("strict", (PLAIN, "client"), suite.address(STRICT, "client")?),
    ];
    for (name, pod, to) in &clients {
        suite.record(*pod, name, (SECONDS, SETTLED), (to, PORT))?;
    }
    let said = suite.kubectl.exec((PLAIN, "killer"), &["sh", "-c", KILLS])?;
    if said.code != 0 {
        bail!("the agent would not be killed: {}", said.last_line());
    }
    suite.users_command(command, "stop")?;
    let away = suite.kubectl.call(&["get", "--raw", "/readyz"], "")?.code != 0;
    std::thread::sleep(Duration::from_secs(SECONDS));
    suite.users_command(command, "start")?;
    suite.wait("the API server is back", Duration::from_secs(120), || {
        let said = suite.kubectl.call(&["get", "--raw", "/readyz"], "")?;
        Ok(if said.code == 0 { Ok(()) } else { Err(said.last_line().to_owned()) })
    })?;
    let anew = suite.wait("the kubelet has told of the agent", SOON, || {
        let now = restarts(suite)?;
        Ok(if now > before { Ok(true) } else { Err(format!("{now} restarts")) })
    })?;
    suite.installed()?;
    let mut told = format!("the agent was killed {KILL} s after the API server went");
    let mut expected = away && anew;
    for (name, pod, _) in &clients {
        let seen = suite.recorded(*pod, name)?;
        told.push_str(&format!("; {name}: {}", seen.then.told()));
        expected &= match *name {
            "strict" => seen.first.answered + seen.then.answered == 0 && seen.then.asked > 20,
            _ => seen.then.lost_nothing() && seen.then.asked > 20,
        };
    }
    suite.kubectl.ok(&format!("delete pod -n {PLAIN} killer --wait=false"))?;
    recovered(suite)?;
    judge(expected, told)
}

/// Waits until kubelets and controllers have found the API server again, so that the next rows find the cluster as it was.
fn recovered(suite: &Suite) -> Result<()> {
    suite.wait("the kubelet ends pods again", PATIENCE, || {
        let left = suite.kubectl.get(&format!("pod -n {PLAIN} killer"))?;
        Ok(if left.is_none() { Ok(()) } else { Err(String::from("it is still there")) })
    })?;
    // A change that restarts nothing, and back to what it is where nobody says otherwise.
    for limit in [9, 10] {
        let patch = format!(r#"{{"spec":{{"revisionHistoryLimit":{limit}}}}}"#);
        suite.kubectl.ok_args(&["patch", "daemonset", "-n", NAMESPACE, "sotto", "-p", &patch])?;
        suite.wait("controllers follow again", PATIENCE, || {
            let set = suite.kubectl.get(&format!("daemonset -n {NAMESPACE} sotto"))?;
            let set = set.unwrap_or_default();
            let (seen, wanted) =
                (&set["status"]["observedGeneration"], &set["metadata"]["generation"]);
            Ok(if seen == wanted { Ok(()) } else { Err(format!("{seen} of {wanted}")) })
        })?;
    }
    Ok(())
}

/// How often containers of the agent's pod on the clients' node were started anew.
fn restarts(suite: &Suite) -> Result<u64> {
    let agent = suite.agent_on(&suite.near)?;
    let pod = suite.kubectl.get(&format!("pod -n {NAMESPACE} {}", agent.name))?;
    let pod = pod.unwrap_or_default();
    let containers = items(&pod["status"]["containerStatuses"]).iter();
    Ok(containers.filter_map(|container| container["restartCount"].as_u64()).sum())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_agent_is_killed_when_it_is_said_to_be() {
        assert!(super::KILLS.contains(&format!("sleep {};", super::KILL)));
    }
}
