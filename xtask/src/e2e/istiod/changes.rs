//! What changes in an istiod that agents are under: a second one of a revision, its root; and pods that ask at once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::super::clients::Counted;
use super::super::mesh::NAMESPACE;
use super::super::objects::OURS;
use super::super::process;
use super::super::rows::judge;
use super::super::suite::{MESH, Suite};
use super::super::table::Outcome;

const SERVER: &str = "http://server.sotto-e2e-mesh/";
/// How many pods start, to ask the moment that they do.
const YOUNG: usize = 10;
/// Longer than the kubelet takes to bring a changed ConfigMap to a pod.
const PATIENCE: Duration = Duration::from_secs(150);

pub(super) fn revision(suite: &Suite) -> Result<Outcome> {
    suite.configure_also("canary")?;
    suite.variables("XDS_ADDRESS=istiod-canary.istio-system.svc:15012")?;
    let outcome = suite.agents_rolled_out().and_then(|()| under_canary(suite));
    suite.variables("XDS_ADDRESS-")?;
    suite.agents_rolled_out()?;
    suite.remove_also("canary")?;
    suite.reaches((MESH, "client"), SERVER)?;
    outcome
}

fn under_canary(suite: &Suite) -> Result<Outcome> {
    let agents = suite.agents()?;
    let lines = suite.wait("istiod of the revision tells all agents", PATIENCE, || {
        let said = suite.istioctl(&["proxy-status", "--revision", "canary"])?;
        let of = |name: &str| {
            said.out.lines().find(|line| line.starts_with(name) && line.contains("istiod-canary"))
        };
        let lines: Vec<String> =
            agents.iter().filter_map(|agent| of(&agent.name)).map(str::to_owned).collect();
        Ok(if lines.len() == agents.len() { Ok(lines) } else { Err(said.out.clone()) })
    })?;
    suite.delete_pod(MESH, "young")?;
    suite.kubectl.apply(&[suite.near_pod(MESH, "young")])?;
    suite.ready(MESH, "young")?;
    suite.captured(MESH, "young")?;
    for pod in ["client", "young"] {
        suite.reaches((MESH, pod), SERVER)?;
    }
    suite.delete_pod(MESH, "young")?;
    let line = lines.first().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    judge(
        true,
        format!("200 of an old pod and of a new one; proxy-status: {}", line.unwrap_or_default()),
    )
}

pub(super) fn at_once(suite: &Suite) -> Result<Outcome> {
    // What it saw is its exit code and its last line.
    let program = "import time, urllib.request as u\nt = time.time()\ntry:\n    u.urlopen('http://server.sotto-e2e-mesh/', timeout=20).read()\n    \
        print('ok %d ms' % ((time.time() - t) * 1000))\nexcept Exception as e:\n    print('%s after %d ms' % (e, (time.time() - t) * 1000))\n    raise SystemExit(1)\n";
    let name = |number: usize| format!("young-{number}");
    let pods: Vec<Value> = (0..YOUNG)
        .map(|number| {
            let mut pod = suite.near_pod(MESH, &name(number));
            pod["spec"]["restartPolicy"] = "Never".into();
            let container = &mut pod["spec"]["containers"][0];
            container["command"] = json!(["python3", "-c", program]);
            for probe in ["readinessProbe", "livenessProbe"] {
                container[probe] = Value::Null;
            }
            pod
        })
        .collect();
    suite.kubectl.apply(&pods)?;
    let mut told = Vec::new();
    for number in 0..YOUNG {
        let name = name(number);
        suite.wait("it has asked", Duration::from_secs(120), || {
            let pod = suite.pod(MESH, &name)?;
            let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
            Ok(if ["Succeeded", "Failed"].contains(&phase.as_str()) { Ok(()) } else { Err(phase) })
        })?;
        told.push(suite.kubectl.ok(&format!("logs -n {MESH} {name}"))?.trim().to_owned());
        suite.delete_pod(MESH, &name)?;
    }
    let well = told.iter().filter(|line| line.starts_with("ok")).count();
    told.sort();
    judge(well == YOUNG, format!("{well} of {YOUNG} first requests answered: {}", told.join(", ")))
}

/// A root, in PEM.
struct Root {
    certificate: String,
    key: String,
}

/// How agents come by certificates of another root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Renewed {
    /// Agents are replaced: new ones have new ones.
    ByNewAgents,
    /// Agents run on, and renew them at half their short life.
    ByTime,
}

pub(super) fn roots(suite: &Suite) -> Result<Outcome> {
    replace_root(suite, Renewed::ByNewAgents)
}

pub(super) fn roots_by_time(suite: &Suite) -> Result<Outcome> {
    suite.variables("SECRET_TTL=2m")?;
    let outcome = suite.agents_rolled_out().and_then(|()| {
        let names = || Ok(suite.agents()?.into_iter().map(|agent| agent.name).collect::<Vec<_>>());
        let before: Vec<String> = names()?;
        let outcome = replace_root(suite, Renewed::ByTime)?;
        let after: Result<Vec<String>> = names();
        anyhow::ensure!(before == after?, "agents were replaced");
        Ok(outcome)
    });
    suite.variables("SECRET_TTL-")?;
    suite.agents_rolled_out()?;
    suite.reaches((MESH, "client"), SERVER)?;
    outcome
}

