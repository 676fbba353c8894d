//! The agent of a node: its pod object, its credentials as files, its process.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::process::Process;
use crate::cgroup;
use crate::kubelet::STATIC;
use crate::netns;
use crate::node::Node;
use crate::objects;
use crate::topology::{CONTROL_PLANE_IP, PodLink};

/// The namespace of the mesh's own parts.
pub const SYSTEM: &str = "istio-system";
/// The agents' service account.
pub const ACCOUNT: &str = "sotto";
/// How often token files are written anew; tokens live for an hour.
const REFRESH: Duration = Duration::from_secs(600);
/// Where an agent serves metrics.
const METRICS_PORT: u16 = 15020;
const READY_PORT: u16 = 15021;
const ADMIN_PORT: u16 = 15000;

/// What stands for the token in [`AgentConfig::kubeconfig`].
pub const TOKEN: &str = "(the token)";

/// A node's agent.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    /// The other container of its pod, which keeps the CNI plugin on the node; none of a stranger.
    pub cni: Option<Process>,
    name: String,
    home: Home,
}

/// The network of the agent's pod: one of its own, as the DaemonSet has it.
struct Home {
    node: Arc<Node>,
    /// What tells it from an earlier agent of the node, whose end it may meet.
    tag: String,
    number: u8,
    netns: String,
    ip: Ipv4Addr,
}

impl Home {
    /// By the node's own network alone: the agent's pod is there before any plugin of ours.
    async fn make(node: &Arc<Node>, tag: &str) -> Result<Self> {
        let number = node.take_number()?;
        let netns = format!("{}agent-{}{tag}", node.config.pod_netns_prefix, node.name());
        let ips = node.config.number.pod_ips(number);
        let home = Self { node: Arc::clone(node), tag: tag.into(), number, netns, ip: ips.0 };
        let link = PodLink {
            node_netns: node.config.netns.clone(),
            pod_netns: home.netns.clone(),
            host_device: format!("agent{number}"),
            ips,
            node: node.config.number,
        };
        let made = tokio::task::spawn_blocking(move || {
            netns::add(&link.pod_netns).and_then(|()| link.create())
        });
        made.await?.context("make the network of the agent's pod")?;
        Ok(home)
    }
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Home").field(&self.netns).finish()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.node.free_number(self.number);
        if let Err(error) = netns::remove(&self.netns) {
            tracing::warn!("end of an agent's network: {error:#}");
        }
    }
}

/// What agents are started with.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The `sotto` program.
    pub program: PathBuf,
    /// A kubeconfig for the nodes' namespaces, with [`TOKEN`] in the place of its token.
    pub kubeconfig: String,
    /// The root certificate of the control plane.
    pub root_cert: PathBuf,
    /// Pins of this run.
    pub pins: PathBuf,
    /// Flags besides the usual.
    pub flags: Vec<String>,
}

impl Agent {
    /// Registers the agent's pod, writes its token and starts it; does not wait until it is ready.
    ///
    /// # Errors
    /// The API server refuses the pod or the token, or the program does not start.
    pub async fn start(node: &Arc<Node>, config: &AgentConfig) -> Result<Self> {
        Self::start_beside(node, config, "").await
    }

    /// [`Self::start`] while an agent with another `tag` runs on the node.
    pub(super) async fn start_beside(
        node: &Arc<Node>,
        config: &AgentConfig,
        tag: &str,
    ) -> Result<Self> {
        let home = Home::make(node, tag).await?;
        for container in ["agent", "cni"] {
            cgroup::create(&node.config.cgroup.join(format!("{container}{tag}")))?;
        }
        let (name, pod) = register(&home).await?;
        // Bound to its pod, as what Kubernetes puts into a container is.
        let bound = Some((name.clone(), pod.uid().unwrap_or_default()));
        let token = token(&node.client, ACCOUNT, "", bound).await?;
        let kubeconfig = node.config.dir.join(format!("agent{tag}.kubeconfig"));
        write_whole(&kubeconfig, &config.kubeconfig.replace(TOKEN, &token))?;
        let (state, ip) = (node.state_dir().display().to_string(), home.ip);
        let how = |name: &str, token: &Path| {
            let argv = argv(node, (name, tag, ip), (token, &kubeconfig), config);
            (argv, vec![(String::from("STATE_DIR"), state)])
        };
        let mut agent = Self::launch(home, (name, pod), how).await?;
        agent.cni = Some(install_cni(node, config, (tag, &kubeconfig))?);
        Ok(agent)
    }

