//! The pocket cluster, put together: fabric, API server, nodes, and the mesh if one is wanted.

pub mod agent;
pub mod control_plane;
mod mesh;
pub mod process;
pub mod programs;
mod runtime;
mod use_it;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use tracing_subscriber::EnvFilter;

pub use agent::{Agent, SYSTEM};
pub use control_plane::ControlPlane;
pub use process::{Process, Usage};
pub use use_it::Curl;

use crate::api::{ApiConfig, ApiServer, PodRuntime};
use crate::node::{Node, NodeConfig};
use crate::objects::{self, Tasks};
use crate::run::Run;
use crate::topology::{EXTERNAL_IP, FABRIC_IP, Fabric, NodeNumber, port_of};
use crate::wire::Capture;
use crate::{cgroup, controllers, netns, tools};
use runtime::Runtime;

/// The custom resource definitions that are installed in a real cluster.
const DEFINITIONS: [&str; 3] = [
    include_str!("../../deploy/crds/authorizationpolicies.yaml"),
    include_str!("../../deploy/crds/destinationrules.yaml"),
    include_str!("../../deploy/crds/peerauthentications.yaml"),
];
/// The admission policies that are, too.
const ADMISSION: [&str; 3] = [
    include_str!("../../deploy/base/agent/admission.yaml"),
    include_str!("../../deploy/base/control-plane/admission.yaml"),
    include_str!("../../deploy/base/policies/admission.yaml"),
];
/// The mesh's namespace and accounts.
const SYSTEM_OBJECTS: &str = include_str!("manifests/system.yaml");
/// How long tasks get to end before what they made is removed under them.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a cluster is to be.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// With control plane, agents and the chained CNI plugin. Without: the plain baseline.
    pub mesh: bool,
    /// How many nodes, 1 to 9.
    pub nodes: u8,
    /// Starts the agents, which chain the CNI plugin. Without: the control plane alone, for agents of
    /// another make.
    pub agents: bool,
    /// The `sotto` of the mesh; that of the running build if none.
    pub program: Option<PathBuf>,
    /// Flags for the agents besides the usual.
    pub agent_flags: Vec<String>,
    /// Flags for the control plane besides the usual.
    pub control_plane_flags: Vec<String>,
    /// Version of the nodes' network configuration; empty for one that names none.
    pub cni_version: String,
    /// Told what is being done, one short line each time.
    pub tell: fn(&str),
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            mesh: true,
            nodes: 2,
            agents: true,
            program: None,
            agent_flags: Vec::new(),
            control_plane_flags: Vec::new(),
            cni_version: String::from("1.0.0"),
            tell: |_| {},
        }
    }
}

impl ClusterOptions {
    /// Without a mesh.
    pub fn plain() -> Self {
        Self { mesh: false, ..Self::default() }
    }

    /// The program of the mesh, if one is wanted.
    fn sotto(&self) -> Result<Option<PathBuf>> {
        match &self.program {
            _ if !self.mesh => Ok(None),
            Some(program) => Ok(Some(program.clone())),
            None => programs::find("sotto").map(Some),
        }
    }
}

/// A running cluster; all of it ends and is removed when dropped, or at SIGINT and SIGTERM.
pub struct Cluster {
    /// A client with all rights.
    pub client: Client,
    /// The wire between the nodes.
    pub fabric: Fabric,
    /// The nodes, in order.
    pub nodes: Vec<Arc<Node>>,
    /// Their agents, in order; none without a mesh.
    pub agents: Vec<Agent>,
    /// The control plane, if there is a mesh.
    pub control_plane: Option<ControlPlane>,
    /// What crosses the wire at the first node.
    pub wire: Capture,
    /// The API server.
    pub api: ApiServer,
    /// An HTTP server outside the cluster, at [`EXTERNAL_IP`] port 80.
    external: Process,
    tasks: Tasks,
    // The last field: what it removes must be out of use.
    run: Arc<Run>,
}

