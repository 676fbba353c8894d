//! The steps of the demo.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::table::{Row, Table};
use super::{say, wire};
use crate::cluster::{Cluster, Process};

const BOOKINFO: &str = include_str!("../manifests/bookinfo.yaml");
const LEGACY: &str = include_str!("../manifests/legacy.yaml");
const STRICT: &str = include_str!("../manifests/strict.yaml");

/// How long a change of policy or label may take to be seen everywhere.
const SETTLE: Duration = Duration::from_secs(20);
/// How often a step must show the same in a row.
const CONFIRM: usize = 3;
/// How long idle processes are watched.
const IDLE: Duration = Duration::from_secs(3);
/// More than this part of a core, used by an idle process, is a busy loop.
const IDLE_CPU: f64 = 0.01;

const DETAILS: &str = "http://details.bookinfo.svc.cluster.local:9080/details/0";
const PRODUCTPAGE: &str = "http://productpage.bookinfo.svc.cluster.local:9080/productpage";
const TUNNEL: &str = "TLS to port 15008, not readable";
const IN_THE_CLEAR: &str = "plaintext HTTP to port 9080, readable";

/// The pods that call: (namespace, app).
const PAGE: (&str, &str) = ("bookinfo", "productpage");
const SLEEP: (&str, &str) = ("legacy", "sleep");

/// Tells the whole story; every step is a row of `table`.
///
/// # Errors
/// A step that could not be taken. One that showed something else is a row that says so.
pub(super) async fn tell(cluster: &Cluster, table: &mut Table) -> Result<()> {
    let mut story = Story { cluster, table };
    story.deploy().await?;
    story.permissive().await?;
    story.strict().await?;
    story.enrolled().await?;
    story.policy_deleted().await?;
    story.external().await?;
    story.idle().await
}

struct Story<'a> {
    cluster: &'a Cluster,
    table: &'a mut Table,
}

