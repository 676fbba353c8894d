//! A thousand streams whose applications stop reading.
//!
//! What they hold is bounded by their windows, on whichever end the reader is, and other streams of
//! the same tunnels go on as before.

use std::time::Duration;

use sotto::tunnel::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::ends::{Dialler, Gateway, Outcome, Pairs, until};
use crate::pki::Pki;
use crate::{HEAP, local};

const TUNNELS: usize = 10;
/// Streams that stall in each.
const STALLED: usize = 100;
/// What a stream may hold of the peer's bytes from its start.
const WINDOW: usize = 256 << 10;
/// What the streams of a tunnel that kept up before they stalled may hold together beyond that.
const GROWTH: usize = 16 << 20;
/// All else: sockets, tasks, the thread's buffers, and what queues reserve.
const REST: usize = 48 << 20;
const BOUND: usize = TUNNELS * (STALLED * WINDOW + GROWTH) + REST;
const SLACK: usize = 1 << 20;
const ROUNDS: usize = 3;
/// Requests on each tunnel in one measure.
const REQUESTS: usize = 200;

/// What the far application does, by the port it is reached at.
const ECHO: &str = "10.0.0.1:1";
const PARK: &str = "10.0.0.1:2";
const POUR: &str = "10.0.0.1:3";

/// Writes until the connection breaks, or `stop`.
async fn pour(mut app: TcpStream, stop: CancellationToken) {
    let writing = async { while app.write_all(&[7; 16 << 10]).await.is_ok() {} };
    stop.run_until_cancelled(writing).await;
    // So that nothing waits for the reader.
    app.set_zero_linger().unwrap();
}

/// Reads nothing until `stop`.
async fn park(app: TcpStream, stop: CancellationToken) {
    stop.cancelled().await;
    app.set_zero_linger().unwrap();
}

struct Mesh {
    gateway: Gateway,
    diallers: Vec<Dialler>,
    /// A stream in each tunnel that is used.
    others: Vec<(TcpStream, Outcome)>,
}

impl Mesh {
    /// The kernel holds little for the end that stops reading, `far` or near.
    async fn start(stop: impl Fn() -> CancellationToken + Clone + 'static, far: bool) -> Self {
        let pki = Pki::new();
        let app = move |authority: String, mut app: TcpStream| {
            let stop = stop();
            async move {
                match authority.as_str() {
                    PARK => park(app, stop).await,
                    POUR => pour(app, stop).await,
                    _ => {
                        let mut byte = [0];
                        while app.read_exact(&mut byte).await.is_ok() {
                            app.write_all(&byte).await.unwrap();
                        }
                    }
                }
            }
        };
        let limits = Limits { max_opened_streams: STALLED + 1, ..Limits::default() };
        let (reads, writes) = (Pairs::narrow().await, Pairs::buffered(Some(64 << 10)).await);
        let (pairs, others) = if far { (writes, reads) } else { (reads, writes) };
        let gateway = Gateway::start_over(others, &pki, limits.clone(), app).await;
        let dialler = || {
            let pairs = std::rc::Rc::clone(&pairs);
            Dialler::new_over(pairs, &pki, limits.clone(), gateway.address)
        };
        let diallers: Vec<Dialler> = std::iter::repeat_with(dialler).take(TUNNELS).collect();
        let mut others = Vec::new();
        for dialler in &diallers {
            others.push(dialler.open(ECHO).await);
        }
        Self { gateway, diallers, others }
    }

    /// The 99th percentile of requests of one byte on streams that go on, without what other programs
    /// took of the core.
    async fn p99(&mut self) -> Duration {
        let (clock, mut all) = (Clock::new(), Vec::new());
        for _ in 0..REQUESTS {
            for (app, _) in &mut self.others {
                let begun = clock.now();
                app.write_all(b"?").await.unwrap();
                app.read_exact(&mut [0]).await.unwrap();
                all.push(clock.now().saturating_sub(begun));
            }
        }
        all.sort_unstable();
        all[all.len() * 99 / 100]
    }

    /// Opens the streams that stall, and waits until no more of them moves.
    async fn stall(
        &self,
        authority: &str,
        stop: &CancellationToken,
    ) -> Vec<(JoinHandle<()>, Outcome)> {
        let mut stalled = Vec::new();
        for dialler in &self.diallers {
            for _ in 0..STALLED {
                let (app, outcome) = dialler.open(authority).await;
                let app = match authority {
                    PARK => spawn_local(pour(app, stop.clone())),
                    _ => spawn_local(park(app, stop.clone())),
                };
                stalled.push((app, outcome));
            }
        }
        let mut before = 0;
        while HEAP.current_usage() > before + (64 << 10) {
            before = HEAP.current_usage();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        stalled
    }
}

/// Stalls all streams to `authority`, several times.
async fn stalls(authority: &'static str) {
    let stop = std::rc::Rc::new(std::cell::RefCell::new(CancellationToken::new()));
    let present = std::rc::Rc::clone(&stop);
    let mut mesh = Mesh::start(move || present.borrow().clone(), authority == PARK).await;
    mesh.p99().await;
    let mut quiet = mesh.p99().await;
    let mut ratios = Vec::new();
    let mut base = usize::MAX - SLACK;
    // The first is for what the thread keeps for the next time.
    for round in 0..=ROUNDS {
        HEAP.reset_peak_usage();
        let start = HEAP.current_usage();
        if round == 1 {
            base = start;
        }
        let token = stop.borrow().clone();
        let stalled = mesh.stall(authority, &token).await;
        let held = HEAP.current_usage() - start;
        let slow = mesh.p99().await;
        stop.replace(CancellationToken::new());
        token.cancel();
        for (app, outcome) in stalled {
            app.await.unwrap();
            outcome.await.unwrap().unwrap_err();
        }
        until("no stream is left", || HEAP.current_usage() < start + REST).await;
        until("the heap is as before", || HEAP.current_usage() < base + SLACK).await;
        let peak = HEAP.peak_usage() - start;
        // The machine may have changed meanwhile: half of each.
        let before = std::mem::replace(&mut quiet, mesh.p99().await);
        let ratio = slow.as_secs_f64() / ((before + quiet) / 2).as_secs_f64();
        println!(
            "{round}: {} MiB held, {} at most; p99 {before:?} and {quiet:?} quiet, {slow:?} stalled: \
             {ratio:.2}",
            held >> 20,
            peak >> 20
        );
        assert!(held > TUNNELS * STALLED * WINDOW / 4 * 3, "{held} bytes: they did not stall");
        assert!(peak < BOUND, "{peak} bytes are more than {BOUND}");
        if round > 0 {
            ratios.push(ratio);
        }
    }
    assert_eq!(mesh.gateway.accepted.get(), TUNNELS);
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[ROUNDS / 2] < 2.0, "p99 of others by {ratios:?}");
}

#[tokio::test]
async fn a_thousand_far_readers_that_stop_cost_bounded_memory_and_others_no_time() {
    local(200, stalls(PARK)).await;
}

#[tokio::test]
async fn a_thousand_near_readers_that_stop_cost_bounded_memory_and_others_no_time() {
    local(200, stalls(POUR)).await;
}