impl Cluster {
    /// Starts a cluster and waits until it can take pods.
    ///
    /// # Errors
    /// Not root, a tool or a program is missing, or a part does not start.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        show_warnings();
        let tell = options.tell;
        tools::ensure(&mut |line| tell(line))?;
        let kit_app = programs::find("kit-app")?;
        let sotto = options.sotto()?;
        tell("making the fabric and the API server");
        let run = Arc::new(Run::claim()?);
        cgroup::ensure_bpffs()?;
        let tasks = Tasks::default();
        end_at_signal(&run, &tasks)?;
        let numbers: Vec<NodeNumber> = (1..=options.nodes).map(NodeNumber).collect();
        let fabric = Fabric::create(&run, &numbers)?;
        let runtime = Arc::<Runtime>::default();
        let api = start_api(&run, &fabric, &runtime)?;
        let client = objects::client(&run.dir().join("kubeconfig")).await?;
        for definition in DEFINITIONS.into_iter().chain(ADMISSION) {
            objects::apply(&client, definition).await.context("the definitions")?;
        }
        objects::apply(&client, SYSTEM_OBJECTS).await.context("the mesh's namespace")?;
        controllers::start(&client, &tasks);
        tell("making the nodes");
        let mut nodes = Vec::new();
        for number in &numbers {
            let config = node_config(&run, *number, &numbers, (&kit_app, &options.cni_version));
            nodes.push(Node::start(config, &fabric, &client, &tasks).await?);
            runtime.0.lock().clone_from(&nodes);
        }
        let wire = Capture::start(&fabric.netns, &port_of(NodeNumber(1)))?;
        let external = start_external(&run, &fabric, &kit_app)?;
        let (agents, control_plane) = (Vec::new(), None);
        let mut cluster =
            Self { client, fabric, nodes, agents, control_plane, wire, api, external, tasks, run };
        if let Some(sotto) = sotto {
            cluster.start_mesh(&sotto, &options).await?;
        }
        Ok(cluster)
    }

    /// The id of this run.
    pub fn id(&self) -> &str {
        self.run.id()
    }

    /// The directory of this run's files.
    pub fn dir(&self) -> PathBuf {
        self.run.dir()
    }

    /// Where the agent of a node has its pins.
    pub fn pins(&self, node: &Node) -> PathBuf {
        self.run.pins().join(node.name()).join("v1")
    }

    /// A kubeconfig with all rights, for programs on this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.dir().join("kubeconfig")
    }

    /// The address of an HTTP server that no mesh knows.
    pub fn external_url(&self) -> String {
        format!("http://{EXTERNAL_IP}/get")
    }

    /// The process of that server.
    pub fn external(&self) -> &Process {
        &self.external
    }

    /// Ends the cluster and returns what could not be removed.
    pub async fn stop(self) -> Vec<anyhow::Error> {
        self.tasks.stop.cancel();
        self.tasks.tracker.close();
        let mut errors = Vec::new();
        if tokio::time::timeout(FAREWELL, self.tasks.tracker.wait()).await.is_err() {
            errors.push(anyhow::anyhow!("tasks did not end within {FAREWELL:?}"));
        }
        errors.extend(self.run.remove());
        errors
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("{}", self.post_mortem());
        }
        self.tasks.stop.cancel();
        self.tasks.tracker.close();
        let until = std::time::Instant::now() + FAREWELL;
        // The other threads of the runtime end them. With one thread alone they stay as they are,
        // and only what runs on threads of its own is waited for.
        while !self.tasks.tracker.is_empty() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Shows what the kit warns of, unless the program has its own way (RUST_LOG chooses more).
fn show_warnings() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let shown = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let first = shown.try_init().is_ok();
    tracing::trace!(first, "log");
}

fn node_config(
    run: &Run,
    number: NodeNumber,
    all: &[NodeNumber],
    (kit_app, cni_version): (&PathBuf, &str),
) -> NodeConfig {
    let name = number.name();
    NodeConfig {
        number,
        all: all.to_vec(),
        netns: run.netns(&name),
        pod_netns_prefix: run.netns("pod-"),
        dir: run.dir().join(&name),
        cgroup: run.cgroup().join(&name),
        kit_app: kit_app.clone(),
        cni_version: cni_version.to_owned(),
    }
}

fn start_api(run: &Run, fabric: &Fabric, runtime: &Arc<Runtime>) -> Result<ApiServer> {
    let here = TcpListener::bind(("127.0.0.1", 0)).context("listen on the loopback")?;
    let there = netns::within(&fabric.netns, || TcpListener::bind((FABRIC_IP, 6443)))?;
    let there = there.context("listen in the fabric")?;
    let pods = Arc::clone(runtime) as Arc<dyn PodRuntime>;
    let config = ApiConfig { pods: Some(pods), ..ApiConfig::new(vec![here, there]) };
    let api = ApiServer::start(config)?;
    let config = api.kubeconfig(&api.url(), api.admin_token());
    std::fs::write(run.dir().join("kubeconfig"), config).context("write the kubeconfig")?;
    Ok(api)
}

fn start_external(run: &Run, fabric: &Fabric, kit_app: &std::path::Path) -> Result<Process> {
    let group = run.cgroup().join("external");
    cgroup::create(&group)?;
    let argv = vec![kit_app.display().to_string(), String::from("httpbin")];
    let log = run.dir().join("external.log");
    let mut process = Process::new(argv, group, &fabric.external, log);
    process.start()?;
    Ok(process)
}

/// Ends and removes all at SIGINT and SIGTERM, then ends this process as they would have: the last
/// of its clusters does.
fn end_at_signal(run: &Arc<Run>, tasks: &Tasks) -> Result<()> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::signal::unix::{SignalKind, signal};
    static CLUSTERS: AtomicUsize = AtomicUsize::new(0);
    CLUSTERS.fetch_add(1, Ordering::SeqCst);
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (run, tasks) = (Arc::clone(run), tasks.clone());
    tokio::spawn(async move {
        let code = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        tasks.stop.cancel();
        tasks.tracker.close();
        if tokio::time::timeout(FAREWELL, tasks.tracker.wait()).await.is_err() {
            tracing::warn!("tasks did not end within {FAREWELL:?}");
        }
        for error in run.remove() {
            tracing::error!("clean up: {error:#}");
        }
        if CLUSTERS.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::exit(code);
        }
    });
    Ok(())
}