impl Story<'_> {
    async fn deploy(&self) -> Result<()> {
        say("deploying bookinfo (enrolled) on both nodes, and sleep in legacy (not enrolled)");
        self.cluster.apply(BOOKINFO).await?;
        self.cluster.apply(LEGACY).await?;
        self.cluster.wait_ready(&["bookinfo", "legacy"], Duration::from_secs(60)).await?;
        say("every pod is ready");
        Ok(())
    }

    async fn permissive(&mut self) -> Result<()> {
        say("no policy: PERMISSIVE");
        self.call("PERMISSIVE: productpage -> details", PAGE, DETAILS, "200").await;
        self.call("PERMISSIVE: sleep -> productpage", SLEEP, PRODUCTPAGE, "200").await;
        self.call("PERMISSIVE: sleep -> details", SLEEP, DETAILS, "200").await;
        self.wire("on the wire: productpage -> details", PAGE, TUNNEL).await?;
        self.wire("on the wire: sleep -> details", SLEEP, IN_THE_CLEAR).await
    }

    async fn strict(&mut self) -> Result<()> {
        say("PeerAuthentication STRICT for the namespace bookinfo");
        self.cluster.apply(STRICT).await?;
        self.call("STRICT: sleep -> details", SLEEP, DETAILS, "curl: (56)").await;
        self.call("STRICT: sleep -> productpage", SLEEP, PRODUCTPAGE, "curl: (56)").await;
        self.call("STRICT: productpage -> details", PAGE, DETAILS, "200").await;
        self.wire("on the wire: productpage -> details", PAGE, TUNNEL).await
    }

    async fn enrolled(&mut self) -> Result<()> {
        say("the namespace legacy is labelled istio.io/dataplane-mode=ambient");
        self.label(Some("ambient")).await?;
        self.call("STRICT, legacy enrolled: sleep -> details", SLEEP, DETAILS, "200").await;
        self.call("STRICT, legacy enrolled: sleep -> productpage", SLEEP, PRODUCTPAGE, "200").await;
        self.wire("on the wire: sleep -> details", SLEEP, TUNNEL).await
    }

    async fn policy_deleted(&mut self) -> Result<()> {
        say("the label is removed");
        self.label(None).await?;
        self.call("STRICT, label removed: sleep -> details", SLEEP, DETAILS, "curl: (56)").await;
        say("the policy is deleted");
        self.cluster.delete(STRICT).await?;
        self.call("policy deleted: sleep -> details", SLEEP, DETAILS, "200").await;
        self.wire("on the wire: sleep -> details", SLEEP, IN_THE_CLEAR).await
    }

    /// The agents' counters stand still while a pod of the mesh talks to a host outside of it.
    async fn external(&mut self) -> Result<()> {
        say("a host outside the mesh, called from productpage");
        // What was counted late by calls before must not look like this one.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = self.connections().await?;
        let url = self.cluster.external_url();
        self.call("outside: productpage -> external host", PAGE, &url, "200").await;
        let after = self.connections().await?;
        self.note("outside: connections through the agents", "0", format!("{}", after - before));
        let pod = self.ip_of(PAGE).await?;
        let answer = self.cluster.curl(PAGE.0, PAGE.1, &url).await?;
        let direct = answer.body.contains(&format!("\"origin\":\"{pod}\""));
        let seen = if direct { "the pod's own" } else { "another" };
        self.note("outside: source address there", "the pod's own", seen.to_owned());
        Ok(())
    }

    async fn idle(&mut self) -> Result<()> {
        say("measuring agents and control plane while nothing happens");
        let cluster = self.cluster;
        let agents = cluster.agents.iter();
        let agents = agents.map(|agent| (format!("agent of {}", agent.node()), &agent.process));
        let control = cluster.control_plane.iter();
        let control = control.map(|plane| (String::from("control plane"), &plane.process));
        let all: Vec<(String, &Process)> = agents.chain(control).collect();
        let before: Vec<_> = all.iter().map(|(_, process)| process.usage()).collect();
        tokio::time::sleep(IDLE).await;
        for ((name, process), before) in all.iter().zip(before) {
            let (before, now) = (before?, process.usage()?);
            let cpu = (now.cpu_seconds - before.cpu_seconds) / IDLE.as_secs_f64();
            let mib = now.rss_bytes >> 20;
            let seen = format!("{:.1} % CPU, {mib} MiB", cpu * 100.0);
            let step = format!("idle: {name}");
            self.push(&step, "< 1 % CPU", seen, cpu < IDLE_CPU);
        }
        Ok(())
    }

    /// A call shows `expected`: once within the time a change takes, then each time.
    async fn call(
        &mut self,
        step: &str,
        (namespace, app): (&str, &str),
        url: &str,
        expected: &str,
    ) {
        let until = Instant::now() + SETTLE;
        let mut in_a_row = 0;
        let mut last = String::new();
        while in_a_row < CONFIRM && (in_a_row > 0 || Instant::now() < until) {
            last = match self.cluster.curl(namespace, app, url).await {
                Ok(curl) if curl.exit == 0 => curl.status.to_string(),
                Ok(curl) if expected.starts_with(&format!("curl: ({})", curl.exit)) => {
                    format!("curl: ({})", curl.exit)
                }
                Ok(curl) => curl.stderr,
                Err(error) => format!("{error:#}"),
            };
            if last == expected {
                in_a_row += 1;
            } else if in_a_row > 0 {
                last = format!("{last} after {expected}");
                break;
            } else {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        self.note(step, expected, last);
    }

    /// A call to details looks like `expected` between the nodes.
    async fn wire(&mut self, step: &str, from: (&str, &str), expected: &str) -> Result<()> {
        let (client, server) =
            (self.ip_of(from).await?, self.ip_of(("bookinfo", "details")).await?);
        let marker = format!("marker-{:016x}", rand::random::<u64>());
        let mark = self.cluster.wire.mark();
        let url = format!("{DETAILS}?{marker}");
        let answer = self.cluster.curl(from.0, from.1, &url).await?;
        // The capture's thread may be a moment behind.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let trace = self.cluster.wire.since(mark)?;
        let mut seen = wire::describe(&trace, client, server, &marker);
        if answer.status != 200 {
            seen = format!("{seen}; the call failed: {}", answer.stderr);
        }
        self.note(step, expected, seen);
        Ok(())
    }

    async fn label(&self, mode: Option<&str>) -> Result<()> {
        self.cluster.label_namespace("legacy", "istio.io/dataplane-mode", mode).await
    }

    /// Connections that went through the agents so far.
    async fn connections(&self) -> Result<f64> {
        let mut sum = 0.0;
        for agent in &self.cluster.agents {
            sum += agent.metric("istio_tcp_connections_opened_total", &[]).await?;
        }
        Ok(sum)
    }

    async fn ip_of(&self, (namespace, app): (&str, &str)) -> Result<IpAddr> {
        let pod = self.cluster.pod_of(namespace, app).await?;
        let ip =
            pod.status.and_then(|status| status.pod_ip).context("a ready pod has an address")?;
        ip.parse().context("a pod's address")
    }

    fn note(&mut self, step: &str, expected: &str, seen: String) {
        let ok = seen == expected;
        self.push(step, expected, seen, ok);
    }

    fn push(&mut self, step: &str, expected: &str, seen: String, ok: bool) {
        let mark = if ok { "ok " } else { "NOT" };
        say(&format!("  {mark} {step}: {seen}"));
        let (step, expected) = (step.to_owned(), expected.to_owned());
        self.table.0.push(Row { step, expected, seen, ok });
    }
}