    /// [`Self::start`] of any program: `how` is given the pod's name and the token's file and
    /// returns arguments, the program first, and environment.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_as(
        node: &Arc<Node>,
        how: impl FnOnce(&str, &Path) -> (Vec<String>, Vec<(String, String)>),
    ) -> Result<Self> {
        let home = Home::make(node, "").await?;
        let registered = register(&home).await?;
        Self::launch(home, registered, how).await
    }

    async fn launch(
        home: Home,
        (name, pod): (String, Pod),
        how: impl FnOnce(&str, &Path) -> (Vec<String>, Vec<(String, String)>),
    ) -> Result<Self> {
        let (node, tag) = (&home.node, &home.tag);
        let token = node.config.dir.join(format!("token{tag}"));
        keep_token(node, &pod, token.clone()).await?;
        let (argv, env) = how(&name, &token);
        let log = node.config.dir.join(format!("agent{tag}.log"));
        let group = node.config.cgroup.join(format!("agent{tag}"));
        let mut process = Process::new(argv, group, &home.netns, log);
        process.set_node(node.first_process());
        env.iter().for_each(|(key, value)| process.set_env(key, value));
        process.start()?;
        Ok(Self { process, cni: None, name: node.name(), home })
    }

    /// What tells it from an agent that was started beside it.
    pub(super) fn tag(&self) -> &str {
        &self.home.tag
    }

    /// The address of its pod.
    pub fn ip(&self) -> Ipv4Addr {
        self.home.ip
    }

    /// The network namespace of its pod.
    pub fn netns(&self) -> &str {
        &self.home.netns
    }

    /// The name of its node.
    pub fn node(&self) -> &str {
        &self.name
    }

    /// Whether it says it is ready.
    pub async fn ready(&self) -> bool {
        self.process
            .get(READY_PORT, "/healthz/ready")
            .await
            .is_ok_and(|answer| answer.status == 200)
    }

    /// Its metrics, as text.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.process.get(METRICS_PORT, "/metrics").await?.body)
    }

    /// The sum of the samples of metric `name` whose labels hold all of `labels` (`key="value"`).
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        Ok(sum(&self.metrics().await?, name, labels))
    }

    /// What it knows, as `/config_dump` tells it.
    ///
    /// # Errors
    /// It does not answer with JSON.
    pub async fn config_dump(&self) -> Result<serde_json::Value> {
        let answer = self.process.get(ADMIN_PORT, "/config_dump").await?;
        if answer.status != 200 {
            bail!("status {}", answer.status);
        }
        serde_json::from_str(&answer.body).context("read the dump")
    }
}

/// Starts the container that keeps the plugin on the node, as the DaemonSet has it.
fn install_cni(
    node: &Node,
    config: &AgentConfig,
    (tag, kubeconfig): (&str, &Path),
) -> Result<Process> {
    let argv = [&*config.program.to_string_lossy(), "cni", "install", "--watch"];
    let group = node.config.cgroup.join(format!("cni{tag}"));
    let log = node.config.dir.join(format!("cni{tag}.log"));
    let mut process = Process::new(argv.map(String::from).into(), group, &node.config.netns, log);
    let runtime = node.runtime();
    for (key, path) in [
        ("CNI_BIN_DIR", runtime.bin_dir),
        ("CNI_CONF_DIR", runtime.conf_dir),
        ("CNI_SOCKET", node.cni_socket()),
        ("STATE_DIR", node.state_dir()),
        ("KUBECONFIG", kubeconfig.to_owned()),
    ] {
        process.set_env(key, &path.display().to_string());
    }
    process.set_env("POD_NAMESPACE", SYSTEM);
    process.set_env("POD_NAME", &format!("{ACCOUNT}-{}{tag}", node.name()));
    process.start()?;
    Ok(process)
}

fn argv(
    node: &Node,
    (name, tag, ip): (&str, &str, Ipv4Addr),
    (token, kubeconfig): (&Path, &Path),
    config: &AgentConfig,
) -> Vec<String> {
    let group = |name: &str| node.config.cgroup.join(name).display().to_string();
    let file = |path: &Path| path.display().to_string();
    let mut argv = vec![file(&config.program), String::from("agent")];
    let flags = [
        ("node-name", node.name()),
        ("pod-name", name.to_owned()),
        ("pod-namespace", SYSTEM.to_owned()),
        ("instance-ip", ip.to_string()),
        ("xds-address", format!("https://{CONTROL_PLANE_IP}:15012")),
        ("control-plane-name", format!("istiod.{SYSTEM}.svc")),
        ("root-cert", file(&config.root_cert)),
        ("token", file(token)),
        ("kubeconfig", file(kubeconfig)),
        ("cgroup-root", file(&node.config.cgroup)),
        ("agent-cgroup", group(&format!("agent{tag}"))),
        ("proc", file(&node.proc())),
        ("pin-dir", file(&config.pins.join(node.name()).join("v1"))),
        ("cni-socket", file(&node.cni_socket())),
    ];
    argv.extend(flags.map(|(flag, value)| format!("--{flag}={value}")));
    argv.extend(config.flags.iter().cloned());
    argv
}

