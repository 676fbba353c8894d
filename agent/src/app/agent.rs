//! The node agent: builds the parts in order, wires them, waits for the end, drains.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | discovery | the mesh's store | at shutdown |
//! | certificates | keys, renewal | at shutdown |
//! | revocations | which certificates were taken back | at shutdown |
//! | enrolment | which pods are captured, the CNI socket | at shutdown, first |
//! | destinations | the kernel's map of them | at shutdown |
//! | upkeep | kernel garbage, readiness | at shutdown |
//! | kubelet | whose probes are exempt | at shutdown |
//! | list, pods | the node's lists of enrolled namespaces and captured pods | at shutdown |
//! | kept | what is known of the mesh, on the node's disk | at shutdown |
//! | admin, metrics, readiness | their listeners | last |
//! | data threads | pods' connections | after the drain |

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::footprint::{Calm, Footprint};
use super::pods::{Pods, SharedKernel};
use super::process::{self, Log, Logging};
use super::state::State;
use super::worker::{self, Command, Worker};
use super::{destinations, environment, kubelet, means, quiet, settings};
use crate::capture;
use crate::capture::bpf::{AdoptedPod, Kernel};
use crate::config::AgentConfig;
use crate::connection::{Shared, Timings};
use crate::enroll;
use crate::identify::ca::CaClient;
use crate::identify::certs::Certificates;
use crate::identify::clock::SystemClock;
use crate::identify::revocation::Revocations;
use crate::mesh::{MeshReader, Store};
use crate::observe::admin::{self, Admin};
use crate::observe::log::{LinesPerPod, LogControl};
use crate::observe::metrics::Metrics;
use crate::observe::ready::Readiness;
use crate::observe::{metrics_server, ready};
use crate::sys::{Netns, Shutdown, cgroup, descriptors, heap, privileges, shutdown, sysctl};
use crate::xds::{self, StatusReader, StatusWriter};

/// Tasks of the control side have this long to end.
const CONTROL_DRAIN: Duration = Duration::from_secs(2);

/// Runs the agent until SIGTERM.
pub(super) fn run(config: AgentConfig) -> ExitCode {
    // Before any other thread: capabilities and cgroups belong to threads.
    match prepare(&config) {
        Ok(cgroup) => {
            let lines_per_pod = LinesPerPod(config.pod_log_lines);
            let logging = Logging::of(config.log_format, config.log_level.clone());
            process::run("agent", &Logging { lines_per_pod, ..logging }, |log| {
                serve(config, cgroup, log)
            })
        }
        Err(error) => super::exit(Err(error)),
    }
}

/// Settles the process where the programs know it, and gives up what it does not need.
fn prepare(config: &AgentConfig) -> anyhow::Result<cgroup::Cgroup> {
    ensure!(privileges::is_root(), "the agent must run as root: it loads eBPF programs");
    heap::bound(config.threads.get()).context("failed to bound the heap")?;
    let cgroup = cgroup::settle(settings::agent_cgroup(config).as_deref())
        .context("failed to find or make a cgroup of the agent's own (is cgroup2 mounted?)")?;
    sysctl::use_proc(&config.proc);
    descriptors::raise_limit().context("failed to raise the limit of open files")?;
    privileges::drop_all_but(privileges::AGENT).context("failed to drop capabilities")?;
    Ok(cgroup)
}

/// Everything that runs.
struct Agent {
    state: Arc<State>,
    /// Why the agent cannot go on.
    failure: mpsc::Receiver<anyhow::Error>,
    /// Ends first: no pod is captured or released any more.
    enrolment: Shutdown,
    /// Goes on during the drain, so that open connections are still judged.
    control: Shutdown,
    /// Ends after the drain.
    servers: Shutdown,
}

