//! What the agent shows of itself: metrics at a scrape, the dump, readiness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use sotto_abi::{Counter, Counts};

use super::footprint::Calm;
use super::kubelet::Probes;
use super::live::Live;
use super::missing::Missing;
use super::pods::{Pods, SharedKernel};
use super::refused::Refused;
use super::strangers::Strangers;
use super::worker::{Command, Worker};
use super::{dump, explain, migrate, status};
use crate::config::AgentConfig;
use crate::connection::{Means, OpenConnection};
use crate::enroll::{self, enrolled, remembered};
use crate::error::chain;
use crate::identify::certs::Certificates;
use crate::identify::revocation::PeerEnd;
use crate::mesh::MeshReader;
use crate::observe::admin::{Admin, Parameters, Refusal};
use crate::observe::dump::{ConfigDump, Listed};
use crate::observe::log::LostLines;
use crate::observe::metrics::Metrics;
use crate::observe::node::{
    CertificateStats, LimitStats, Limited, NodeStats, RevocationStats, XdsStats,
};
use crate::observe::ready::{Pending, Readiness};
use crate::observe::roots::RootStats;
use crate::sys::descriptors;
use crate::xds;
use crate::xds::status::{KindStatus, StatusReader};

/// How often the kernel's leftovers are looked for.
const UPKEEP: Duration = Duration::from_secs(10);
/// How often readiness is looked at.
const READINESS: Duration = Duration::from_millis(200);
/// How long the dump waits for a data thread to list its connections.
const LIST: Duration = Duration::from_secs(2);

/// The parts that are looked at.
pub(super) struct State {
    pub(super) config: AgentConfig,
    pub(super) live: Live,
    pub(super) mesh: MeshReader,
    pub(super) certificates: Certificates,
    pub(super) discovery: StatusReader,
    pub(super) enrolled: watch::Receiver<enroll::Status>,
    pub(super) kernel: SharedKernel,
    pub(super) workers: Arc<[Worker]>,
    pub(super) pods: Pods,
    pub(super) probes: Probes,
    pub(super) means: Arc<Means>,
    pub(super) readiness: Readiness,
    /// Until upkeep says what the agent waits for.
    pub(super) starting: Mutex<Option<Pending>>,
}

impl State {
    /// Lets the metrics ask for the node's state at each scrape.
    pub(super) fn report(
        self: Arc<Self>,
        metrics: &Metrics,
        log: impl Fn() -> LostLines + Send + Sync + 'static,
    ) {
        metrics.set_node_source(move || self.stats(log()));
    }

    fn stats(&self, log_lines: LostLines) -> NodeStats {
        let discovery = self.discovery.borrow().clone();
        let by_kind = |count: fn(&KindStatus) -> u64| {
            vec![
                (xds::ADDRESS_TYPE.to_owned(), count(&discovery.address)),
                (xds::AUTHORIZATION_TYPE.to_owned(), count(&discovery.authorization)),
            ]
        };
        let ended = &discovery.terminations;
        let certificates = self.certificates.states().into_iter().filter_map(|state| {
            let identity = state.identity.to_string();
            Some(CertificateStats { identity, not_after: state.not_after? })
        });
        NodeStats {
            kernel_connections: self.kernel_connections(),
            certificates: certificates.collect(),
            roots: self.roots(),
            pods: self.enrolled.borrow().by_state(),
            proxies: self.pods.begun_and_ended(),
            kubelet: self.probes.states(),
            xds: XdsStats {
                connected: discovery.connected,
                messages: by_kind(|kind| kind.messages),
                bytes: by_kind(|kind| kind.bytes),
                terminations: vec![
                    ("connection_error", ended.connection_error),
                    ("error", ended.error),
                    ("complete", ended.complete),
                ],
                rejections: by_kind(|kind| kind.rejected_messages),
            },
            tunnels: Vec::new(),
            limits: self.limits(),
            revocations: self.revocations(),
            log_lines,
        }
    }

    /// Roots of all identities: who trusts which, and hangs on which.
    fn roots(&self) -> Vec<RootStats> {
        let mut roots = BTreeMap::<String, RootStats>::new();
        for state in self.certificates.states() {
            for root in &state.roots {
                let fingerprint = root.fingerprint.to_string();
                let (trusting, signed) = (0, 0);
                let new = || RootStats {
                    fingerprint: fingerprint.clone(),
                    trusting,
                    signed,
                    not_after: root.not_after,
                };
                let stats = roots.entry(fingerprint.clone()).or_insert_with(new);
                stats.trusting += 1;
                let own = state.root.as_ref().is_some_and(|own| own.fingerprint == fingerprint);
                stats.signed += u64::from(own);
            }
        }
        roots.into_values().collect()
    }

    fn revocations(&self) -> RevocationStats {
        let revocations = self.certificates.revocations();
        let lists = u64::try_from(revocations.count()).unwrap_or(u64::MAX);
        RevocationStats {
            lists,
            failing: revocations.is_failing(),
            servers_rejected: revocations.rejected(PeerEnd::Server),
            clients_rejected: revocations.rejected(PeerEnd::Client),
        }
    }

