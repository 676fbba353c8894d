//! Clients in the clear that never give up, on a thread inside a network namespace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::join_all;
use kit::netns;
use tokio_util::sync::CancellationToken;

use super::recorder::{Fate, exchange, knock};

/// Between two bytes of a client.
const PAUSE: Duration = Duration::from_millis(3);

/// For each address two clients: one that stays as long as it may, one with a connection a byte.
#[derive(Debug)]
pub(crate) struct Callers {
    stop: CancellationToken,
    tally: Arc<Tally>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Tally {
    served: AtomicUsize,
    refused: AtomicUsize,
}

impl Callers {
    /// Starts to call.
    pub(crate) fn start(netns: &str, targets: &[SocketAddr]) -> Self {
        let (stop, tally) = (CancellationToken::new(), Arc::<Tally>::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (ended, counts) = (stop.clone(), tally.clone());
        let (netns, targets) = (netns.to_owned(), targets.to_vec());
        let thread = std::thread::spawn(move || {
            let clients = targets.iter().flat_map(|to| [(*to, true), (*to, false)]);
            let clients = join_all(clients.map(|(to, stays)| call(to, stays, &counts)));
            let work = ended.run_until_cancelled(clients);
            drop(netns::within(&netns, || runtime.block_on(work)).unwrap());
        });
        Self { stop, tally, thread: Some(thread) }
    }

    /// Bytes that came back so far.
    pub(crate) fn served(&self) -> usize {
        self.tally.served.load(Ordering::Relaxed)
    }

    /// Connections that ended, or never began.
    pub(crate) fn refused(&self) -> usize {
        self.tally.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.cancel();
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!panicked || std::thread::panicking(), "a client panicked");
    }
}

async fn call(to: SocketAddr, stays: bool, tally: &Tally) {
    loop {
        let (mut fate, mut stream) = knock(to).await;
        loop {
            let count = if fate == Fate::Served { &tally.served } else { &tally.refused };
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
            match &mut stream {
                Some(stream) if stays && fate == Fate::Served => fate = exchange(stream).await,
                _ => break,
            }
        }
    }
}
