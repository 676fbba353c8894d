//! A bench for the capture alone: pods on a bridge, one kernel, a plaintext relay in the agent's place.
//!
//! Everything runs in threads of the test's process: a lab's cgroups are threaded ones, so that one thread can be
//! the agent, another the kubelet, another an application, each in its own network namespace.

mod answering;
mod apps;
mod balancer;
mod cgroups;
mod network;
mod relay;
mod resolver;

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use sotto::capture::bpf::{Kernel, KernelConfig};
use sotto::capture::{PodCapture, PodListeners, StandIns};
use sotto::mesh::{LocalPod, MeshReader};
use sotto::sys::Netns;

pub use answering::Answering;
pub use apps::{
    Server, ask, ask_from, connect, fast_open_connect, fast_open_without_cookie, peer_name,
    tcp_info,
};
pub use balancer::Balancer;
pub use cgroups::Cgroups;
pub use network::{Bridge, Host};
pub use relay::{Relay, Seen};
pub use resolver::{Asked, Resolver};

/// Where a thread belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Never captured.
    Agent,
    /// Its connections into pods are not captured.
    Kubelet,
    /// Anything else.
    App,
}

/// Where a program of somebody else's is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// To a cgroup that ours is in: it runs after ours.
    Above,
    /// To the same: whichever comes first runs first.
    Same,
    /// To the pods' own cgroup: it runs before ours.
    Below,
}

/// One node's kernel side, with its own cgroups, pins and bridge.
#[derive(Debug)]
pub struct Lab {
    /// Unique; part of all names.
    pub id: String,
    /// The bridge and network namespace that stand for the node.
    pub host: Host,
    cgroups: Arc<Cgroups>,
    pin_dir: PathBuf,
    /// Of what was installed last.
    stand_ins: Mutex<StandIns>,
}

/// A network namespace with addresses on a lab's bridge.
#[derive(Debug, Clone)]
pub struct LabPod {
    /// What the agent knows of it.
    pub capture: Arc<PodCapture>,
    cgroups: Arc<Cgroups>,
    // Ends the namespace together with the last clone.
    _host: Arc<Host>,
}

impl Lab {
    /// Makes the cgroups and the bridge; the calling thread becomes the agent's.
    pub fn new(name: &str) -> Result<Self> {
        anyhow::ensure!(sotto::sys::privileges::is_root(), "this test needs root");
        let id = format!("{name}{:x}", std::process::id());
        let cgroups = Arc::new(Cgroups::create(&id)?);
        cgroups.join(Place::Agent)?;
        let host = Host::create(&format!("lab-{id}-node"))?;
        Ok(Self {
            pin_dir: PathBuf::from(format!("/sys/fs/bpf/sotto-lab-{id}")),
            id,
            host,
            cgroups,
            stand_ins: Mutex::default(),
        })
    }

    /// The configuration of the lab's kernel side.
    pub fn config(&self) -> Result<KernelConfig> {
        Ok(KernelConfig {
            pin_dir: self.pin_dir.clone(),
            cgroup_root: self.cgroups.node(),
            agent_cgroup_id: self.cgroups.id(Place::Agent)?,
            fail_open: false,
            proxy_unknown: false,
            ranges: sotto::capture::StandInRanges::default(),
        })
    }

    /// Installs the kernel side, with a change to its configuration; the kubelet is known.
    pub fn install(&self, change: impl FnOnce(&mut KernelConfig)) -> Result<Kernel> {
        let mut config = self.config()?;
        change(&mut config);
        let mut kernel = Kernel::install(config).context("failed to install")?;
        self.know_kubelet(&mut kernel)?;
        *self.stand_ins.lock() = kernel.stand_ins();
        Ok(kernel)
    }

    /// Does what the agent does when it has found the kubelet.
    pub fn know_kubelet(&self, kernel: &mut Kernel) -> Result<()> {
        let exempt = kernel.exempt_probes(Some(&self.kubelet_cgroup()));
        anyhow::ensure!(exempt.context("failed to exempt the kubelet")?, "it holds pods");
        Ok(())
    }

    /// The kubelet's cgroup.
    pub fn kubelet_cgroup(&self) -> PathBuf {
        self.cgroups.path(Place::Kubelet)
    }

    /// A pod on the node's bridge, to be made after the kernel side is installed, with the addresses 10.77.0.`number` and fd77::`number`.
    pub fn pod(&self, number: u8) -> Result<LabPod> {
        self.pod_on(&self.host.bridge, number, |_| {})
    }

    /// A pod on another bridge, with a change to what the agent knows of it.
    pub fn pod_on(
        &self,
        bridge: &Bridge,
        number: u8,
        change: impl FnOnce(&mut LocalPod),
    ) -> Result<LabPod> {
        let (host, mut pod) = bridge.attach(&self.id, number)?;
        change(&mut pod);
        let stand_ins = self.stand_ins.lock().clone();
        let (pod, netns) = (Arc::new(pod), host.netns.clone());
        let capture = Arc::new(PodCapture { pod, netns, stand_ins });
        Ok(LabPod { capture, cgroups: Arc::clone(&self.cgroups), _host: Arc::new(host) })
    }

