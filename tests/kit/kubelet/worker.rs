//! The life of one pod: sandbox, containers, status, end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;

use super::Wish;
use super::containers::Running;
use super::probe::Prober;
use super::sandbox::{Ends, Sandbox};
use super::status::{self, ContainerState};
use crate::node::{Node, Power};
use crate::{objects, pods};

/// The shortest pause after a sandbox that could not be made; a kubelet waits up to half as long again.
const BACK_OFF: Duration = Duration::from_secs(10);
/// Longest time that containers get to end by themselves, whatever the pod asks for.
const GRACE: Duration = Duration::from_secs(2);

/// Starts the task of a pod; it takes further wishes until the pod is gone.
pub(super) fn start(node: &Arc<Node>, wish: Wish) -> watch::Sender<Wish> {
    let (tell, wishes) = watch::channel(wish);
    let of = Arc::clone(node);
    node.tasks.spawn(async move {
        let pod = match &*wishes.borrow() {
            Wish::Run(pod) | Wish::End(pod) => Arc::clone(pod),
            Wish::Gone => return,
        };
        let mut worker = Worker { node: of, pod, wishes };
        worker.live().await;
    });
    tell
}

struct Worker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    wishes: watch::Receiver<Wish>,
}

impl Worker {
    async fn live(&mut self) {
        while let Some((sandbox, power)) = self.make_sandbox().await {
            let ends = match self.run(&sandbox, power).await {
                Ok(ends) => ends,
                Err(error) => {
                    tracing::warn!(pod = self.pod.name_any(), "{error:#}");
                    self.report(&status::waiting(&self.pod, self.host_ip(), &format!("{error:#}")))
                        .await;
                    tokio::select! {
                        () = self.ending() => Ends::Stopped,
                        () = self.power_fails(power) => Ends::Rebooted,
                    }
                }
            };
            let (namespace, name) = self.key();
            self.node.pod_ended(&namespace, &name);
            self.powered().await;
            sandbox.remove(&self.node, ends).await;
            if ends == Ends::Stopped {
                break;
            }
        }
        self.delete().await;
    }

