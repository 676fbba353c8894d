//! The node agent: builds the parts in order, wires them, waits for the end, drains.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | discovery | the mesh's store | at shutdown |
//! | certificates | keys, renewal | at shutdown |
//! | identities | of which trust domain they are | at shutdown |
//! | revocations | which certificates were taken back | at shutdown |
//! | settings | which of them have changed | at shutdown |
//! | roots | whether the mesh's roots are others now | at shutdown |
//! | those of [`super::duty`] | the node's kernel and files, as long as it is in charge | at shutdown, first |
//! | admin, metrics, readiness | their listeners | last |
//! | data threads | pods' connections | after the drain |

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use futures::FutureExt as _;
use futures::future::{BoxFuture, OptionFuture};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::charge::Charge;
use super::duty::{CONTROL_DRAIN, Duty, Office, install};
use super::ending::{End, drained, last_call};
use super::farewell::Farewell;
use super::footprint::Footprint;
use super::identities::Identities;
use super::pods::{Pods, SharedKernel};
use super::process::{self, Log, Logging};
use super::state::State;
use super::successor::may_serve;
use super::worker::Worker;
use super::{handover, kubelet, live, means, quiet, settings};
use crate::config::{AgentConfig, ztunnel};
use crate::connection::{Hosts, Shared, Timings};
use crate::enroll;
use crate::identify;
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
use crate::sys::{Shutdown, cgroup, descriptors, heap, host, privileges, shutdown, socket, sysctl};
use crate::xds::{self, StatusReader, StatusWriter};

/// What a remark of readiness is about.
const CHARGE: &str = "charge";

/// How long a successor may take to ask for connections, before they are drained.
const GIVING: Duration = Duration::from_secs(5);

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
    host::ensure_lasting_pins(&config.pin_dir, &config.proc)
        .context("failed to find a place for what must outlive the agent")?;
    sysctl::use_proc(&config.proc);
    descriptors::raise_limit().context("failed to raise the limit of open files")?;
    privileges::drop_all_but(privileges::AGENT).context("failed to drop capabilities")?;
    Ok(cgroup)
}

/// Everything that runs.
struct Agent {
    state: Arc<State>,
    /// What it needs to be in charge.
    office: Office,
    charge: Charge,
    farewell: Arc<Farewell>,
    /// Ends first: no pod is captured or released any more.
    duty: Duty,
    /// The admin page asks for the end.
    quit: CancellationToken,
    /// Goes on during the drain, so that open connections are still judged.
    control: Shutdown,
    /// Ends after the drain.
    servers: Shutdown,
    /// Cancelled once all connections have been offered to the agent that took over, if one did.
    gave: Option<CancellationToken>,
    /// When it was told to end.
    told: Option<Instant>,
}

async fn serve(config: AgentConfig, cgroup: cgroup::Cgroup, log: Log) -> anyhow::Result<()> {
    let mut asked = pin!(shutdown::requested());
    let mut agent = tokio::select! {
        started = start(config, cgroup, log) => started?,
        asked = &mut asked => return asked.map_err(Into::into),
    };
    info!("running");
    let ended = agent.run(asked).await;
    info!("draining");
    agent.drain(matches!(ended, Ok(End::Leaves))).await;
    ended.map(drop)
}

