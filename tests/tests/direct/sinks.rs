//! Thousands of streams whose applications never read, in a pod that has set the kernel's own buffers small: what the
//! pod holds is bounded by its share of the process's budget, and another pod's requests go on as before.

use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use sotto::tunnel::accept::Incoming;
use sotto::tunnel::{Account, Budget, Limits, Progress, Share, relay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::ends::{Dialler, Gateway, Pairs, Pod, permit, until};
use crate::pki::Pki;
use crate::{HEAP, local};

const TUNNELS: usize = 20;
/// In each tunnel.
const STREAMS: usize = 200;
/// Of all pods together; one alone gets a quarter of it.
const BUDGET: usize = 256 << 20;
/// Sockets, tasks and records of thousands of streams, at both ends.
const REST: usize = 64 << 20;

/// Writes until the connection breaks, or `stop`.
async fn pour(mut app: TcpStream, stop: CancellationToken) {
    let writing = async { while app.write_all(&[7; 16 << 10]).await.is_ok() {} };
    stop.run_until_cancelled(writing).await;
    app.set_zero_linger().unwrap();
}

async fn echo(mut app: TcpStream) {
    let mut byte = [0];
    while app.read_exact(&mut byte).await.is_ok() {
        app.write_all(&byte).await.unwrap();
    }
}

/// In kB: proc_pid_status(5).
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The 99th percentile of requests of one byte, without what other programs took of the core.
async fn p99(app: &mut TcpStream) -> Duration {
    let (clock, mut all) = (Clock::new(), Vec::new());
    for _ in 0..1000 {
        let begun = clock.now();
        app.write_all(b"?").await.unwrap();
        app.read_exact(&mut [0]).await.unwrap();
        all.push(clock.now().saturating_sub(begun));
    }
    all.sort_unstable();
    all[all.len() * 99 / 100]
}

/// A pod of the node, each stream to it with an application that does as `app`.
async fn pod<F: Future<Output = ()> + 'static>(
    (pki, budget): (&Pki, &std::sync::Arc<Budget>),
    limits: Limits,
    app: impl Fn(TcpStream) -> F + Clone + 'static,
) -> (Gateway, Rc<Account>) {
    let pairs = Pairs::narrow().await;
    let account = Account::new(Share::new(budget));
    let of = Pod { pki: pki.clone(), account: Rc::clone(&account) };
    let handle = move |incoming: Incoming| {
        let (app, pairs) = (app.clone(), Rc::clone(&pairs));
        spawn_local(async move {
            let (near, far) = pairs.make().await;
            let Ok(stream) = incoming.accept(&permit(), HeaderMap::new()) else { return };
            spawn_local(relay(far, stream, &Rc::new(Progress::default())));
            app(near).await;
        });
    };
    (Gateway::start_of(&of, limits, handle).await, account)
}

/// Opens all streams that the pod takes, with an application that pours behind each.
async fn fill(diallers: &[Dialler], stop: &CancellationToken) -> Vec<JoinHandle<()>> {
    let pairs = Pairs::narrow().await;
    let mut pouring = Vec::new();
    for dialler in diallers {
        for _ in 0..STREAMS {
            let Ok(stream) = dialler.connect("10.0.0.1:2").await else { continue };
            let (near, far) = pairs.make().await;
            spawn_local(relay(far, stream, &Rc::new(Progress::default())));
            pouring.push(spawn_local(pour(near, stop.clone())));
        }
    }
    pouring
}

#[tokio::test]
async fn readers_that_never_read_cost_a_pod_its_share_and_others_nothing() {
    local(200, async {
        let (pki, budget, stop) = (Pki::new(), Budget::new(BUDGET), CancellationToken::new());
        let limits = Limits { max_opened_streams: STREAMS, ..Limits::default() };
        let (other, _) = pod((&pki, &budget), limits.clone(), echo).await;
        let other = Dialler::new(&pki, limits.clone(), other.address).await;
        let (mut asking, _outcome) = other.open("10.0.0.1:1").await;
        let of_sinks = stop.clone();
        let sink = move |app: TcpStream| {
            let stop = of_sinks.clone();
            async move {
                stop.cancelled().await;
                drop(app);
            }
        };
        let (sinks, account) = pod((&pki, &budget), limits.clone(), sink).await;
        let mut diallers = Vec::new();
        for _ in 0..TUNNELS {
            diallers.push(Dialler::new(&pki, limits.clone(), sinks.address).await);
        }
        let quiet = p99(&mut asking).await;
        HEAP.reset_peak_usage();
        let (before, start) = (HEAP.current_usage(), resident());
        let pouring = fill(&diallers, &stop).await;
        let mut slow = Duration::ZERO;
        for _ in 0..5 {
            slow = slow.max(p99(&mut asking).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let (peak, held) = (HEAP.peak_usage() - before, budget.held());
        println!(
            "{} streams: {} MiB at most, {} MiB counted, refused {} times, RSS from {} to {} MiB; \
             p99 {quiet:?} before, {slow:?} at worst meanwhile",
            pouring.len(),
            peak >> 20,
            held >> 20,
            budget.refused(),
            start >> 10,
            resident() >> 10
        );
        assert!(account.is_tight(), "{held} bytes wait");
        // What the other pod holds is counted with it.
        assert!(held <= BUDGET / 4 + (1 << 20), "{held} bytes");
        assert!(peak < BUDGET / 4 + REST, "{peak} bytes");
        assert!(slow < (quiet * 20).max(Duration::from_millis(20)), "{quiet:?} and {slow:?}");
        stop.cancel();
        for app in pouring {
            app.await.unwrap();
        }
        drop(diallers);
        until("nothing waits any more", || budget.held() < 1 << 20).await;
    })
    .await;
}