    fn limits(&self) -> LimitStats {
        let (means, count) = (&self.means, |count: usize| u64::try_from(count).unwrap_or(u64::MAX));
        LimitStats {
            connections: Limited {
                now: count(means.open()),
                most: count(means.most()),
                refused: means.refused(),
            },
            waiting_bytes: Limited {
                now: count(means.bytes().held()),
                most: count(means.bytes().most()),
                refused: means.bytes().refused(),
            },
            descriptors: descriptors::limit().unwrap_or_default(),
            open_descriptors: descriptors::open().unwrap_or_default(),
        }
    }

    fn kernel_connections(&self) -> Vec<(&'static str, u64)> {
        match self.kernel.lock().counters() {
            Ok(counters) => named(&counters.node).collect(),
            Err(error) => {
                warn!(error = chain(&error), "failed to read the kernel's counters");
                Vec::new()
            }
        }
    }

    /// The connections open on all data threads; those of a thread that does not answer are left
    /// out.
    pub(super) async fn connections(&self) -> Vec<OpenConnection> {
        let mut all = Vec::new();
        for worker in self.workers.iter() {
            let (answer, list) = oneshot::channel();
            let asked = async {
                worker.tell(Command::List { answer }).await.ok()?;
                list.await.ok()
            };
            match timeout(LIST, asked).await {
                Ok(Some(list)) => all.extend(list),
                Ok(None) | Err(_) => warn!("a data thread does not tell its connections"),
            }
        }
        all
    }

    /// Adds the questions of `sotto explain`, `sotto status` and `sotto migrate` to the admin page.
    pub(super) fn answer(self: Arc<Self>, page: Admin) -> Admin {
        let of_explain = self.clone();
        let help = "what policy says; ?source=NS/POD&destination=NS/POD&port=80";
        let page = page.answering("/explain", help, move |asked| {
            let state = of_explain.clone();
            Box::pin(async move { state.explain(&asked) })
        });
        let of_status = self.clone();
        let page = page.answering("/status", "how the node's pods are", move |_| {
            let state = of_status.clone();
            Box::pin(async move { state.status().await })
        });
        page.answering("/plaintext", "who comes in the clear; ?namespace=NS", move |asked| {
            let state = self.clone();
            Box::pin(async move { state.plaintext(&asked).await })
        })
    }

    async fn status(&self) -> Result<Value, Refusal> {
        let connections = self.connections().await;
        let discovery = self.discovery.borrow().clone();
        let answer = status::answer::Answer::new(&self.config.node_name, SystemTime::now())
            .with_readiness(&self.readiness)
            .with_mesh(&self.mesh.load(), &discovery, &self.config.xds_address)
            .with_pods(&self.enrolled.borrow(), &connections)
            .with_certificates(&self.certificates.states());
        json(&answer)
    }

    fn explain(&self, asked: &Parameters) -> Result<Value, Refusal> {
        let (mesh, node) = (self.mesh.load(), &self.config.node_name);
        let home = mesh.home().map_err(|unknown| Refusal::unavailable(unknown.to_string()))?;
        json(&explain::answer::answer(&mesh, &home.network, node, asked)?)
    }

    /// Asks every data thread; one that does not answer makes the whole answer fail.
    async fn plaintext(&self, asked: &Parameters) -> Result<Value, Refusal> {
        let mut threads = Vec::new();
        for worker in self.workers.iter() {
            let (answer, told) = oneshot::channel();
            let asked = async {
                worker.tell(Command::Plaintext { answer }).await.ok()?;
                told.await.ok()
            };
            let silent = || Refusal::unavailable("a data thread does not tell its connections");
            threads.push(timeout(LIST, asked).await.ok().flatten().ok_or_else(silent)?);
        }
        let (mesh, node) = (self.mesh.load(), &self.config.node_name);
        let namespace = asked.get("namespace").map(String::as_str);
        let mut answer = migrate::answer::answer(&mesh, node, namespace, threads)?;
        answer.redirected = self.pods.redirected().iter().map(Into::into).collect();
        answer.now = migrate::answer::milliseconds(SystemTime::now());
        json(&answer)
    }

    /// What `/config_dump` shows; called outside the runtime's threads.
    pub(super) fn dump(&self, runtime: &Handle) -> ConfigDump {
        let connections = runtime.block_on(self.connections());
        let mesh = self.mesh.load();
        ConfigDump {
            workloads: Listed::new(mesh.clone(), dump::workloads),
            services: Listed::new(mesh.clone(), dump::services),
            policies: Listed::new(mesh.clone(), dump::policies),
            rejected: dump::rejected(&self.discovery.borrow()),
            certificates: self.certificates.states().iter().map(dump::certificate).collect(),
            workload_state: dump::pods(&mesh, &self.enrolled.borrow(), &connections),
            config: dump::config(&self.config, &self.live.now(), &mesh),
            ..ConfigDump::default()
        }
    }

