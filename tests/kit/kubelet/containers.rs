//! The containers of a pod: processes that are started again when they end.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;

use super::sandbox::Sandbox;
use crate::images;
use crate::launch::Launch;
use crate::node::Node;

/// A container of a running pod.
#[derive(Debug)]
pub(super) struct Running {
    spec: Container,
    child: Child,
    /// How often it was started again.
    pub(super) restarts: i32,
}

impl Running {
    /// Starts every container of `pod`.
    ///
    /// # Errors
    /// An image that is not known, or a program that does not start.
    pub(super) fn start_all(node: &Node, pod: &Pod, sandbox: &Sandbox) -> Result<Vec<Self>> {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        containers
            .map(|spec| {
                let child = start(node, spec, sandbox)?;
                Ok(Self { spec: spec.clone(), child, restarts: 0 })
            })
            .collect()
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its image.
    pub(super) fn image(&self) -> &str {
        self.spec.image.as_deref().unwrap_or_default()
    }

    /// Its process, as long as it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks its process to end.
    pub(super) fn terminate(&self) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok());
        // It may have ended by itself just now.
        let sent = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        tracing::trace!(?sent, container = self.name(), "SIGTERM");
    }

    /// Waits for its process to end.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Starts it again after a pause that grows with each time.
    ///
    /// # Errors
    /// The program does not start.
    pub(super) async fn restart(&mut self, node: &Node, sandbox: &Sandbox) -> Result<()> {
        let exponent = self.restarts.clamp(0, 5).unsigned_abs();
        tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(exponent)).await;
        self.restarts += 1;
        self.child = start(node, &self.spec, sandbox)?;
        Ok(())
    }
}

fn start(node: &Node, container: &Container, sandbox: &Sandbox) -> Result<Child> {
    let env = container.env.iter().flatten();
    let env = env.filter_map(|var| Some((var.name.clone(), var.value.clone()?)));
    let launch = Launch {
        argv: images::argv(container, &node.config.kit_app)?,
        cgroup: sandbox.cgroup.clone(),
        netns: Some(sandbox.cni.netns.clone()),
        files: sandbox.files(),
        env: env.collect(),
        log: Some(sandbox.log(&container.name)),
        node: Some(node.first_process()),
        ..Launch::default()
    };
    launch.spawn().with_context(|| format!("start the container {}", container.name))
}
