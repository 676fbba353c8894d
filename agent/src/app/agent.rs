//! The node agent: builds the parts in order, wires them, waits for the end, drains.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | discovery | the mesh's store | at shutdown |
//! | certificates | keys, renewal | at shutdown |
//! | enrolment | which pods are captured, the CNI socket | at shutdown, first |
//! | destinations | the kernel's map of them | at shutdown |
//! | upkeep | kernel garbage, readiness | at shutdown |
//! | admin, metrics, readiness | their listeners | last |
//! | data threads | pods' connections | after the drain |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{interval, timeout};
use tracing::{error, info, warn};

use super::destinations;
use super::pods::{Pods, SharedKernel};
use super::process::{self, Log};
use super::state::State;
use super::worker::{Command, Worker};
use crate::capture::bpf::{Kernel, KernelConfig};
use crate::capture::kubelet;
use crate::config::{AgentConfig, UnknownDestinations};
use crate::connection::{Shared, Timings};
use crate::enroll;
use crate::identify::ca::{CaClient, CaConfig};
use crate::identify::certs::Certificates;
use crate::identify::clock::SystemClock;
use crate::mesh::Store;
use crate::observe::admin::{self, Admin};
use crate::observe::log::LogControl;
use crate::observe::metrics::Metrics;
use crate::observe::ready::Readiness;
use crate::observe::{metrics_server, ready};
use crate::sys::{Shutdown, cgroup, privileges, shutdown, sysctl};
use crate::tunnel::Limits;
use crate::xds::{self, XdsConfig};

/// Tasks of the control side have this long to end.
const CONTROL_DRAIN: Duration = Duration::from_secs(2);

/// Runs the agent until SIGTERM.
pub(super) fn run(config: AgentConfig) -> ExitCode {
    // Before any other thread: capabilities and cgroups belong to threads.
    match prepare(&config) {
        Ok(cgroup) => {
            let (format, level) = (config.log_format, config.log_level.clone());
            process::run("agent", format, &level, |log| serve(config, cgroup, log))
        }
        Err(error) => super::exit(Err(error)),
    }
}

/// Settles the process where the programs know it, and gives up what it does not need.
fn prepare(config: &AgentConfig) -> anyhow::Result<cgroup::Cgroup> {
    ensure!(privileges::is_root(), "the agent must run as root: it loads eBPF programs");
    let cgroup = cgroup::settle(config.agent_cgroup.as_deref())
        .context("failed to find or make a cgroup of the agent's own (is cgroup2 mounted?)")?;
    sysctl::use_proc(&config.proc);
    privileges::drop_all_but(privileges::AGENT).context("failed to drop capabilities")?;
    Ok(cgroup)
}

/// Everything that runs.
struct Agent {
    state: Arc<State>,
    /// Why the agent cannot go on.
    failure: mpsc::Receiver<anyhow::Error>,
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
        () = agent.control.token.cancelled() => None,
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
    let (control, servers) = (Shutdown::new(), Shutdown::new());
    let readiness = Readiness::new();
    let client = super::kubernetes(config.kubeconfig.as_deref()).await?;

    // The programs must know our cgroup before we open a socket in a pod.
    let kernel: SharedKernel = Arc::new(Mutex::new(install(&config, &cgroup)?));
    let adopted = kernel.lock().adopted().context("failed to list the pods captured already")?;

    let (store, mesh) = Store::new();
    let (discovered, discovery) = xds::status::StatusWriter::new();
    let xds = xds::client::run(discovery_of(&config), store, control.token.clone(), discovered);
    control.spawn(xds);

    let ca = CaClient::new(certificates_of(&config));
    let (certificates, renewal) = Certificates::new(ca, Arc::new(SystemClock));
    control.spawn(renewal.run(control.token.clone()));

    let metrics = Metrics::new();
    let shared = Arc::new(Shared {
        mesh: mesh.clone(),
        network: config.network.as_str().into(),
        cluster: config.cluster_id.as_str().into(),
        certificates: certificates.clone(),
        metrics: metrics.clone(),
        limits: Limits::default(),
        timings: Timings::default(),
    });
    let workers = (0..config.threads.get())
        .map(|index| Worker::start(index, shared.clone()))
        .collect::<Result<Arc<[_]>, _>>()
        .context("failed to start the data threads")?;
    let pods = Pods::new(kernel.clone(), workers, certificates.clone(), servers.clone());

