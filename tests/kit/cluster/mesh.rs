//! The mesh of a cluster: control plane first, then an agent on each node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::agent::{self, Agent, AgentConfig, TOKEN};
use super::control_plane::{CONTROL_PLANE_ACCOUNT, ControlPlane};
use super::{Cluster, ClusterOptions};
use crate::node::Node;
use crate::topology::FABRIC_IP;

/// Long enough for a debug build on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// The API server, from inside the fabric.
fn api() -> String {
    format!("https://{FABRIC_IP}:6443")
}

impl Cluster {
    pub(super) async fn start_mesh(
        &mut self,
        sotto: &Path,
        options: &ClusterOptions,
    ) -> Result<()> {
        (options.tell)("starting the control plane");
        let kubeconfig = self.kubeconfig_of(CONTROL_PLANE_ACCOUNT).await?;
        let place = (self.run.cgroup().join("control-plane"), self.fabric.control_plane.as_str());
        let log = self.run.dir().join("control-plane.log");
        let flags = &options.control_plane_flags;
        self.control_plane = Some(ControlPlane::start(sotto, &kubeconfig, place, log, flags)?);
        let root_cert = self.root_cert();
        let node = self.nodes.first().context("a cluster without nodes")?;
        let published = agent::keep_root(node, root_cert, READY).await;
        published.with_context(|| self.post_mortem())?;
        if !options.agents {
            return Ok(());
        }
        (options.tell)("starting the agents");
        for node in self.nodes.clone() {
            self.start_agent(&node, sotto, options.agent_flags.clone()).await?;
        }
        self.wait_for_agents().await
    }

    /// Starts our agent on a node that has none; does not wait until it is ready.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_agent(
        &mut self,
        node: &Arc<Node>,
        sotto: &Path,
        flags: Vec<String>,
    ) -> Result<()> {
        let config = self.agent_config(sotto, flags);
        self.agents.push(Agent::start(node, &config).await?);
        Ok(())
    }

    fn agent_config(&self, sotto: &Path, flags: Vec<String>) -> AgentConfig {
        AgentConfig {
            program: sotto.to_path_buf(),
            kubeconfig: self.api.kubeconfig(&api(), TOKEN),
            root_cert: self.root_cert(),
            pins: self.run.pins(),
            flags,
        }
    }

    /// Replaces a node's agent as a DaemonSet that is updated with a surge does: another one starts beside it and
    /// becomes ready. Returned is the one before, which runs still.
    ///
    /// # Errors
    /// It does not start, or is not ready within a minute; its log's end is in the error.
    pub async fn surge(&mut self, number: usize, sotto: &Path) -> Result<Agent> {
        let before = self.surge_begun(number, sotto).await?;
        let ready = async || Ok(self.agents[number].ready().await.then_some(()));
        self.wait_until("the next agent is ready", READY, ready).await?;
        Ok(before)
    }

    /// The same, and nothing is waited for.
    ///
    /// # Errors
    /// It does not start.
    pub async fn surge_begun(&mut self, number: usize, sotto: &Path) -> Result<Agent> {
        let before = self.agents.get(number).context("no such agent")?;
        let node = self.nodes.iter().find(|node| node.name() == before.node());
        let node = Arc::clone(node.context("an agent without its node")?);
        let config = self.agent_config(sotto, Vec::new());
        let tag = if before.tag().is_empty() { "-next" } else { "" };
        let next = Agent::start_beside(&node, &config, tag).await?;
        Ok(std::mem::replace(&mut self.agents[number], next))
    }

    /// The file of the control plane's root certificate.
    pub fn root_cert(&self) -> std::path::PathBuf {
        self.run.dir().join("root-cert.pem")
    }

    /// Waits until every agent says it is ready, and its plugin is in its node's network.
    ///
    /// # Errors
    /// One does not within a minute; its log's end is in the error.
    pub async fn wait_for_agents(&self) -> Result<()> {
        for agent in &self.agents {
            let what = format!("the agent of {} is ready", agent.node());
            self.wait_until(&what, READY, async || Ok(agent.ready().await.then_some(()))).await?;
        }
        for agent in self.agents.iter().filter(|agent| agent.cni.is_some()) {
            let node = self.nodes.iter().find(|node| node.name() == agent.node());
            let node = node.context("an agent without its node")?;
            let what = format!("the plugin is in the network of {}", node.name());
            let chained = async || Ok(node.is_chained("sotto").then_some(()));
            self.wait_until(&what, READY, chained).await?;
        }
        Ok(())
    }

    /// The power of a node fails, its agent's with it; see [`Node::power_off`]. At
    /// [`Node::boot`] its agent does not start by itself.
    ///
    /// # Errors
    /// Something of the node does not end.
    pub async fn power_off(&mut self, number: usize) -> Result<()> {
        let node = Arc::clone(self.nodes.get(number).context("no such node")?);
        node.power_off(self.run.pins().join(node.name())).await?;
        for agent in self.agents.iter_mut().filter(|agent| agent.node() == node.name()) {
            for process in [Some(&mut agent.process), agent.cni.as_mut()].into_iter().flatten() {
                process.reap().await?;
            }
        }
        Ok(())
    }

    /// A kubeconfig for a process inside the fabric, with the rights of one of the mesh's accounts.
    async fn kubeconfig_of(&self, account: &str) -> Result<std::path::PathBuf> {
        let token = agent::token(&self.client, account, "", None).await?;
        let file = self.run.dir().join(format!("{account}.kubeconfig"));
        let config = self.api.kubeconfig(&api(), &token);
        std::fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}
