//! What the agent in charge of a node does, and no other: it alone writes the node's kernel and files.
//!
//! | task | owns |
//! |---|---|
//! | enrolment | which pods are captured, the CNI socket |
//! | destinations | the kernel's map of them, and what becomes of others |
//! | upkeep | kernel garbage, readiness |
//! | kubelet | whose probes are exempt |
//! | list, pods | the node's lists of enrolled namespaces and captured pods |
//! | kept | what is known of the mesh, on the node's disk |
//! | hand-over | open connections of the agent before |

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::footprint::{Calm, Footprint};
use super::state::State;
use super::{destinations, handover, kubelet, settings};
use crate::capture;
use crate::capture::bpf::{AdoptedPod, Kernel};
use crate::config::AgentConfig;
use crate::enroll;
use crate::observe::ready::Readiness;
use crate::sys::{Netns, Shutdown, cgroup};

/// Tasks of the control side have this long to end.
pub(super) const CONTROL_DRAIN: Duration = Duration::from_secs(2);

/// What is needed for it, besides what is looked at.
pub(super) struct Office {
    pub(super) client: kube::Client,
    /// The agent's own.
    pub(super) cgroup: cgroup::Cgroup,
    /// How far enrolment is.
    pub(super) status: watch::Sender<enroll::Status>,
    pub(super) readiness: Readiness,
    pub(super) footprint: Footprint,
}

/// The tasks.
pub(super) struct Duty {
    /// Why the agent cannot go on.
    pub(super) failure: mpsc::Receiver<anyhow::Error>,
    /// Ends first: no pod is captured or released any more.
    enrolment: Shutdown,
    others: Shutdown,
}

/// Makes the node ready to redirect; told are the pods that an earlier agent left captured.
pub(super) fn install(
    config: &AgentConfig,
    cgroup: &cgroup::Cgroup,
) -> anyhow::Result<(Kernel, Vec<AdoptedPod>)> {
    let node = Netns::open(&config.proc.join("1/ns/net"))
        .context("failed to find the node's network namespace (the agent's pod needs hostPID)")?;
    capture::confine(&node, &config.stand_ins)
        .context("failed to keep stand-ins from leaving the node")?;
    // The programs must know our cgroup before we open a socket in a pod.
    let kernel = Kernel::install(settings::kernel(config, cgroup)?)
        .context("failed to install the eBPF programs (`sotto check` tells what is lacking)")?;
    let adopted = kernel.adopted().context("failed to list the pods captured already")?;
    Ok((kernel, adopted))
}

impl Duty {
    /// Starts all of them.
    ///
    /// # Errors
    /// The configuration names what is not there.
    pub(super) fn begin(
        state: &Arc<State>,
        office: &Office,
        adopted: Vec<AdoptedPod>,
    ) -> anyhow::Result<Self> {
        let State { config, mesh, kernel, .. } = &**state;
        let (search, settings) = (settings::kubelet(config)?, settings::enrolment(config)?);
        let others = Shutdown::new();
        let stop = || others.token.clone();
        let (probes, readiness) = (state.probes.clone(), office.readiness.clone());
        others.spawn(kubelet::attend(search, kernel.clone(), probes, readiness, stop()));
        others.spawn(state.live.clone().tell_kernel(kernel.clone(), stop()));
        others.spawn(destinations::follow(mesh.clone(), kernel.clone(), stop()));
        others.spawn(settings::kept(config).keep(mesh.clone(), state.discovery.clone(), stop()));
        others.spawn(handover::take(
            settings::run_dir(config).to_owned(),
            (state.pods.clone(), state.workers.clone()),
            state.clone().settled(),
            stop(),
        ));
        let (enrolment, failure) = enrol(settings, state, office, adopted);
        others.spawn(state.clone().keep_list(stop()));
        others.spawn(state.clone().keep_pods(stop()));
        let calm = Calm::new(office.footprint.clone(), state.enrolled.clone());
        others.spawn(state.clone().upkeep(calm, stop()));
        Ok(Self { failure, enrolment, others })
    }

    /// Ends all of them: nothing of the node is written any more.
    pub(super) async fn end(&self) {
        if let Err(unfinished) = self.enrolment.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "enrolment did not end");
        }
        if let Err(unfinished) = self.others.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "tasks of the agent in charge did not end");
        }
    }
}

/// Starts enrolment; told is why it failed, if it does.
fn enrol(
    settings: enroll::Settings,
    state: &State,
    office: &Office,
    adopted: Vec<AdoptedPod>,
) -> (Shutdown, mpsc::Receiver<anyhow::Error>) {
    let tasks = Shutdown::new();
    let (failed, failure) = mpsc::channel(1);
    let adopted = adopted
        .into_iter()
        .map(|pod| enroll::AdoptedPod { uid: pod.uid, netns_inode: pod.netns_inode })
        .collect();
    let (pods, client) = (Arc::new(state.pods.clone()), office.client.clone());
    let (status, stop) = (office.status.clone(), tasks.token.clone());
    tasks.spawn(async move {
        let run = enroll::run(settings, client, pods, adopted, status, stop);
        if let Err(error) = run.await {
            // The queue holds one: the first failure is the one that counts.
            drop(failed.try_send(error.into()));
        }
    });
    (tasks, failure)
}
