//! The agent that is in charge now.

use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use prost::Message as _;
use sotto_proto::handover::{self as proto, Verdict};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{PATIENCE, greeted, hello, say, socket};
use crate::app::pods::Pods;
use crate::app::worker::{self, Worker};
use crate::connection::Parcel;
use crate::error::chain;
use crate::sys::doorstep::Doorstep;
use crate::sys::passing::{Passed, Passing};
use crate::tunnel::tls::Frozen;

/// Takes the open connections of the agent before, once `settled`, until `stop`.
pub(in crate::app) async fn take(
    run_dir: PathBuf,
    (pods, workers): (Pods, Arc<[Worker]>),
    settled: impl Future<Output = ()>,
    stop: CancellationToken,
) {
    if stop.run_until_cancelled(settled).await.is_none() {
        return;
    }
    let place = socket(&run_dir);
    let doorstep = match Doorstep::bind(&place) {
        Ok(doorstep) => doorstep,
        Err(error) => {
            let path = place.display();
            return warn!(%path, %error, "open connections of the agent before end with it: no socket");
        }
    };
    let (listener, _file) = doorstep.into_parts();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => attend(stream, &pods, &workers, &stop).await,
            Err(error) => {
                warn!(%error, "failed to accept on the socket for connections of the agent before");
                stop.run_until_cancelled(tokio::time::sleep(PATIENCE)).await;
            }
        }
    }
}

/// Takes what one agent gives.
async fn attend(
    stream: tokio::net::UnixStream,
    pods: &Pods,
    workers: &[Worker],
    stop: &CancellationToken,
) {
    let begun = stream.into_std().and_then(|stream| Ok((stream.try_clone()?, stream)));
    let (ours, stream) = match begun {
        Ok(begun) => begun,
        Err(error) => return warn!(%error, "failed to talk to the agent before"),
    };
    let (pods, handle) = (pods.clone(), Handle::current());
    let take = move |parcel| handle.block_on(pods.take(parcel)).map_err(|error| chain(&error));
    let mut receiving = pin!(worker::beside(workers, move || receive(stream, take)));
    let received = tokio::select! {
        received = &mut receiving => received,
        () = stop.cancelled() => {
            // The thread waits for the other agent: now it hears that there is nothing more.
            drop(ours.shutdown(Shutdown::Both));
            receiving.as_mut().await
        }
    };
    match received {
        Ok(Ok(0)) => {}
        Ok(Ok(taken)) => info!(connections = taken, "the agent before has given all it had"),
        Ok(Err(error)) => warn!("an agent could not give its connections: {error:#}"),
        Err(error) => warn!(%error, "taking connections broke off"),
    }
}

/// Tells how many connections were taken.
pub(super) fn receive(
    stream: UnixStream,
    take: impl Fn(Parcel) -> Result<(), String>,
) -> anyhow::Result<usize> {
    let mut from = Passing::new(stream, PATIENCE).context("failed to talk to the agent before")?;
    let refusal = match greeted(from.wait()?) {
        Ok(_) => String::new(),
        Err(error) => format!("{error:#}"),
    };
    say(&mut from, &hello(refusal.clone()))?;
    ensure!(refusal.is_empty(), "{refusal}");
    let mut taken = 0;
    while let Some(passed) = from.wait()? {
        let parcel = parcel(passed).map_err(|error| format!("it cannot be read: {error}"));
        let verdict = parcel.and_then(|parcel| {
            let connections = parcel.connections();
            take(parcel).map(|()| connections)
        });
        let refusal = match verdict {
            Ok(connections) => {
                taken += connections;
                String::new()
            }
            Err(refusal) => {
                debug!(refusal, "connections of the agent before stay there");
                refusal
            }
        };
        say(&mut from, &Verdict { refusal }.encode_to_vec())?;
    }
    Ok(taken)
}

fn parcel(passed: Passed) -> Result<Parcel, prost::DecodeError> {
    let Passed { message, secret, descriptors } = passed;
    let message = proto::Parcel::decode(&*message)?;
    let session = (!secret.is_empty()).then(|| Frozen::from_bytes(secret));
    let sockets = descriptors.into_iter().map(TcpStream::from).collect();
    Ok(Parcel { message, session, sockets })
}
