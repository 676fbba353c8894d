//! The agent's place: relays captured connections as they are, and remembers them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use sotto::capture::{Captured, PodCapture, PodListeners, Role, ThreadListeners};
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
    threads: Vec<JoinHandle<()>>,
}

const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

impl Relay {
    pub(super) fn start(
        pod: Arc<PodCapture>,
        listeners: &mut PodListeners,
        threads: usize,
    ) -> Result<Self> {
        let mut relay = Self {
            seen: Arc::default(),
            accepting: CancellationToken::new(),
            stop: CancellationToken::new(),
            threads: Vec::new(),
        };
        for index in 0..threads {
            let share = listeners.take_thread(index).context("no listeners for the thread")?;
            let (pod, seen) = (Arc::clone(&pod), Arc::clone(&relay.seen));
            let (accepting, stop) = (relay.accepting.clone(), relay.stop.clone());
            let thread = std::thread::spawn(move || work(share, pod, seen, accepting, stop));
            relay.threads.push(thread);
        }
        Ok(relay)
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
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("lab: a relay thread panicked");
            }
        }
    }
}

fn work(
    share: ThreadListeners,
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
        share.run(pod, on, accepting).await.expect("the runtime can watch sockets");
        stop.cancelled().await;
    });
}

async fn relay(captured: Captured) -> std::io::Result<()> {
    let Captured { mut stream, role, pod, client, original_destination } = captured;
    let mut other = match role {
        Role::Outbound => socket::dial_from(&pod.netns, original_destination, DIAL_TIMEOUT).await,
        Role::Plaintext => {
            let source = Some(client.ip());
            let dialler = AppDialler::new(pod.netns.clone());
            dialler.dial(source, original_destination, DIAL_TIMEOUT).await
        }
        Role::Hbone => return stream.write_all(b"hbone\n").await,
    }
    .inspect_err(|_| {
        // As an application's own refusal would look.
        socket::reset_on_close(&stream).ok();
    })?;
    tokio::io::copy_bidirectional(&mut stream, &mut other).await.map(drop)
}