    let network = shared.network.clone();
    control.spawn(destinations::follow(
        mesh.clone(),
        network,
        kernel.clone(),
        control.token.clone(),
    ));
    let (enrolment, enrolled) = watch::channel(enroll::Status::default());
    let settings = enrolment_of(&config)?;
    let adopted = adopted
        .into_iter()
        .map(|pod| enroll::AdoptedPod { uid: pod.uid, netns_inode: pod.netns_inode });
    let (failed, failure) = mpsc::channel(1);
    let capture = Arc::new(pods.clone());
    let stop = control.token.clone();
    control.spawn(async move {
        let ended =
            enroll::run(settings, client, capture, adopted.collect(), enrolment, stop).await;
        if let Err(error) = ended {
            // The queue holds one: the first failure is the one that counts.
            drop(failed.try_send(error.into()));
        }
    });

    let state = Arc::new(State {
        config,
        mesh,
        certificates,
        discovery,
        enrolled,
        kernel,
        workers: pods.workers().clone(),
    });
    state.clone().report(&metrics, log.dropped_lines);
    control.spawn(state.clone().upkeep(readiness.clone(), control.token.clone()));
    listen(&state, metrics, readiness, log.control, &control, &servers).await?;
    Ok(Agent { state, failure, control, servers })
}

/// Loads the programs, or adopts those of an earlier run.
fn install(config: &AgentConfig, cgroup: &cgroup::Cgroup) -> anyhow::Result<Kernel> {
    let cgroup_root = match &config.cgroup_root {
        Some(root) => root.clone(),
        None => cgroup::root().context("failed to find the cgroup v2 hierarchy")?,
    };
    let kubelet_cgroup = match &config.kubelet_cgroup {
        Some(given) => Some(given.clone()),
        None => kubelet::find(&config.proc, &cgroup_root)
            .context("failed to look for the kubelet's cgroup")?,
    };
    if kubelet_cgroup.is_none() {
        warn!("no kubelet runs on this node: probes are captured like any connection");
    }
    Kernel::install(KernelConfig {
        pin_dir: config.pin_dir.clone(),
        cgroup_root,
        agent_cgroup_id: cgroup.id,
        kubelet_cgroup,
        fail_open: config.fail_open,
        proxy_unknown: config.unknown_destinations == UnknownDestinations::Proxy,
    })
    .context("failed to install the eBPF programs (`sotto check` tells what this kernel lacks)")
}

fn discovery_of(config: &AgentConfig) -> XdsConfig {
    XdsConfig {
        address: config.xds_address.clone(),
        server_name: config.control_plane_name.clone(),
        root_cert: config.root_cert.clone(),
        token: config.token.clone(),
        cluster_id: config.cluster_id.clone(),
        node_name: config.node_name.clone(),
        pod_name: config.pod_name.clone(),
        pod_namespace: config.pod_namespace.clone(),
        instance_ip: config.instance_ip,
        metadata: BTreeMap::new(),
    }
}

fn certificates_of(config: &AgentConfig) -> CaConfig {
    CaConfig {
        address: config.ca_address.clone(),
        server_name: config.control_plane_name.clone(),
        root_cert: config.root_cert.clone(),
        token: config.token.clone(),
        cluster_id: config.cluster_id.clone(),
        ttl: config.certificate_ttl,
    }
}

fn enrolment_of(config: &AgentConfig) -> anyhow::Result<enroll::Settings> {
    let cgroup_root = match &config.cgroup_root {
        Some(root) => root.clone(),
        None => cgroup::root().context("failed to find the cgroup v2 hierarchy")?,
    };
    Ok(enroll::Settings {
        node_name: config.node_name.as_str().into(),
        trust_domain: config.trust_domain.as_str().into(),
        cgroup_root,
        proc: config.proc.clone(),
        cni_socket: config.cni_socket.clone(),
    })
}

/// Opens the agent's own ports.
async fn listen(
    state: &Arc<State>,
    metrics: Metrics,
    readiness: Readiness,
    log: LogControl,
    control: &Shutdown,
    servers: &Shutdown,
) -> anyhow::Result<()> {
    let of_dump = state.clone();
    let runtime = tokio::runtime::Handle::current();
    let page = Admin::new(move || of_dump.dump(&runtime), log, control.token.clone());
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
        if let Err(unfinished) = self.control.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "control tasks did not end");
        }
        let mut ends = Vec::new();
        for worker in self.state.workers.iter() {
            let (done, end) = oneshot::channel();
            if worker.tell(Command::Drain { done }).await.is_ok() {
                ends.push(end);
            }
        }
        if timeout(deadline, futures::future::join_all(ends)).await.is_err() {
            warn!(after = ?deadline, "connections were open at the drain deadline; they are reset");
        }
        if let Err(unfinished) = self.servers.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "servers did not end");
        }
    }
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
