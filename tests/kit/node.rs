//! A node: its network namespace, its cgroups, and what runs on it besides pods.

mod own;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::cni::{self, Runtime, primary};
use crate::controllers::list;
use crate::launch::Launch;
use crate::objects::{self, Changes, Tasks};
use crate::services::Services;
use crate::topology::{Fabric, NodeNumber};
use crate::{cgroup, command, kubelet, netns};

/// Its cgroups.
const GROUPS: [&str; 3] = ["agent", "cni", "kubepods/besteffort"];
/// Directory of the network's programs.
const BIN_DIR: &str = "cni-bin";
/// Directory of the network's configuration.
const CONF_DIR: &str = "net.d";
/// The file of the primary network.
const NETWORK_FILE: &str = "10-kit.conflist";

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its place.
    pub number: NodeNumber,
    /// All nodes of the cluster.
    pub all: Vec<NodeNumber>,
    /// Its network namespace.
    pub netns: String,
    /// What pods' namespaces are called before their own part.
    pub pod_netns_prefix: String,
    /// Its files.
    pub dir: PathBuf,
    /// Its cgroup: a real node's is the root of the hierarchy.
    pub cgroup: PathBuf,
    /// The program that plays the apps.
    pub kit_app: PathBuf,
    /// Version of the network's configuration; empty for one that names none.
    pub cni_version: String,
}

/// Whether the node runs, and how often it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Power {
    /// It runs.
    pub(crate) on: bool,
    /// Boots before this one.
    pub(crate) boots: u32,
}

/// A running pod, as far as others than its own task may know it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningPod {
    /// The pin of its network namespace.
    pub netns: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// A process in its mount namespace.
    pub pid: u32,
    /// The log of its first container.
    pub log: PathBuf,
    /// The first process of its node.
    pub node: u32,
}

/// A node of the cluster.
pub struct Node {
    /// What it was made with.
    pub config: NodeConfig,
    /// Its client for the API server.
    pub client: Client,
    /// Its tasks.
    pub tasks: Tasks,
    pods: Mutex<HashMap<(String, String), RunningPod>>,
    hosts: Mutex<HashMap<PathBuf, String>>,
    services: Mutex<Services>,
    taken: Mutex<BTreeSet<u8>>,
    own: own::Own,
    power: watch::Sender<Power>,
}

impl NodeConfig {
    /// The kubelet's cgroup.
    pub fn kubelet_cgroup(&self) -> PathBuf {
        self.cgroup.join("system.slice/kubelet.service")
    }
}

impl Node {
    /// Makes the node, registers it and starts its kubelet and its services' rules.
    ///
    /// # Errors
    /// A part of it cannot be made.
    pub async fn start(
        config: NodeConfig,
        fabric: &Fabric,
        client: &Client,
        tasks: &Tasks,
    ) -> Result<Arc<Self>> {
        fabric.add_node(&config.netns, config.number, &config.all)?;
        for group in GROUPS {
            cgroup::create(&config.cgroup.join(group))?;
        }
        for dir in ["pods", BIN_DIR, CONF_DIR] {
            std::fs::create_dir_all(config.dir.join(dir)).context("make the node's directory")?;
        }
        // A link, as k3s has them.
        let network = config.dir.join(BIN_DIR).join(primary::KIND);
        std::os::unix::fs::symlink(&config.kit_app, network).context("install the network")?;
        let own = own::Own::start(&config).await?;
        let (power, _) = watch::channel(Power { on: true, boots: 0 });
        let node = Arc::new(Self {
            config,
            client: client.clone(),
            tasks: tasks.clone(),
            pods: Mutex::default(),
            hosts: Mutex::default(),
            services: Mutex::default(),
            taken: Mutex::default(),
            own,
            power,
        });
        node.write_network(&node.config.cni_version)?;
        node.register().await?;
        node.start_services();
        kubelet::start(&node);
        Ok(node)
    }

    /// `node1`, ..
    pub fn name(&self) -> String {
        self.config.number.name()
    }

    /// Its first process, as the host knows it.
    pub fn first_process(&self) -> u32 {
        self.own.first()
    }

    /// Its `/proc`.
    pub fn proc(&self) -> PathBuf {
        self.own.proc()
    }

    /// A process of its kubelet, which plays an app of the kit's.
    pub(crate) fn kubelet(&self, app: Vec<String>) -> Launch {
        own::kubelet(&self.config, self.own.first(), app)
    }