    /// Tries until it works or the pod is no longer wanted.
    async fn make_sandbox(&self) -> Option<(Sandbox, Power)> {
        loop {
            let power = self.powered().await;
            let tried = match &*self.wishes.borrow() {
                Wish::Run(pod) => Arc::clone(pod),
                Wish::End(_) | Wish::Gone => return None,
            };
            match Sandbox::create(&self.node, &self.pod).await {
                Ok(sandbox) => return Some((sandbox, power)),
                Err(error) => {
                    let why = format!("failed to create pod sandbox: {error:#}");
                    tracing::debug!(pod = self.pod.name_any(), why);
                    self.report(&status::waiting(&self.pod, self.host_ip(), &why)).await;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(BACK_OFF.mul_f64(1.0 + rand::random::<f64>() / 2.0)) => {}
                () = self.changed_since(&tried) => {}
            }
        }
    }

    /// Runs the pod until it is no longer wanted.
    async fn run(&mut self, sandbox: &Sandbox, power: Power) -> Result<Ends> {
        let mut containers = Running::start_all(&self.node, &self.pod, sandbox)?;
        let ips = self.ips(sandbox);
        let mut prober = Prober::start(&self.node, &self.pod, ips[0])?;
        loop {
            self.publish(sandbox, &containers);
            self.report_running(&ips, &containers, prober.ready()).await;
            tokio::select! {
                () = self.ending() => break,
                () = self.power_fails(power) => return Ok(Ends::Rebooted),
                () = prober.changed() => {}
                index = first_to_end(&mut containers) => {
                    self.report_running(&ips, &containers, false).await;
                    tokio::select! {
                        () = self.ending() => break,
                        () = self.power_fails(power) => return Ok(Ends::Rebooted),
                        again = containers[index].restart(&self.node, sandbox) => again?,
                    }
                }
            }
        }
        drop(prober);
        for container in &containers {
            container.terminate();
        }
        let all = futures::future::join_all(containers.iter_mut().map(Running::ended));
        // Those that do not end in time are killed with their cgroup.
        let in_time = tokio::time::timeout(GRACE, all).await.is_ok();
        tracing::debug!(pod = self.pod.name_any(), in_time, "ended");
        Ok(Ends::Stopped)
    }

    fn publish(&self, sandbox: &Sandbox, containers: &[Running]) {
        let (namespace, name) = self.key();
        if let Some((container, pid)) = containers.iter().find_map(|c| Some((c, c.pid()?))) {
            let running = sandbox.running(pid, container.name());
            if let Err(error) = pods::note(&sandbox.dir, &running) {
                tracing::warn!(pod = name, "{error:#}");
            }
            self.node.pod_started(&namespace, &name, running);
        }
    }

    async fn report_running(&mut self, ips: &[IpAddr], containers: &[Running], ready: bool) {
        if let Wish::Run(pod) = &*self.wishes.borrow() {
            self.pod = Arc::clone(pod);
        }
        let containers: Vec<ContainerState> = containers
            .iter()
            .map(|container| ContainerState {
                name: container.name().to_owned(),
                image: container.image().to_owned(),
                restarts: container.restarts,
                running: container.pid().is_some(),
            })
            .collect();
        self.report(&status::running(&self.pod, (self.host_ip(), ips), &containers, ready)).await;
    }

    async fn report(&self, status: &Value) {
        let mut pause = Duration::from_millis(50);
        for _ in 0..5 {
            let patch = Patch::Merge(status);
            let (api, name) = (self.api(), self.pod.name_any());
            let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
            match objects::ignore_missing(patched.map(drop)) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, pod = self.pod.name_any(), "report the status")
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn delete(&self) {
        let preconditions = Some(Preconditions { uid: self.pod.uid(), resource_version: None });
        let now = DeleteParams { preconditions, ..DeleteParams::default().grace_period(0) };
        let deleted = self.api().delete(&self.pod.name_any(), &now).await;
        match deleted.map(drop) {
            // Another pod of that name is none of ours.
            Err(error) if !matches!(objects::status(&error), Some(404 | 409)) => {
                tracing::warn!(%error, pod = self.pod.name_any(), "delete");
            }
            _ => {}
        }
    }

    /// Waits until something else is wanted of the pod than was: what its status says is no wish.
    async fn changed_since(&self, then: &Pod) {
        let what = |pod: &Pod| {
            let metadata = &pod.metadata;
            (pod.spec.clone(), metadata.labels.clone(), metadata.annotations.clone())
        };
        let before = what(then);
        let mut wishes = self.wishes.clone();
        let changed = wishes.wait_for(|wish| match wish {
            Wish::Run(pod) => what(pod) != before,
            Wish::End(_) | Wish::Gone => true,
        });
        if changed.await.is_err() {
            // The kubelet is gone, and with it the whole cluster.
            std::future::pending().await
        }
    }

    /// Waits until the node runs.
    async fn powered(&self) -> Power {
        let mut power = self.node.power();
        let now = power.wait_for(|power| power.on).await.map(|power| *power);
        match now {
            Ok(now) => now,
            // The kubelet is gone, and with it the whole cluster.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for the end of this run of the node.
    async fn power_fails(&self, now: Power) {
        let mut power = self.node.power();
        let failed = power.wait_for(|power| *power != now).await.map(drop);
        if failed.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the pod is no longer wanted.
    async fn ending(&self) {
        let mut wishes = self.wishes.clone();
        let ended = wishes.wait_for(|wish| !matches!(wish, Wish::Run(_))).await.map(drop);
        if ended.is_err() {
            // The kubelet is gone, and with it the whole cluster.
            std::future::pending().await
        }
    }

    fn ips(&self, sandbox: &Sandbox) -> Vec<IpAddr> {
        match &sandbox.link {
            Some(link) => link.addresses().into(),
            None => vec![self.host_ip()],
        }
    }

    fn host_ip(&self) -> IpAddr {
        self.node.config.number.ip().into()
    }

    fn key(&self) -> (String, String) {
        (self.pod.namespace().unwrap_or_default(), self.pod.name_any())
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.node.client.clone(), &self.key().0)
    }
}

/// The index of the first container whose process ends.
async fn first_to_end(containers: &mut [Running]) -> usize {
    let waits = containers.iter_mut().map(|container| Box::pin(container.ended()));
    let (status, index, _) = futures::future::select_all(waits).await;
    tracing::debug!(?status, index, "a container ended");
    index
}