/// Builds the parts; an error here is a node that cannot serve. Where another agent is in charge, it goes on being so
/// until this one knows what it needs to serve.
async fn start(config: AgentConfig, cgroup: cgroup::Cgroup, log: Log) -> anyhow::Result<Agent> {
    let arguments = ztunnel::translate(std::env::args_os().collect(), &ztunnel::variables());
    arguments.without_effect.iter().for_each(|sentence| warn!("{sentence}"));
    let (control, servers) = (Shutdown::new(), Shutdown::new());
    let readiness = Readiness::new();
    // On another thread, while this one has the most to do.
    let footprint = control.spawn(async { Footprint::new() });
    let client = super::kubernetes(config.kubeconfig.as_deref()).await?;

    let (mesh, discovery) = discover(&config, &control)?;
    let certificates = certify(&config, &mesh, &control)?;
    let identities = Identities::new(certificates.clone(), mesh.clone());
    control.spawn(identities.clone().follow(control.token.clone()));
    let starting = readiness.pending("the agent's own start");
    listen_for_probes(&config, &readiness, &servers)?;
    let knows = (discovery.clone(), &mesh, &certificates);
    let charge =
        Charge::take(settings::run_dir(&config), may_serve(&config, knows, &readiness)).await?;
    let (kernel, adopted) = install(&config, &cgroup)?;
    let kernel = Arc::new(Mutex::new(kernel));
    let footprint = footprint.await.unwrap_or_default();
    footprint.give_back();

    let means = means::means(&config, &cgroup)?;
    let metrics = Metrics::new();
    let workers = work(&config, &mesh, &certificates, &metrics)?;
    let (follower, live) = live::Follower::new(&config, log.control.clone(), readiness.clone());
    control.spawn(follower.run(control.token.clone()));
    let before = adopted.iter().map(|pod| pod.uid.clone());
    let pods = Pods::new(
        kernel.clone(),
        workers.clone(),
        identities,
        servers.clone(),
        before,
        (means.clone(), config.dns_capture),
    );
    let (status, enrolled) = watch::channel(enroll::Status::default());
    let probes = kubelet::Probes::default();
    let farewell = Arc::new(Farewell::new(&config, client.clone(), kernel.clone(), &control));
    let state = Arc::new(State {
        config,
        live,
        mesh,
        certificates,
        discovery,
        enrolled,
        kernel,
        workers,
        pods,
        probes,
        means,
        readiness: readiness.clone(),
        starting: Mutex::new(Some(starting)),
    });
    let office = Office { client, cgroup, status, readiness, footprint };
    let duty = Duty::begin(&state, &office, adopted)?;
    state.clone().report(&metrics, log.lost_lines);
    let footprint = office.footprint.clone();
    control.spawn(quiet::give_back(footprint, metrics.clone(), control.token.clone()));
    let quit = CancellationToken::new();
    listen(&state, metrics, log.control, quit.clone(), &servers)?;
    let (gave, told) = (None, None);
    Ok(Agent { state, office, charge, farewell, duty, quit, control, servers, gave, told })
}

/// Starts the data threads.
fn work(
    config: &AgentConfig,
    mesh: &MeshReader,
    certificates: &Certificates,
    metrics: &Metrics,
) -> anyhow::Result<Arc<[Worker]>> {
    let shared = Arc::new(Shared {
        mesh: mesh.clone(),
        certificates: certificates.clone(),
        metrics: metrics.clone(),
        limits: settings::limits(config),
        timings: Timings::default(),
        hosts: hosts(),
        cluster_domain: config.cluster_domain.clone(),
    });
    Worker::start(config.threads.get(), &shared).context("failed to start the data threads")
}

/// What resolves workloads' hostnames. Without it all else works.
fn hosts() -> Hosts {
    Hosts::of_system().unwrap_or_else(|error| {
        warn!(%error, "workloads that have a hostname instead of an address cannot be reached: the agent's own /etc/resolv.conf cannot be used");
        Hosts::default()
    })
}

/// Starts learning of the mesh.
fn discover(
    config: &AgentConfig,
    control: &Shutdown,
) -> anyhow::Result<(MeshReader, StatusReader)> {
    let (store, mesh) = Store::on(settings::given(config));
    let (discovered, discovery) = StatusWriter::new();
    let stop = control.token.clone();
    control.spawn(xds::run(settings::discovery(config)?, store, stop, discovered));
    Ok((mesh, discovery))
}

/// Starts keeping certificates, and what was revoked of others'.
fn certify(
    config: &AgentConfig,
    mesh: &MeshReader,
    control: &Shutdown,
) -> anyhow::Result<Certificates> {
    let ca = CaClient::new(settings::certificates(config)?, mesh.clone());
    let revocations = Revocations::read(config.crl.clone())
        .context("failed to read what certificates were revoked")?;
    control.spawn(revocations.clone().follow(control.token.clone()));
    let clock = Arc::new(SystemClock);
    let (certificates, renewal) = Certificates::new(ca, clock, revocations, config.renewal_spread);
    control.spawn(renewal.run(control.token.clone()));
    let (roots, of_roots) = (config.root_cert.clone(), certificates.clone());
    control.spawn(identify::roots::follow(roots, of_roots, control.token.clone()));
    Ok(certificates)
}

/// Opens the port of the readiness page: before all others, as an agent may have to wait long, and is to say for what.
fn listen_for_probes(
    config: &AgentConfig,
    readiness: &Readiness,
    servers: &Shutdown,
) -> anyhow::Result<()> {
    let listener = bind("readiness", config.ready_address)?;
    let (readiness, stop) = (readiness.clone(), servers.token.clone());
    servers.spawn(told("readiness", ready::serve(listener, readiness, stop)));
    Ok(())
}

/// Opens the agent's other ports.
fn listen(
    state: &Arc<State>,
    metrics: Metrics,
    log: LogControl,
    quit: CancellationToken,
    servers: &Shutdown,
) -> anyhow::Result<()> {
    let of_dump = state.clone();
    let runtime = tokio::runtime::Handle::current();
    let page = Admin::new(move || of_dump.dump(&runtime), log, quit);
    let page = state.clone().answer(page);
    let stop = || servers.token.clone();
    let admin = admin::serve(bind("admin", state.config.admin_address)?, page, stop());
    servers.spawn(told("admin", admin));
    let listener = bind("metrics", state.config.metrics_address)?;
    servers.spawn(told("metrics", metrics_server::serve(listener, metrics, stop())));
    Ok(())
}