    /// Restarts its kubelet, which then probes on.
    ///
    /// # Errors
    /// Something of the old one does not end, or the new one cannot be started.
    pub async fn restart_kubelet(&self) -> Result<()> {
        self.own.restart_kubelet(&self.config).await
    }

    /// The socket of its agent.
    pub fn cni_socket(&self) -> PathBuf {
        self.config.dir.join("cni.sock")
    }

    /// Its container runtime's way to the network.
    pub fn runtime(&self) -> Runtime {
        Runtime {
            conf_dir: self.config.dir.join(CONF_DIR),
            bin_dir: self.config.dir.join(BIN_DIR),
            cache_dir: self.config.dir.join("cni-results"),
            cgroup: self.config.kubelet_cgroup(),
            netns: netns::path(&self.config.netns),
        }
    }

    /// Where the agent keeps what must survive a reboot.
    pub fn state_dir(&self) -> PathBuf {
        self.config.dir.join("state")
    }

    /// Writes the configuration of the node's network, as its installer does at every boot.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_network(&self, version: &str) -> Result<()> {
        let file = self.runtime().conf_dir.join(NETWORK_FILE);
        let new = file.with_extension("tmp");
        std::fs::write(&new, primary::conflist(version)).context("write the network")?;
        std::fs::rename(&new, &file).context("write the network")
    }

    /// Whether a chained plugin is the last of the network that the runtime would use now.
    pub fn is_chained(&self, kind: &str) -> bool {
        let list = cni::load(&self.runtime().conf_dir);
        list.is_ok_and(|list| list.kinds().last().is_some_and(|last| last == kind))
    }

    /// The pod `name`, if it runs here.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<RunningPod> {
        self.pods.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Runs a command in a pod, as `kubectl exec` does.
    ///
    /// # Errors
    /// The pod does not run here, or the command takes longer than `limit`.
    pub async fn exec(
        &self,
        (namespace, name): (&str, &str),
        argv: &[&str],
        limit: Duration,
    ) -> Result<Output> {
        let pod = self.pod(namespace, name);
        let pod =
            pod.with_context(|| format!("{namespace}/{name} does not run on {}", self.name()))?;
        pod.launch(argv).output(b"", limit).await
    }

    /// Runs a program as a process of the node itself, in its network, and returns what it said.
    ///
    /// # Errors
    /// It cannot be started, or runs longer than `limit`.
    pub async fn run(&self, argv: Vec<String>, limit: Duration) -> Result<Output> {
        let launch = Launch {
            argv,
            cgroup: self.config.cgroup.join("agent"),
            netns: Some(netns::path(&self.config.netns)),
            node: Some(self.first_process()),
            ..Launch::default()
        };
        launch.output(b"", limit).await
    }

    /// Whether the node's rules lead to `pod` through every Service that selects it.
    pub fn leads_to(&self, pod: &Pod) -> bool {
        self.services.lock().lead_to(pod)
    }

    pub(crate) fn power(&self) -> watch::Receiver<Power> {
        self.power.subscribe()
    }

    /// The power fails: whatever runs on the node ends at once, pods' networks, pins and sockets
    /// are gone. Pods start again at [`Self::boot`], in sandboxes of their own.
    ///
    /// # Errors
    /// Something does not die, or cannot be removed.
    pub async fn power_off(&self, pins: PathBuf) -> Result<()> {
        self.power.send_modify(|power| power.on = false);
        // The node's first process and its kubelet, which only hold its namespaces and cgroup, stay.
        for group in GROUPS {
            let group = self.config.cgroup.join(group);
            tokio::task::spawn_blocking(move || cgroup::kill(&group)).await??;
        }
        let pods: Vec<RunningPod> = self.pods.lock().drain().map(|(_, pod)| pod).collect();
        for pod in pods.iter().filter(|pod| pod.netns != netns::path(&self.config.netns)) {
            let name = pod.netns.file_name().and_then(|name| name.to_str());
            netns::remove(name.context("a pin without a name")?)?;
        }
        for gone in [pins, self.cni_socket()] {
            let removed = if gone.is_dir() {
                std::fs::remove_dir_all(&gone)
            } else {
                std::fs::remove_file(&gone)
            };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", gone.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts the node again: its network's configuration is written anew, and the kubelet goes on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn boot(&self) -> Result<()> {
        self.write_network(&self.config.cni_version)?;
        self.power.send_modify(|power| *power = Power { on: true, boots: power.boots + 1 });
        Ok(())
    }

    pub(crate) fn pod_started(&self, namespace: &str, name: &str, pod: RunningPod) {
        self.pods.lock().insert((namespace.to_owned(), name.to_owned()), pod);
    }

    pub(crate) fn pod_ended(&self, namespace: &str, name: &str) {
        self.pods.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// A free pod number; the gateway is 1.
    pub(crate) fn take_number(&self) -> Result<u8> {
        let mut taken = self.taken.lock();
        // The next after the last taken first, so that an address is not used again at once.
        let last = taken.last().copied().unwrap_or(1);
        let free =
            (last..=254).chain(2..last).find(|number| *number > 1 && !taken.contains(number));
        let number = free.context("the node has no free pod address")?;
        taken.insert(number);
        Ok(number)
    }

    pub(crate) fn free_number(&self, number: u8) {
        self.taken.lock().remove(&number);
    }

    /// Writes the hosts file of a pod of `namespace` now and whenever Services change.
    pub(crate) fn keep_hosts(&self, file: PathBuf, namespace: &str) -> Result<()> {
        let services = self.services.lock();
        write_in_place(&file, &services.hosts(namespace))?;
        self.hosts.lock().insert(file, namespace.to_owned());
        Ok(())
    }

    pub(crate) fn forget_hosts(&self, file: &PathBuf) {
        self.hosts.lock().remove(file);
    }

    async fn register(&self) -> Result<()> {
        let (name, number) = (self.name(), self.config.number);
        let labels = json!({ "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" });
        let node: NodeObject = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": labels },
            "spec": { "podCIDR": number.pod_cidr(), "podCIDRs": [number.pod_cidr()] },
            "status": {
                "addresses": [{ "type": "InternalIP", "address": number.ip() },
                    { "type": "Hostname", "address": name }],
                "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady",
                    "message": "the kit's kubelet runs" }],
                "nodeInfo": { "kubeletVersion": "v1.33.0-kit", "architecture": "amd64",
                    "bootID": "", "containerRuntimeVersion": "kit://1", "kernelVersion": "",
                    "kubeProxyVersion": "", "machineID": "", "operatingSystem": "linux",
                    "osImage": "pocket cluster", "systemUUID": "" }
            }
        }))?;
        objects::put(&Api::all(self.client.clone()), &node).await.context("register the node")
    }

    fn start_services(self: &Arc<Self>) {
        let changes = Changes::default();
        changes.watch::<Service>(Api::all(self.client.clone()), &self.tasks);
        changes.watch::<EndpointSlice>(Api::all(self.client.clone()), &self.tasks);
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut last = String::new();
            loop {
                let done = node.sync_services(&mut last).await;
                changes.after(&format!("{}: services", node.name()), done).await;
            }
        });
    }

    async fn sync_services(&self, last: &mut String) -> Result<()> {
        let services =
            Services { services: list(&self.client).await?, slices: list(&self.client).await? };
        let rules = services.ruleset();
        if *last != rules {
            let pin = format!("--net={}", netns::path(&self.config.netns).display());
            let script = rules.clone();
            let feed = move || command::feed("nsenter", [&pin, "nft", "-f", "-"], &script);
            self.tasks.tracker.spawn_blocking(feed).await?.context("load the services' rules")?;
            *last = rules;
        }
        *self.services.lock() = services;
        let services = self.services.lock();
        for (file, namespace) in &*self.hosts.lock() {
            write_in_place(file, &services.hosts(namespace))?;
        }
        Ok(())
    }
}

impl RunningPod {
    /// A command in the pod: its network, its files, its cgroup.
    pub fn launch(&self, argv: &[&str]) -> Launch {
        Launch {
            argv: argv.iter().map(|word| String::from(*word)).collect(),
            cgroup: self.cgroup.clone(),
            netns: Some(self.netns.clone()),
            mounts_of: Some(self.pid),
            node: Some(self.node),
            ..Launch::default()
        }
    }
}

/// The file is mounted over another, so it must stay the same file.
fn write_in_place(file: &PathBuf, text: &str) -> Result<()> {
    use std::io::Write;
    if std::fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let open = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(file);
    let mut open = open.with_context(|| format!("open {}", file.display()))?;
    open.write_all(text.as_bytes()).and_then(|()| open.set_len(text.len() as u64))?;
    Ok(())
}
