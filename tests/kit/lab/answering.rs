//! A data thread of the agent for one pod: what it asks of resolvers, and its connections, are served as they are on a node.
//! There is nobody to certify it: no tunnel is made.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sotto::capture::{Captured, PodCapture, PodListeners};
use sotto::connection::{self, Context, Hosts, Means, OfPod, Shared, Timings};
use sotto::identify::certs::{CertificateSource, Certificates};
use sotto::identify::clock::SystemClock;
use sotto::identify::revocation::Revocations;
use sotto::identify::{CaError, Issued};
use sotto::mesh::{MeshReader, SpiffeId};
use sotto::observe::metrics::Metrics;
use sotto::tunnel::{Budget, Limits};
use tokio_util::sync::CancellationToken;

/// Serves a pod until dropped.
#[derive(Debug)]
pub struct Answering {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct NoCa;

impl CertificateSource for NoCa {
    fn issue(&self, _: &SpiffeId) -> impl Future<Output = Result<Issued, CaError>> + Send {
        std::future::pending()
    }
}

impl Answering {
    pub(super) fn start(pod: Arc<PodCapture>, listeners: PodListeners, mesh: MeshReader) -> Self {
        let stop = CancellationToken::new();
        let until = stop.clone();
        let thread = std::thread::spawn(move || work(pod, listeners, mesh, until));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("lab: a data thread panicked");
        }
    }
}

fn work(
    pod: Arc<PodCapture>,
    mut listeners: PodListeners,
    mesh: MeshReader,
    stop: CancellationToken,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let clock = Arc::new(SystemClock);
    let (certificates, _nobody_renews) =
        Certificates::new(NoCa, clock, Revocations::default(), Duration::ZERO);
    let context = Rc::new(Context::new(Arc::new(Shared {
        mesh,
        certificates,
        metrics: Metrics::new(),
        limits: Limits::default(),
        timings: Timings::default(),
        hosts: Hosts::default(),
        cluster_domain: String::from("cluster.local"),
    })));
    let quota = Means::new(16_384, Budget::new(1 << 28)).quota();
    let of_pod = Rc::new(OfPod::new(pod.netns.clone(), quota));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let questions = listeners.take_questions().expect("the pod's questions are taken");
        let asked = (pod.clone(), questions);
        let answering =
            connection::answer_names(context.clone(), of_pod.clone(), asked, stop.clone());
        let of_connections = stop.clone();
        let on = move |captured: Captured| {
            let stop = of_connections.clone();
            let handled = connection::handle(context.clone(), captured, of_pod.clone(), stop);
            tokio::task::spawn_local(handled);
        };
        let (answered, accepted) = tokio::join!(answering, listeners.run(pod, on, stop.clone()));
        answered.and(accepted).expect("the runtime can watch sockets");
    });
}