/// The agent's pod as the API knows it: the kubelet leaves it alone, the kit runs it.
async fn register(Home { node, tag, ip, .. }: &Home) -> Result<(String, Pod)> {
    let name = format!("{ACCOUNT}-{}{tag}", node.name());
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": SYSTEM, "labels": { "app": "sotto" },
            "annotations": { STATIC: "true" } },
        "spec": { "nodeName": node.name(), "hostPID": true, "serviceAccountName": ACCOUNT,
            "containers": [{ "name": "agent", "image": "sotto" }] }
    }))?;
    let api: Api<Pod> = Api::namespaced(node.client.clone(), SYSTEM);
    objects::put(&api, &pod).await.context("register the agent's pod")?;
    let host = node.config.number.ip();
    let status = json!({ "status": { "phase": "Running", "hostIP": host, "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": "True" }] } });
    let patched = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
    Ok((name, patched.context("report the agent's pod")?))
}

/// Writes the agent's token for the CA now, and again before it expires.
async fn keep_token(node: &Arc<Node>, pod: &Pod, file: PathBuf) -> Result<()> {
    let bound = Some((pod.name_any(), pod.uid().unwrap_or_default()));
    let token = token(&node.client, ACCOUNT, "istio-ca", bound.clone()).await?;
    write_whole(&file, &token)?;
    let of = Arc::clone(node);
    node.tasks.spawn(async move {
        loop {
            tokio::time::sleep(REFRESH).await;
            let renewed = token_to(&of.client, &file, bound.clone()).await;
            if let Err(error) = renewed {
                tracing::warn!("{}: renew the token: {error:#}", of.name());
            }
        }
    });
    Ok(())
}

async fn token_to(client: &Client, file: &Path, bound: Option<(String, String)>) -> Result<()> {
    write_whole(file, &token(client, ACCOUNT, "istio-ca", bound).await?)
}

/// A token of a service account of the mesh's namespace, bound to a pod (name, uid) if one is given.
///
/// # Errors
/// The API server refuses.
pub(super) async fn token(
    client: &Client,
    account: &str,
    audience: &str,
    pod: Option<(String, String)>,
) -> Result<String> {
    let bound = pod
        .map(|(name, uid)| json!({ "kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid }));
    let audiences = if audience.is_empty() { vec![] } else { vec![audience] };
    let request: TokenRequest = serde_json::from_value(json!({
        "metadata": {},
        "spec": { "audiences": audiences, "expirationSeconds": 3600, "boundObjectRef": bound }
    }))?;
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM);
    let made = api.create_token_request(account, &Default::default(), &request).await;
    let made = made.with_context(|| format!("ask for a token of {account}"))?;
    Ok(made.status.context("a token request without an answer")?.token)
}

/// Keeps `file` as the mesh's root certificate, from the ConfigMap that the control plane
/// publishes; waits for it at first.
///
/// # Errors
/// It is not published within `limit`.
pub(super) async fn keep_root(node: &Arc<Node>, file: PathBuf, limit: Duration) -> Result<()> {
    let first = async {
        while read_root(&node.client, &file).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(limit, first).await;
    waited.context("the control plane publishes no root certificate")?;
    let changes = objects::Changes::default();
    changes.watch::<ConfigMap>(Api::namespaced(node.client.clone(), SYSTEM), &node.tasks);
    let of = Arc::clone(node);
    node.tasks.spawn(async move {
        loop {
            let read = read_root(&of.client, &file).await;
            changes.after("the root certificate", read).await;
        }
    });
    Ok(())
}

async fn read_root(client: &Client, file: &Path) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM);
    let map = api.get("istio-ca-root-cert").await?;
    let data = map.data.unwrap_or_default();
    let pem = data.get("root-cert.pem").context("no root-cert.pem in the ConfigMap")?;
    if std::fs::read_to_string(file).is_ok_and(|old| old == *pem) {
        return Ok(());
    }
    write_whole(file, pem)
}

/// Readers see the old file or the new one.
fn write_whole(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, file).with_context(|| format!("write {}", file.display()))
}

/// The sum of a metric's samples in the text format, of those with all `labels`.
fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, with) = series.split_once('{').unwrap_or((series, ""));
        (found == name && labels.iter().all(|label| with.contains(label))).then_some(value)
    });
    samples.filter_map(|value| value.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 4\nab{x=\"1\"} 100\nb 7\n";
        for (name, labels, expected) in
            [("a", &[][..], 7.0), ("a", &["x=\"1\""], 3.0), ("b", &[], 7.0), ("c", &[], 0.0)]
        {
            assert!((sum(text, name, labels) - expected).abs() < 1e-9, "{name}");
        }
    }
}
