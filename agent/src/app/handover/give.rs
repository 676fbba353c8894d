//! The agent that was in charge.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::join_all;
use prost::Message as _;
use sotto_proto::handover::Verdict;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use super::turns::{Offered, turns};
use super::{Answer, Offer, PATIENCE, greeted, hello, say, socket};
use crate::app::worker::{self, Command, Worker};
use crate::connection::Parcel;
use crate::sys::passing::{Passed, Passing};

/// How often the successor is looked for, until it listens.
const LOOK: Duration = Duration::from_millis(100);

/// How many went.
#[derive(Debug, Default)]
pub(super) struct Tally {
    parcels: AtomicUsize,
    connections: AtomicUsize,
    /// What they are on the way, keys included.
    bytes: AtomicUsize,
    /// How long one stood still at most, in microseconds.
    longest: AtomicU64,
    refused: AtomicUsize,
    /// Why the first of them were.
    refusal: OnceLock<String>,
}

/// Gives all open connections to the agent that has taken over, as soon as each can be, until `stop`; `asked` is cancelled
/// once all have been asked for.
pub(in crate::app) async fn give(
    run_dir: &Path,
    workers: Arc<[Worker]>,
    stop: CancellationToken,
    asked: CancellationToken,
) {
    let asked = asked.drop_guard();
    let Some(stream) = stop.run_until_cancelled(connected(&socket(run_dir))).await else { return };
    if let Err(error) = give_to(stream, &workers, (&stop, asked)).await {
        warn!("connections that are open here end here: {error:#}");
    }
}

async fn give_to(
    stream: UnixStream,
    workers: &[Worker],
    (stop, asked): (&CancellationToken, DropGuard),
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let passing = stream.into_std().and_then(|stream| Passing::new(stream, PATIENCE));
    let passing = passing.context("failed to talk to the agent that took over")?;
    let (turns, offered) = turns();
    let tally = Arc::new(Tally::default());
    let of_thread = Arc::clone(&tally);
    // It ends with the last thread that offers something, or with the other agent.
    let passing = worker::beside(workers, move || pass(passing, offered, &of_thread));
    let leaving = async {
        let leave = |done| Command::Leave { turns: turns.clone(), until: stop.clone(), done };
        join_all(worker::tell_all(workers, leave).await).await;
        drop((turns, asked));
        info!(
            connections = tally.connections.load(Relaxed),
            parcels = tally.parcels.load(Relaxed),
            bytes = tally.bytes.load(Relaxed),
            longest = ?Duration::from_micros(tally.longest.load(Relaxed)),
            refused = tally.refused.load(Relaxed),
            refusal = tally.refusal.get(),
            took = ?begun.elapsed(),
            "gave the agent that took over the connections that could leave"
        );
    };
    let (passed, ()) = tokio::join!(passing, leaving);
    passed.context("passing connections broke off")?
}

/// The successor listens when it has captured the pods.
async fn connected(socket: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return stream,
            Err(error) => debug!(%error, "the agent that took over takes no connections yet"),
        }
        sleep(LOOK).await;
    }
}

/// Passes what is offered, until nobody offers anything any more; what is offered after an error goes back.
pub(super) fn pass(to: Passing, mut offered: Offered, tally: &Tally) -> anyhow::Result<()> {
    let passed = pass_all(to, &mut offered, tally);
    offered.close();
    while let Some(Offer { parcel, answer, .. }) = offered.wait() {
        give_back(answer, Answer::Refused(Box::new(parcel)));
    }
    passed
}

fn pass_all(mut to: Passing, offered: &mut Offered, tally: &Tally) -> anyhow::Result<()> {
    say(&mut to, &hello(String::new())).context("failed to greet the agent that took over")?;
    let said = to.answer().context("the agent that took over says nothing")?;
    let hello = greeted(Some(said)).context("failed to talk to the agent that took over")?;
    ensure!(hello.refusal.is_empty(), "the agent that took over takes nothing: {}", hello.refusal);
    offered.begin();
    while let Some(Offer { parcel, since, answer }) = offered.wait() {
        let connections = parcel.connections();
        match offer(&mut to, &parcel, tally) {
            Ok(refusal) if refusal.is_empty() => {
                tally.parcels.fetch_add(1, Relaxed);
                tally.connections.fetch_add(connections, Relaxed);
                let still = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                tally.longest.fetch_max(still, Relaxed);
                give_back(answer, Answer::Taken);
            }
            Ok(refusal) => {
                debug!(refusal, connections, "connections stay here: they were not taken");
                tally.refused.fetch_add(connections, Relaxed);
                tally.refusal.get_or_init(|| refusal);
                give_back(answer, Answer::Refused(Box::new(parcel)));
            }
            Err(error) => {
                give_back(answer, Answer::Lost);
                return Err(error.context("connections were lost on their way"));
            }
        }
    }
    Ok(())
}

fn give_back(to: oneshot::Sender<Answer>, answer: Answer) {
    if to.send(answer).is_err() {
        debug!("who offered connections has been told to end");
    }
}

/// Why it was not taken; empty if it was.
fn offer(to: &mut Passing, parcel: &Parcel, tally: &Tally) -> anyhow::Result<String> {
    let sockets: Vec<_> = parcel.sockets.iter().map(|socket| socket.as_fd()).collect();
    let message = parcel.message.encode_to_vec();
    let secret = parcel.session.as_ref().map_or(&[][..], |session| session.as_bytes());
    tally.bytes.fetch_add(message.len() + secret.len(), Relaxed);
    match to.send(&message, secret, &sockets) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            return Ok(error.to_string());
        }
        sent => sent?,
    }
    let Passed { message, .. } = to.answer()?;
    Ok(Verdict::decode(&*message)?.refusal)
}
