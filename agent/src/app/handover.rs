//! Open connections change hands: the agent that was in charge gives them to the one that is now, one after the other.
//!
//! The successor listens once it has captured the node's pods. Both say [`Hello`] first; then each parcel is answered by a
//! [`Verdict`](sotto_proto::handover::Verdict). What is refused goes on where it was; what nobody answers for is reset, as
//! two that went on with it would be worse.

mod give;
mod take;
mod turns;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use prost::Message as _;
use sotto_proto::handover::Hello;
use tokio::sync::oneshot;

use crate::connection::Parcel;
use crate::sys::passing::{Passed, Passing};

pub(super) use give::give;
pub(super) use take::take;
pub(super) use turns::Turns;

/// Of what is said on the socket. To be raised when an agent before would go on wrongly with what it is given.
const FORMAT: u32 = 1;
/// How long the other agent may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// A parcel on its way to the other agent.
struct Offer {
    parcel: Parcel,
    /// When its connections were stopped.
    since: Instant,
    answer: oneshot::Sender<Answer>,
}

/// What became of it.
pub(super) enum Answer {
    /// The other agent goes on with it.
    Taken,
    /// It goes on here.
    Refused(Box<Parcel>),
    /// Nobody knows.
    Lost,
}

fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("handover.sock")
}

fn hello(refusal: String) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Hello { format: FORMAT, version, refusal }.encode_to_vec()
}

/// What the other agent says first, if we can talk.
fn greeted(by: Option<Passed>) -> anyhow::Result<Hello> {
    let said = by.context("it said nothing")?;
    let hello = Hello::decode(&*said.message).context("it did not say hello")?;
    let Hello { format, version, .. } = &hello;
    ensure!(
        *format == FORMAT,
        "it is of version {version}, and gives connections away in another way ({format} instead of {FORMAT})"
    );
    Ok(hello)
}

/// Passes a message without anything else.
fn say(to: &mut Passing, message: &[u8]) -> std::io::Result<()> {
    to.send(message, &[], &[])
}

#[cfg(test)]
mod tests;
