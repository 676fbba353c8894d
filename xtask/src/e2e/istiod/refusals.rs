//! What istiod, or the mesh, has against an agent: it is not ready, and says why. And what ztunnel's users have set.

use std::time::Duration;

use anyhow::Result;

use super::super::mesh::NAMESPACE;
use super::super::rows::judge;
use super::super::suite::{MESH, PLAIN, Suite};
use super::super::table::Outcome;

/// How long an agent may take to say what is wrong.
const PATIENCE: Duration = Duration::from_secs(80);

impl Suite {
    /// Sets variables of the agents' container, or takes away those that end in `-`.
    pub(super) fn variables(&self, line: &str) -> Result<()> {
        let line = format!("set env -n {NAMESPACE} daemonset/ztunnel -c istio-proxy {line}");
        self.kubectl.ok(&line).map(drop)
    }

    /// Waits until some agent's readiness page says all of these words, and is no success.
    fn not_ready(&self, words: &[&str]) -> Result<String> {
        self.wait("an agent is not ready, and says why", PATIENCE, || {
            let mut last = String::from("all are ready");
            for agent in self.agents()? {
                let url = format!("http://{}:15021/healthz/ready", agent.address);
                let argv = ["curl", "-sS", "--max-time", "5", &url];
                let said = self.kubectl.exec((PLAIN, "client"), &argv)?;
                let page = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
                let fits = words.iter().all(|word| page.contains(word));
                if fits && page.starts_with("not ready") {
                    return Ok(Ok(page));
                }
                if !page.starts_with("ready") {
                    last = if page.is_empty() { said.last_line().to_owned() } else { page };
                }
            }
            Ok(Err(last))
        })
    }

    /// As it should be again.
    fn well_again(&self, undo: &str) -> Result<()> {
        self.variables(undo)?;
        self.agents_rolled_out()?;
        self.reaches((MESH, "client"), "http://server.sotto-e2e-mesh/")
    }
}

pub(super) fn variables(suite: &Suite) -> Result<Outcome> {
    suite.variables(
        "ISTIO_META_CLUSTER_ID=Kubernetes NETWORK= TRUST_DOMAIN=cluster.local ZTUNNEL_WORKER_THREADS=50% \
         TERMINATION_GRACE_PERIOD_SECONDS=30 XDS_HEADER_X-Test=1 CA_ADDRESS=istiod.istio-system.svc:15012 \
         XDS_ADDRESS=istiod.istio-system.svc:15012 FAKE_CA=false ENABLE_ORIG_SRC=true",
    )?;
    suite.agents_rolled_out()?;
    let agent = suite.agent_on(&suite.near)?;
    let told = suite.log_lines(&agent, &["has no effect"])?;
    let names =
        |line: &String| ["FAKE_CA", "ENABLE_ORIG_SRC"].into_iter().find(|name| line.contains(name));
    let mut named: Vec<&str> = told.iter().filter_map(names).collect();
    named.sort_unstable();
    suite.well_again(
        "ISTIO_META_CLUSTER_ID- NETWORK- TRUST_DOMAIN- ZTUNNEL_WORKER_THREADS- \
         TERMINATION_GRACE_PERIOD_SECONDS- XDS_HEADER_X-Test- CA_ADDRESS- XDS_ADDRESS- FAKE_CA- ENABLE_ORIG_SRC-",
    )?;
    let seen = format!("ready; told to have no effect: {}", named.join(", "));
    judge(named == ["ENABLE_ORIG_SRC", "FAKE_CA"] && told.len() == 2, seen)
}

pub(super) fn network(suite: &Suite) -> Result<Outcome> {
    suite.variables("NETWORK=wrong")?;
    let page = suite.not_ready(&["--network", "wrong"]);
    suite.well_again("NETWORK-")?;
    judge(true, page?)
}

pub(super) fn token(suite: &Suite) -> Result<Outcome> {
    suite.variables("AUTH_TOKEN=/var/run/secrets/kubernetes.io/serviceaccount/token")?;
    let page = suite.not_ready(&["refuses the agent's token", "audience istio-ca"]);
    suite.well_again("AUTH_TOKEN-")?;
    judge(true, page?)
}

pub(super) fn account(suite: &Suite) -> Result<Outcome> {
    suite.configure(&["values.pilot.env.CA_TRUSTED_NODE_ACCOUNTS=istio-system/other"])?;
    // Without a predecessor, which would go on with the certificates that it has.
    let agent = suite.agent_on(&suite.near)?;
    suite.kubectl.ok(&format!("delete pod -n {NAMESPACE} {} --timeout=55s", agent.name))?;
    let page = suite.not_ready(&["a certificate of any pod", "trusted node accounts"]);
    suite.configure(&[])?;
    suite.agents_rolled_out()?;
    suite.reaches((MESH, "client"), "http://server.sotto-e2e-mesh/")?;
    judge(true, page?)
}
