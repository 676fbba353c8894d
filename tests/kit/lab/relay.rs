//! The agent's place: relays captured connections as they are, and remembers them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use sotto::capture::{Captured, PodCapture, PodListeners, Role};
use sotto::sys::socket::{self, AppDialler};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

/// A connection that was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Which way it went.
    pub role: Role,
    /// Who opened it.
    pub client: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

/// Relays a pod's connections until dropped.
#[derive(Debug)]
pub struct Relay {
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: CancellationToken,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

impl Relay {
    pub(super) fn start(pod: Arc<PodCapture>, listeners: PodListeners) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (accepting, stop) = (CancellationToken::new(), CancellationToken::new());
        let (of_thread, until, end) = (Arc::clone(&seen), accepting.clone(), stop.clone());
        let thread = std::thread::spawn(move || work(listeners, pod, of_thread, until, end));
        Self { seen, accepting, stop, thread: Some(thread) }
    }

    /// All connections so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// How many connections there were so far.
    pub fn count(&self) -> usize {
        self.seen.lock().len()
    }

    /// Closes the listeners; connections go on.
    pub fn stop_accepting(&self) {
        self.accepting.cancel();
        // The loops have ended when the listeners' sockets are gone, which is what the next step needs.
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.cancel();
        self.stop.cancel();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("lab: a relay thread panicked");
        }
    }
}

fn work(
    listeners: PodListeners,
    pod: Arc<PodCapture>,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: CancellationToken,
    stop: CancellationToken,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let local = tokio::task::LocalSet::new();
    let on = move |captured: Captured| {
        let Captured { role, client, original_destination: destination, .. } = captured;
        seen.lock().push(Seen { role, client, destination });
        tokio::task::spawn_local(async move {
            // A failed dial ends the client's connection, which is what its test looks at.
            if let Err(error) = relay(captured).await {
                eprintln!("lab: relay: {error}");
            }
        });
    };
    local.block_on(&runtime, async move {
        listeners.run(pod, on, accepting).await.expect("the runtime can watch sockets");
        stop.cancelled().await;
    });
}

async fn relay(captured: Captured) -> std::io::Result<()> {
    let Captured { mut stream, role, pod, client, original_destination, .. } = captured;
    let mut other = match role {
        Role::Outbound => socket::dial_from(&pod.netns, original_destination, DIAL_TIMEOUT).await,
        Role::Plaintext => {
            let stand_in = pod.stand_ins.of_client(client.ip()).map_err(std::io::Error::other)?;
            let source = SocketAddr::new(stand_in, client.port());
            let dialler = AppDialler::new(pod.netns.clone());
            dialler.dial(Some(source), original_destination, DIAL_TIMEOUT).await
        }
        Role::Hbone => return stream.write_all(b"hbone\n").await,
    }?;
    tokio::io::copy_bidirectional(&mut stream, &mut other).await.map(drop)
}