    /// Captures a pod and relays its connections.
    pub fn enrol(&self, kernel: &mut Kernel, pod: &LabPod) -> Result<Relay> {
        let listeners = PodListeners::bind(&pod.capture)?;
        kernel.capture(&pod.capture, &listeners)?;
        Ok(Relay::start(Arc::clone(&pod.capture), listeners))
    }

    /// Captures a pod as [`Self::enrol`], with what it asks of resolvers, and serves it as the agent does.
    pub fn answer(&self, kernel: &mut Kernel, pod: &LabPod, mesh: MeshReader) -> Result<Answering> {
        let listeners = PodListeners::bind(&pod.capture)?.with_questions(&pod.capture)?;
        kernel.capture(&pod.capture, &listeners)?;
        Ok(Answering::start(Arc::clone(&pod.capture), listeners, mesh))
    }

    /// Runs `f` in the node's own network namespace, in a thread of its own.
    pub fn on_node<T: Send + 'static>(
        &self,
        place: Place,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        run(&self.cgroups, &self.host.netns, place, f)
    }

    /// Does to the kubelet's cgroup what a restart of the kubelet does.
    pub fn remake_kubelet_cgroup(&self) -> Result<()> {
        self.cgroups.remake(Place::Kubelet)
    }

    /// Has the network balance connections to a service, before they are ours or after.
    pub fn balance(
        &self,
        beside: Beside,
        service: SocketAddrV4,
        backend: SocketAddrV4,
    ) -> Result<Balancer> {
        let cgroup = match beside {
            Beside::Above => self.cgroups.above()?,
            Beside::Same => self.cgroups.node(),
            Beside::Below => self.cgroups.path(Place::App),
        };
        Balancer::attach(&cgroup, service, backend)
    }

    /// Where the lab's kernel side is pinned.
    pub fn pin_dir(&self) -> &std::path::Path {
        &self.pin_dir
    }
}

impl LabPod {
    /// The same pod, with other ports for probes.
    pub fn declaring(&self, probe_ports: &[u16]) -> Self {
        let mut pod = LocalPod::clone(&self.capture.pod);
        pod.exclusions.probe_ports = probe_ports.to_vec();
        let (pod, netns) = (Arc::new(pod), self.capture.netns.clone());
        let capture = PodCapture { pod, netns, stand_ins: self.capture.stand_ins.clone() };
        Self { capture: Arc::new(capture), ..self.clone() }
    }

    /// Another pod, which says to be in the same network namespace.
    pub fn renamed(&self, uid: &str) -> Self {
        let pod =
            LocalPod { uid: sotto::mesh::PodUid(uid.into()), ..LocalPod::clone(&self.capture.pod) };
        let (pod, netns) = (Arc::new(pod), self.capture.netns.clone());
        let capture = PodCapture { pod, netns, stand_ins: self.capture.stand_ins.clone() };
        Self { capture: Arc::new(capture), ..self.clone() }
    }

    /// Runs `f` as an application of the pod, in a thread of its own.
    pub fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        run(&self.cgroups, &self.capture.netns, Place::App, f)
    }

    /// Runs `f` as an application of the pod without any capability.
    pub fn run_unprivileged<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(|| {
            // Of its own: the thread that entered the namespace needs its capabilities to leave it.
            let thread = std::thread::spawn(|| {
                sotto::sys::privileges::drop_all_but(&[])?;
                f()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The pod's IPv4 address.
    pub fn ip4(&self) -> std::net::IpAddr {
        self.capture.pod.ip4.expect("every lab pod has one").into()
    }

    /// The pod's IPv6 address.
    pub fn ip6(&self) -> std::net::IpAddr {
        self.capture.pod.ip6.expect("every lab pod has one").into()
    }

    /// Answers questions for names in the pod, as an application of it.
    pub fn resolve(&self) -> Result<Resolver> {
        Resolver::start(&self.cgroups, &self.capture.netns)
    }

    /// Serves on a port of the pod, as an application of it.
    pub fn serve(&self, port: u16) -> Result<Server> {
        Server::start(&self.cgroups, &self.capture.netns, port)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(errors) = sotto::capture::bpf::remove_all(&self.pin_dir) {
            eprintln!("lab {}: {errors:?}", self.id);
        }
    }
}

fn run<T: Send + 'static>(
    cgroups: &Arc<Cgroups>,
    netns: &Netns,
    place: Place,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (cgroups, netns) = (Arc::clone(cgroups), netns.clone());
    let thread = std::thread::spawn(move || {
        cgroups.join(place).expect("a thread can join the lab's cgroups");
        netns.enter(f).expect("a thread can enter the lab's namespaces")
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
