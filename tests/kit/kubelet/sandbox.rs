//! A pod's place: network namespace, link, cgroup, files; made before any container starts, with
//! every CNI plugin of the chain asked.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::cni;
use crate::node::{Node, RunningPod};
use crate::topology::PodLink;
use crate::{cgroup, netns};

/// A pod's place on its node.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) cni: cni::Sandbox,
    /// None for a pod in the node's own network.
    pub(super) link: Option<PodLink>,
    pub(super) cgroup: PathBuf,
    pub(super) dir: PathBuf,
    number: Option<u8>,
    node: u32,
}

/// How a sandbox came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// The kubelet stopped it.
    Stopped,
    /// The node was off.
    Rebooted,
}

impl Sandbox {
    /// Makes the place of `pod`; nothing is left of it if a step fails.
    ///
    /// # Errors
    /// A part cannot be made, or a CNI plugin refuses.
    pub(super) async fn create(node: &Arc<Node>, pod: &Pod) -> Result<Self> {
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let sandbox = Self::plan(node, pod, host_network)?;
        match sandbox.make(node).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                sandbox.remove(node, Ends::Stopped).await;
                Err(error)
            }
        }
    }

    fn plan(node: &Arc<Node>, pod: &Pod, host_network: bool) -> Result<Self> {
        let uid = pod.uid().context("a pod without uid")?;
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let container_id = format!("{:032x}", rand::random::<u128>());
        let short = &container_id[..8];
        let pod_netns = format!("{}{short}", node.config.pod_netns_prefix);
        let number = if host_network { None } else { Some(node.take_number()?) };
        let link = number.map(|number| PodLink {
            node_netns: node.config.netns.clone(),
            pod_netns: pod_netns.clone(),
            host_device: format!("veth{short}"),
            ips: node.config.number.pod_ips(number),
            node: node.config.number,
        });
        let used = if host_network { &node.config.netns } else { &pod_netns };
        Ok(Self {
            cgroup: node.config.cgroup.join(format!("kubepods/besteffort/pod{uid}")),
            dir: node.config.dir.join("pods").join(format!("{namespace}_{name}_{uid}")),
            cni: cni::Sandbox { netns: netns::path(used), container_id, namespace, pod: name, uid },
            link,
            number,
            node: node.first_process(),
        })
    }

    async fn make(&self, node: &Arc<Node>) -> Result<()> {
        cgroup::create(&self.cgroup)?;
        std::fs::create_dir_all(&self.dir).context("make the pod's directory")?;
        let namespace = &self.cni.namespace;
        node.keep_hosts(self.hosts(), namespace)?;
        // Nobody answers there: a name that is not in the hosts file is told unknown at once.
        let search =
            format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local\n");
        let resolver =
            format!("{search}nameserver 127.0.0.1\noptions ndots:5 timeout:1 attempts:1\n");
        std::fs::write(self.resolver(), resolver)?;
        let Some(link) = self.link.clone() else { return Ok(()) };
        let made = link.clone();
        tokio::task::spawn_blocking(move || {
            netns::add(&made.pod_netns).and_then(|()| made.create())
        })
        .await??;
        let runtime = node.runtime();
        runtime.add(&self.cni, &link.addresses()).await?;
        runtime.check(&self.cni).await
    }

    /// Ends what runs in it and removes it; errors are logged, the rest is still removed.
    ///
    /// As containerd: the network is told when the sandbox is stopped, and once more when it is
    /// removed and its namespace is gone. After a reboot there is the second time alone.
    pub(super) async fn remove(&self, node: &Arc<Node>, ends: Ends) {
        node.forget_hosts(&self.hosts());
        let group = self.cgroup.clone();
        let killed = node.tasks.tracker.spawn_blocking(move || cgroup::remove(&group)).await;
        let mut errors = Vec::new();
        errors.extend(killed.map_err(anyhow::Error::from).and_then(|done| done).err());
        if let Some(link) = &self.link {
            let runtime = node.runtime();
            if ends == Ends::Stopped {
                errors.extend(runtime.del(&self.cni, true).await.err());
            }
            errors.extend(netns::remove(&link.pod_netns).err());
            errors.extend(runtime.del(&self.cni, false).await.err());
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            errors.push(anyhow::Error::from(error).context("remove the pod's directory"));
        }
        if let Some(number) = self.number {
            node.free_number(number);
        }
        for error in errors {
            tracing::warn!(pod = self.cni.pod, "end of a pod: {error:#}");
        }
    }

    /// The pod's `/etc/hosts`.
    fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// The pod's `/etc/resolv.conf`.
    fn resolver(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    /// What the pod sees at other places: (source, target).
    pub(super) fn files(&self) -> Vec<(PathBuf, PathBuf)> {
        let target = |path: &str| PathBuf::from(path);
        let mut files = vec![(self.hosts(), target("/etc/hosts"))];
        if target("/etc/resolv.conf").exists() {
            files.push((self.resolver(), target("/etc/resolv.conf")));
        }
        files
    }

    /// Where a container's output goes.
    pub(super) fn log(&self, container: &str) -> PathBuf {
        self.dir.join(format!("{container}.log"))
    }

    /// What others may know once a process of it runs.
    pub(super) fn running(&self, pid: u32, container: &str) -> RunningPod {
        RunningPod {
            netns: self.cni.netns.clone(),
            cgroup: self.cgroup.clone(),
            pid,
            log: self.log(container),
            node: self.node,
        }
    }
}