fn bind(purpose: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = socket::listen_on(address);
    listener.with_context(|| format!("failed to listen on {address} for {purpose}"))
}

async fn told(purpose: &'static str, serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        error!(%error, purpose, "a listener of the agent broke");
    }
}

impl Agent {
    /// Until it is `asked` to end, or cannot go on. While another agent is in charge, this one serves what it has.
    async fn run(
        &mut self,
        mut asked: Pin<&mut impl Future<Output = std::io::Result<()>>>,
    ) -> anyhow::Result<End> {
        let mut last_call: Option<BoxFuture<'static, End>> = None;
        loop {
            tokio::select! {
                asked = &mut asked, if last_call.is_none() => {
                    asked?;
                    last_call = Some(self.last_call());
                    continue;
                }
                Some(end) = OptionFuture::from(last_call.as_mut()) => return Ok(end),
                Some(error) = self.duty.failure.recv() => return Err(error),
                () = self.quit.cancelled() => return Ok(End::Quit),
                broken = workers_break(&self.state.workers) => return Err(broken),
                () = self.charge.asked() => self.give_way().await,
                () = superseded(&self.state.kernel) => {
                    self.give_way().await;
                    self.charge.lose();
                }
            }
            // Not unready: its DaemonSet would end it before its successor has shown that it works.
            let remark = "another agent of this node has taken over".to_owned();
            self.office.readiness.remark(CHARGE, Some(remark));
            info!(
                "another agent takes over; connections that are open go on here until it has them"
            );
            let giving = self.servers.token.child_token();
            let (directory, stop) =
                (settings::run_dir(&self.state.config).to_owned(), giving.clone());
            let workers = self.state.workers.clone();
            let gave = self.gave.insert(CancellationToken::new()).clone();
            let give = async move { handover::give(&directory, workers, stop, gave).await };
            self.servers.spawn(give);
            if last_call.is_some() {
                return Ok(End::Quit);
            }
            tokio::select! {
                // The node is another agent's to leave.
                asked = &mut asked => return asked.map(|()| End::Quit).map_err(Into::into),
                () = self.quit.cancelled() => return Ok(End::Quit),
                broken = workers_break(&self.state.workers) => return Err(broken),
                () = self.charge.regained() => {}
            }
            giving.cancel();
            self.gave = None;
            warn!("the agent that took over is gone: taking back");
            let (kernel, adopted) = install(&self.state.config, &self.office.cgroup)?;
            *self.state.kernel.lock() = kernel;
            self.office.readiness.remark(CHARGE, None);
            self.duty = Duty::begin(&self.state, &self.office, adopted)?;
        }
    }

    /// Begins the end of an agent in charge.
    fn last_call(&mut self) -> BoxFuture<'static, End> {
        self.told = Some(Instant::now());
        let (state, deadline) = (self.state.clone(), self.state.live.now().drain_deadline);
        last_call(state, self.farewell.clone(), deadline).boxed()
    }

    /// Writes nothing of the node any more.
    async fn give_way(&mut self) {
        self.duty.end().await;
        self.state.pods.gave_way();
        self.charge.give_up();
    }

    /// New connections find nobody, or go past us if the mesh leaves the node; open ones may end by themselves until the
    /// deadline.
    async fn drain(self, leaves: bool) {
        self.duty.end().await;
        let deadline = self.state.live.now().drain_deadline;
        let until = self.told.unwrap_or_else(Instant::now) + deadline;
        if let Some(gave) = &self.gave
            && timeout(GIVING.min(deadline), gave.cancelled()).await.is_err()
        {
            warn!("the agent that took over has not asked for the connections that are open here");
        }
        let drained = timeout_at(until, drained(&self.state.workers));
        let lets_out = async {
            if leaves {
                self.farewell.let_out().await;
            }
        };
        let (drained, ()) = tokio::join!(drained, lets_out);
        if drained.is_err() {
            warn!(after = ?deadline, "connections were open at the drain deadline; they are reset");
        }
        if let Err(unfinished) = self.control.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "control tasks did not end");
        }
        if let Err(unfinished) = self.servers.drain(CONTROL_DRAIN).await {
            warn!(%unfinished, "servers did not end");
        }
        if leaves {
            self.farewell.leave().await;
        }
    }
}

/// Ends when an agent has come that does not ask.
async fn superseded(kernel: &SharedKernel) {
    let mut tick = interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        match kernel.lock().is_ours() {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => debug!(%error, "whose the programs are is not known"),
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