fn replace_root(suite: &Suite, renewed: Renewed) -> Result<Outcome> {
    let old = old_root(suite)?;
    let new = new_root(suite)?;
    let both = format!("{}{}", old.certificate, new.certificate);
    let load = suite.load((MESH, "client"), "roots", ("server.sotto-e2e-mesh", 80))?;
    let outcome = rotate(suite, (&old, &new, &both), renewed);
    let counted: Counted = load.stop()?;
    suite.kubectl.ok(&format!("delete secret -n {NAMESPACE} cacerts --ignore-not-found"))?;
    restart(suite)?;
    if renewed == Renewed::ByNewAgents {
        new_agents(suite)?;
    }
    suite.reaches((MESH, "client"), SERVER)?;
    let seen = outcome?;
    judge(counted.lost_nothing(), format!("{seen}; meanwhile {}", counted.told()))
}

fn new_agents(suite: &Suite) -> Result<()> {
    suite.kubectl.ok(&format!("rollout restart -n {NAMESPACE} daemonset/ztunnel"))?;
    suite.agents_rolled_out()
}

/// Both roots are believed; then certificates hang on the new one; then the old one is believed no more.
fn rotate(
    suite: &Suite,
    (old, new, both): (&Root, &Root, &str),
    renewed: Renewed,
) -> Result<String> {
    let mut told = Vec::new();
    // Roots believed; of them, those that certificates hang on.
    for (what, signer, roots, expected) in [
        ("both believed", old, both, (2, 1)),
        ("the new one signs", new, both, (2, 1)),
        ("the new one alone", new, new.certificate.as_str(), (1, 1)),
    ] {
        let signed_before = signers(suite)?;
        cacerts(suite, signer, roots)?;
        restart(suite)?;
        if what != "both believed" && renewed == Renewed::ByNewAgents {
            new_agents(suite)?;
        }
        let other = what == "the new one signs";
        let seen = suite.wait(what, PATIENCE, || {
            let mut seen = Vec::new();
            for agent in suite.agents()? {
                let lines = suite.metrics(&agent)?;
                seen.push((
                    series(&lines, "sotto_root_trusting").len(),
                    series(&lines, "sotto_root_signed").len(),
                ));
            }
            let signed = signers(suite)?;
            let changed = !other || (signed.len() == 1 && signed != signed_before);
            Ok(if changed && seen.iter().all(|one| *one == expected) {
                Ok(seen)
            } else {
                Err(format!("{seen:?}"))
            })
        })?;
        told.push(format!("{what}: {seen:?}"));
    }
    Ok(format!("roots believed and hung on, by agent: {}", told.join("; ")))
}

/// The roots that certificates hang on.
fn signers(suite: &Suite) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for agent in suite.agents()? {
        let lines = suite.metrics(&agent)?;
        let without_value = |line: String| line.rsplit_once(' ').map(|(name, _)| name.to_owned());
        all.extend(series(&lines, "sotto_root_signed").into_iter().filter_map(without_value));
    }
    Ok(all)
}

/// A metric's lines that are not 0.
fn series(lines: &[String], name: &str) -> Vec<String> {
    let of = lines.iter().filter(|line| line.starts_with(&format!("{name}{{")));
    of.filter(|line| !line.ends_with(" 0")).cloned().collect()
}

/// That which istiod has made for itself.
fn old_root(suite: &Suite) -> Result<Root> {
    let text = |key: &str| -> Result<String> {
        let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
        let args = ["get", "secret", "-n", NAMESPACE, "istio-ca-secret", "-o", &template];
        suite.kubectl.ok_args(&args).context("istiod has no root of its own")
    };
    Ok(Root { certificate: text("ca-cert.pem")?, key: text("ca-key.pem")? })
}

/// Made by openssl, as Istio's documents do.
fn new_root(suite: &Suite) -> Result<Root> {
    let folder = suite.root.join("target/e2e/root");
    std::fs::create_dir_all(&folder)?;
    let [key, certificate] = ["key.pem", "cert.pem"].map(|name| folder.join(name));
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/O=e2e/CN=new root",
    ]);
    openssl.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout"]).arg(&key);
    openssl.arg("-out").arg(&certificate);
    let said = process::run(&mut openssl, "", Duration::from_secs(30))?;
    if said.code != 0 {
        bail!("openssl: exit {}: {}", said.code, said.last_line());
    }
    Ok(Root {
        certificate: std::fs::read_to_string(certificate)?,
        key: std::fs::read_to_string(key)?,
    })
}

fn cacerts(suite: &Suite, signer: &Root, roots: &str) -> Result<()> {
    suite.kubectl.apply(&[json!({ "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "cacerts", "namespace": NAMESPACE, "labels": { OURS: "true" } },
        "stringData": { "ca-cert.pem": signer.certificate, "ca-key.pem": signer.key,
            "cert-chain.pem": signer.certificate, "root-cert.pem": roots } })])
}

fn restart(suite: &Suite) -> Result<()> {
    suite.kubectl.ok(&format!("rollout restart -n {NAMESPACE} deployment/istiod"))?;
    suite.istiod_rolled_out("istiod")
}