async fn serve(config: AgentConfig, cgroup: cgroup::Cgroup, log: Log) -> anyhow::Result<()> {
    let drain_deadline = config.drain_deadline;
    let mut agent = start(config, cgroup, log).await?;
    info!("running");
    let failed = tokio::select! {
        asked = shutdown::requested() => asked.err().map(Into::into),
        Some(error) = agent.failure.recv() => Some(error),
        () = agent.enrolment.token.cancelled() => None,
        broken = workers_break(&agent.state.workers) => Some(broken),
    };
    info!("draining");
    agent.drain(drain_deadline).await;
    match failed {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Builds the parts; an error here is a node that cannot serve.
async fn start(config: AgentConfig, cgroup: cgroup::Cgroup, log: Log) -> anyhow::Result<Agent> {
    for sentence in environment::without_effect(std::env::vars().map(|(name, _)| name)) {
        warn!("{sentence}");
    }
    let (control, enrolment, servers) = (Shutdown::new(), Shutdown::new(), Shutdown::new());
    let readiness = Readiness::new();
    // On another thread, while this one has the most to do.
    let footprint = control.spawn(async { Footprint::new() });
    let client = super::kubernetes(config.kubeconfig.as_deref()).await?;

    let (kernel, adopted) = install(&config, &cgroup)?;
    let probes = attend_kubelet(&config, &kernel, &readiness, &control)?;
    let footprint = footprint.await.unwrap_or_default();
    footprint.give_back();

    let (mesh, discovery) = discover(&config, &kernel, &control);
    let ca = CaClient::new(settings::certificates(&config));
    let revocations = Revocations::read(config.crl.clone())
        .context("failed to read what certificates were revoked")?;
    control.spawn(revocations.clone().follow(control.token.clone()));
    let (certificates, renewal) = Certificates::new(ca, Arc::new(SystemClock), revocations);
    control.spawn(renewal.run(control.token.clone()));

    let means = means::means(&config, &cgroup)?;
    let metrics = Metrics::new();
    let shared = Arc::new(Shared {
        mesh: mesh.clone(),
        network: config.network.as_str().into(),
        cluster: config.cluster_id.as_str().into(),
        certificates: certificates.clone(),
        metrics: metrics.clone(),
        limits: settings::limits(&config),
        timings: Timings::default(),
    });
    let workers =
        Worker::start(config.threads.get(), &shared).context("failed to start the data threads")?;

    let before = adopted.iter().map(|pod| pod.uid.clone());
    let pods = Pods::new(
        kernel.clone(),
        workers.clone(),
        certificates.clone(),
        servers.clone(),
        before,
        means.clone(),
    );
    let settings = settings::enrolment(&config)?;
    let (failure, enrolled) = enrol(settings, client, pods.clone(), adopted, &enrolment);
    let calm = Calm::new(footprint.clone(), enrolled.clone());
    let state = Arc::new(State {
        config,
        mesh,
        certificates,
        discovery,
        enrolled,
        kernel,
        workers,
        pods,
        probes,
        means,
    });
    control.spawn(state.clone().keep_list(control.token.clone()));
    control.spawn(state.clone().keep_pods(control.token.clone()));
    state.clone().report(&metrics, log.lost_lines);
    control.spawn(state.clone().upkeep(calm, readiness.clone(), control.token.clone()));
    control.spawn(quiet::give_back(footprint, metrics.clone(), control.token.clone()));
    listen(&state, metrics, readiness, log.control, enrolment.token.clone(), &servers).await?;
    Ok(Agent { state, failure, enrolment, control, servers })
}

/// Makes the node ready to redirect; told are the pods that an earlier agent left captured.
fn install(
    config: &AgentConfig,
    cgroup: &cgroup::Cgroup,
) -> anyhow::Result<(SharedKernel, Vec<AdoptedPod>)> {
    let node = Netns::open(&config.proc.join("1/ns/net"))
        .context("failed to find the node's network namespace (the agent's pod needs hostPID)")?;
    capture::confine(&node, &config.stand_ins)
        .context("failed to keep stand-ins from leaving the node")?;
    // The programs must know our cgroup before we open a socket in a pod.
    let kernel = Kernel::install(settings::kernel(config, cgroup)?)
        .context("failed to install the eBPF programs (`sotto check` tells what is lacking)")?;
    let adopted = kernel.adopted().context("failed to list the pods captured already")?;
    Ok((Arc::new(Mutex::new(kernel)), adopted))
}

/// Starts to keep the kubelet's probes exempt.
fn attend_kubelet(
    config: &AgentConfig,
    kernel: &SharedKernel,
    readiness: &Readiness,
    control: &Shutdown,
) -> anyhow::Result<kubelet::Probes> {
    let (search, probes) = (settings::kubelet(config)?, kubelet::Probes::default());
    let stop = control.token.clone();
    let attend = kubelet::attend(search, kernel.clone(), probes.clone(), readiness.clone(), stop);
    control.spawn(attend);
    Ok(probes)
}

/// Starts learning of the mesh, and telling the kernel which destinations are in it.
fn discover(
    config: &AgentConfig,
    kernel: &SharedKernel,
    control: &Shutdown,
) -> (MeshReader, StatusReader) {
    let (store, mesh) = Store::new();
    let (discovered, discovery) = StatusWriter::new();
    let stop = || control.token.clone();
    control.spawn(xds::run(settings::discovery(config), store, stop(), discovered));
    let kept = settings::kept(config);
    control.spawn(kept.keep(mesh.clone(), discovery.clone(), stop()));
    let network = config.network.as_str().into();
    control.spawn(destinations::follow(mesh.clone(), network, kernel.clone(), stop()));
    (mesh, discovery)
}

/// Starts enrolment; told is why it failed, if it does, and how far it is.
fn enrol(
    settings: enroll::Settings,
    client: kube::Client,
    pods: Pods,
    adopted: Vec<AdoptedPod>,
    tasks: &Shutdown,
) -> (mpsc::Receiver<anyhow::Error>, watch::Receiver<enroll::Status>) {
    let (status, enrolled) = watch::channel(enroll::Status::default());
    let (failed, failure) = mpsc::channel(1);
    let adopted = adopted
        .into_iter()
        .map(|pod| enroll::AdoptedPod { uid: pod.uid, netns_inode: pod.netns_inode })
        .collect();
    let stop = tasks.token.clone();
    tasks.spawn(async move {
        let run = enroll::run(settings, client, Arc::new(pods), adopted, status, stop);
        if let Err(error) = run.await {
            // The queue holds one: the first failure is the one that counts.
            drop(failed.try_send(error.into()));
        }
    });
    (failure, enrolled)
}

/// Opens the agent's own ports.
async fn listen(
    state: &Arc<State>,
    metrics: Metrics,
    readiness: Readiness,
    log: LogControl,
    quit: CancellationToken,
    servers: &Shutdown,
) -> anyhow::Result<()> {
    let of_dump = state.clone();
    let runtime = tokio::runtime::Handle::current();
    let page = Admin::new(move || of_dump.dump(&runtime), log, quit);
    let page = state.clone().answer(page);
    let stop = || servers.token.clone();
    let admin = admin::serve(bind("admin", state.config.admin_address).await?, page, stop());
    servers.spawn(told("admin", admin));
    let listener = bind("metrics", state.config.metrics_address).await?;
    servers.spawn(told("metrics", metrics_server::serve(listener, metrics, stop())));
    let listener = bind("readiness", state.config.ready_address).await?;
    servers.spawn(told("readiness", ready::serve(listener, readiness, stop())));
    Ok(())
}

async fn bind(purpose: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("failed to listen on {address} for {purpose}"))
}

async fn told(purpose: &'static str, serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        error!(%error, purpose, "a listener of the agent broke");
    }
}

impl Agent {
    /// New connections find nobody; open ones may end by themselves until the deadline.
    async fn drain(self, deadline: Duration) {
        if let Err(unfinished) = self.enrolment.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "enrolment did not end");
        }
        if timeout(deadline, drained(&self.state.workers)).await.is_err() {
            warn!(after = ?deadline, "connections were open at the drain deadline; they are reset");
        }
        if let Err(unfinished) = self.control.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "control tasks did not end");
        }
        if let Err(unfinished) = self.servers.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "servers did not end");
        }
    }
}

/// Waits for the last connection.
async fn drained(workers: &[Worker]) {
    // First none accepts any more: what one has accepted may be another's to serve.
    let stop = |done| Command::Stop { uid: None, done };
    join_all(worker::tell_all(workers, stop).await).await;
    join_all(worker::tell_all(workers, |done| Command::Drain { done }).await).await;
}

/// Ends only when a data thread has, which is a bug.
async fn workers_break(workers: &[Worker]) -> anyhow::Error {
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        if workers.iter().any(Worker::is_gone) {
            return anyhow!("a data thread panicked; only a restart helps");
        }
    }
}