    /// Keeps the node's list of enrolled namespaces, for the CNI plugin, until `stop`.
    pub(super) async fn keep_list(self: Arc<Self>, stop: CancellationToken) {
        let file = enrolled::file_in(&self.config.state_dir);
        let ready = || self.discovery.borrow().synced() && self.is_settled();
        enrolled::keep(file, self.enrolled.clone(), ready, stop).await;
    }

    /// Keeps the node's list of captured pods, for the agent's next run, until `stop`.
    pub(super) async fn keep_pods(self: Arc<Self>, stop: CancellationToken) {
        let file = remembered::file_in(&self.config.state_dir);
        remembered::keep(file, self.enrolled.clone(), stop).await;
    }

    /// Tells of policies that are named and never sent.
    fn tell_missing(&self, missing: &mut Missing) {
        let (mesh, enrolled) = (self.mesh.load(), self.enrolled.borrow().clone());
        if !mesh.synced() {
            return;
        }
        let pods = enrolled.pods.iter().filter_map(|pod| pod.pod.clone());
        for key in missing.look(&mesh, pods) {
            warn!(policy = %key, "the control plane names this policy and does not send it: \
                plaintext is denied where it is named, and identities pass, as its content would have it");
        }
    }

    /// Tells on the readiness page what is wrong without being a reason to wait.
    fn remark(&self, readiness: &Readiness, enrolled: &enroll::Status) {
        readiness.remark("pods", enrolled.troubles());
        readiness.remark("control plane", self.discovery.borrow().last_error.clone());
    }

    /// Waits until every pod that is to be captured is, for the first time.
    pub(super) async fn settled(self: Arc<Self>) {
        let mut enrolled = self.enrolled.clone();
        // Its writer lives as long as the agent.
        drop(enrolled.wait_for(|status| status.synced && status.settled).await);
    }

    /// Whether every pod that is to be captured is.
    fn is_settled(&self) -> bool {
        let status = self.enrolled.borrow();
        status.synced && status.settled
    }

    /// Looks after the kernel's leftovers; whether that could be done.
    async fn maintain(&self) -> bool {
        let kernel = self.kernel.clone();
        match tokio::task::spawn_blocking(move || kernel.lock().maintain()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => warn!(error = chain(&error), "kernel upkeep failed"),
            Err(error) => warn!(%error, "kernel upkeep panicked"),
        }
        false
    }

    /// Looks after the kernel's leftovers and the agent's readiness until `stop`.
    pub(super) async fn upkeep(self: Arc<Self>, mut calm: Calm, stop: CancellationToken) {
        let readiness = &self.readiness;
        let mut mesh_known = Some(readiness.pending("mesh state from the control plane"));
        let mut pods_known = Some(readiness.pending("pods of this node"));
        let (mut nothing_captured, mut kernel_broken) = (None, None);
        let (mut missing, mut strangers) = (Missing::default(), Strangers::new(readiness.clone()));
        let mut refused = Refused::new(readiness.clone());
        drop(self.starting.lock().take());
        let (mut kernel_due, mut ready_due) = (interval(UPKEEP), interval(READINESS));
        let mut looks = 0_u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ready_due.tick() => {
                    let was_ready = readiness.is_ready();
                    if mesh_known.is_some() && self.discovery.borrow().synced() {
                        mesh_known = None;
                    }
                    if pods_known.is_some() && self.is_settled() {
                        pods_known = None;
                    }
                    let enrolled = self.enrolled.borrow().clone();
                    looks = looks.wrapping_add(1);
                    // Once a second is enough for what was well: an idle agent is to be idle.
                    if !was_ready || looks.is_multiple_of(5) {
                        self.remark(readiness, &enrolled);
                        strangers.look(&self.mesh.load(), &enrolled.pods);
                        refused.look(&self.certificates);
                    }
                    let broken = enrolled.broken().is_some();
                    let pending = || readiness.pending("the capture of any pod");
                    nothing_captured = broken.then(|| nothing_captured.unwrap_or_else(pending));
                    calm.tick(readiness.is_ready());
                }
                _ = kernel_due.tick() => {
                    self.tell_missing(&mut missing);
                    let broken = !self.maintain().await;
                    let pending = || readiness.pending("upkeep of the eBPF programs");
                    kernel_broken = broken.then(|| kernel_broken.unwrap_or_else(pending));
                }
            }
        }
    }
}

fn json(answer: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(|error| Refusal::internal(error.to_string()))
}

/// The kernel's counters, by the names that metrics give them.
fn named(counts: &Counts) -> impl Iterator<Item = (&'static str, u64)> + use<'_> {
    [
        ("captured", Counter::Captured),
        ("direct", Counter::Unknown),
        ("excluded", Counter::Excluded),
        ("refused", Counter::Refused),
        ("failed_open", Counter::FailedOpen),
        ("inbound_plaintext", Counter::Plaintext),
        ("inbound_hbone", Counter::Hbone),
        ("probe", Counter::Probe),
        ("dropped", Counter::Dropped),
    ]
    .into_iter()
    .map(|(name, counter)| (name, counts.of(counter)))
}
