//! The chained CNI plugin, called as a container runtime calls it: environment, configuration on
//! stdin, result on stdout. (The first plugin of the chain, which makes the link, is the kit's own.)

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::launch::Launch;
use crate::topology::PodLink;

/// As the kubelet's: a sandbox that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// The plugin `sotto cni` of a node.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The `sotto` program.
    pub program: PathBuf,
    /// The socket of the node's agent.
    pub socket: PathBuf,
    /// Where the runtime runs: the kubelet's cgroup.
    pub cgroup: PathBuf,
    /// And the node's network namespace.
    pub netns: PathBuf,
}

/// Which pod a call is about.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// The sandbox container.
    pub container_id: String,
    /// The pin of its network namespace.
    pub netns: PathBuf,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Pod UID.
    pub uid: String,
}

/// What a CNI call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A pod is about to start.
    Add,
    /// Is it still as `ADD` left it?
    Check,
    /// A pod has ended.
    Del,
}

impl Command {
    fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
        }
    }
}

impl Plugin {
    /// Calls the plugin for a pod behind `link`.
    ///
    /// # Errors
    /// It does not answer, or refuses: then with its own words.
    pub async fn call(&self, command: Command, pod: &Sandbox, link: &PodLink) -> Result<Value> {
        let word = command.word();
        let launch = Launch {
            argv: vec![self.program.display().to_string(), String::from("cni")],
            cgroup: self.cgroup.clone(),
            netns: Some(self.netns.clone()),
            env: environment(command, pod),
            ..Launch::default()
        };
        let config = self.config(pod, link).to_string();
        let output = launch.output(config.as_bytes(), LIMIT).await?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error: Value = serde_json::from_str(&said).unwrap_or_default();
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("CNI {word}: {} {} {}", error["msg"], error["details"], stderr.trim());
        }
        if command != Command::Add {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said).with_context(|| format!("CNI {word} answered {said:?}"))
    }

    fn config(&self, pod: &Sandbox, link: &PodLink) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "kit",
            "type": "sotto",
            "agentSocket": self.socket,
            "prevResult": previous(pod, link),
        })
    }
}

fn environment(command: Command, pod: &Sandbox) -> Vec<(String, String)> {
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        pod.namespace, pod.pod, pod.container_id, pod.uid
    );
    let netns = pod.netns.display().to_string();
    [
        ("CNI_COMMAND", command.word().to_owned()),
        ("CNI_CONTAINERID", pod.container_id.clone()),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", String::from("eth0")),
        ("CNI_ARGS", args),
        ("CNI_PATH", String::from("/opt/cni/bin")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The result of the first plugin: what it made.
fn previous(pod: &Sandbox, link: &PodLink) -> Value {
    let (gateway, gateway6) = link.node.pod_ips(1);
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": link.host_device },
            { "name": "eth0", "sandbox": pod.netns },
        ],
        "ips": [
            { "interface": 1, "address": format!("{}/32", link.ips.0), "gateway": gateway },
            { "interface": 1, "address": format!("{}/128", link.ips.1), "gateway": gateway6 },
        ],
        "routes": [{ "dst": "0.0.0.0/0", "gw": gateway }, { "dst": "::/0", "gw": gateway6 }],
    })
}
