//! Peers that mean harm: they hold a certificate of the mesh and write frames by hand, as one who
//! dials and as one who is dialled.
//!
//! Each abuse is done several times. After each the connection is closed, with the code that names
//! the fault where one can be told; the heap is as large as before, to [`SLACK`], and was never much
//! larger meanwhile; and another tunnel on the same thread went on working all the time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sotto::tunnel::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::ends::{Dialler, Gateway, until};
use crate::peer::FAR_TOO_MANY;
use crate::pki::Pki;
use crate::{HEAP, frames, peer};

mod dialling;
mod mute;
mod serving;
mod stalling;
mod tls;

/// Bytes by which the heap may differ when all is over.
const SLACK: usize = 16 << 10;
/// What an abuse may make the heap grow by meanwhile, in bytes; the peer's own buffers are in it, as
/// are the thread's for receiving and sealing.
const MOST: usize = 4 << 20;
/// The longest that a request of an innocent may take, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each abuse is done after it was done once.
const TIMES: usize = 3;
/// How often the heap may be found larger than before: a buffer that the thread keeps is grown by
/// what happens to come at once, and not again; what leaks, leaks each time.
const ATTEMPTS: usize = 3;

/// A tunnel of ours and its far end, in use all the time.
struct Bystander {
    requests: Rc<Cell<usize>>,
    slowest: Rc<Cell<Duration>>,
    _dialler: Dialler,
}

/// Sends back what it gets.
async fn echo(mut app: TcpStream) {
    let mut buffer = vec![0; 4 << 10];
    while let Ok(read @ 1..) = app.read(&mut buffer).await {
        if app.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

impl Bystander {
    async fn start(pki: &Pki, gateway: &Gateway) -> Self {
        let dialler = Dialler::new(pki, Limits::default(), gateway.address).await;
        let (mut app, _) = dialler.open("10.0.0.1:1").await;
        let (requests, slowest) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(Duration::ZERO)));
        let (count, worst) = (Rc::clone(&requests), Rc::clone(&slowest));
        spawn_local(async move {
            let mut answer = [0; 100];
            loop {
                let begun = Instant::now();
                app.write_all(&[7; 100]).await.unwrap();
                app.read_exact(&mut answer).await.unwrap();
                worst.set(worst.get().max(begun.elapsed()));
                count.set(count.get() + 1);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { requests, slowest, _dialler: dialler }
    }
}

/// Bytes on the heap: before abuse, at most meanwhile, and after it.
struct Heap {
    before: usize,
    peak: usize,
    after: usize,
}

/// The thread that is abused.
struct Stand {
    pki: Pki,
    gateway: Gateway,
    bystander: Bystander,
}

impl Stand {
    async fn new(limits: Limits) -> Self {
        let pki = Pki::new();
        let gateway = Gateway::start(&pki, limits, |_, app| echo(app)).await;
        let bystander = Bystander::start(&pki, &gateway).await;
        until("the bystander works", || bystander.requests.get() > 10).await;
        Self { pki, gateway, bystander }
    }

    /// Does it once, for what the thread keeps for the next time; then some more times, and looks.
    async fn suffer(&self, what: &str, most: usize, abuse: impl AsyncFn()) {
        self.once(what, &abuse).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        for attempt in 1..=ATTEMPTS {
            let Heap { before, peak, after } = self.more(what, &abuse).await;
            let slowest = self.bystander.slowest.get();
            println!(
                "{what}: heap {before} to {after}, at most {} more; slowest {slowest:?}",
                peak.saturating_sub(before)
            );
            assert!(
                peak <= before + most,
                "{what}: the heap grew from {before} to {peak} meanwhile"
            );
            assert!(slowest < PATIENCE, "{what}: another waited for {slowest:?}");
            if after <= before + SLACK {
                return;
            }
            assert!(attempt < ATTEMPTS, "{what}: the heap grew from {before} to {after}");
        }
    }

    async fn more(&self, what: &str, abuse: &impl AsyncFn()) -> Heap {
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        self.bystander.slowest.set(Duration::ZERO);
        for _ in 0..TIMES {
            let requests = self.bystander.requests.get();
            self.once(what, abuse).await;
            let others = || self.bystander.requests.get() > requests;
            until(&format!("{what}: others go on"), others).await;
        }
        let peak = HEAP.peak_usage();
        // What was spawned for its streams may need a moment to end.
        for _ in 0..200 {
            if HEAP.current_usage() <= before + SLACK {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Heap { before, peak, after: HEAP.current_usage() }
    }

    async fn once(&self, what: &str, abuse: &impl AsyncFn()) {
        tokio::time::timeout(Duration::from_secs(20), abuse())
            .await
            .unwrap_or_else(|_| panic!("{what}: not closed"));
        until(&format!("{what}: the tunnel is gone"), || self.gateway.live.get() == 1).await;
    }
}
