//! From an app of this node to where no tunnel leads.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::carry::{self, Carrying};
use super::context::Context;
use super::hops::Loop;
use super::of_pod::OfPod;
use super::quota::Place;
use super::record::Record;
use super::upstream;
use crate::capture::Captured;
use crate::observe::labels::ResponseFlags;
use crate::sys::socket::Dialled;

/// Dials `target` for an application, and carries its bytes.
pub(super) async fn open(
    context: &Rc<Context>,
    of_pod: &OfPod,
    captured: Captured,
    (record, place): (Record, Place),
    target: SocketAddr,
) -> Option<Carrying> {
    let app = captured.stream;
    let hops = of_pod.quota.hops();
    let served = hops.arrived(captured.client);
    let dialled = async {
        hops.check(served)?;
        let dial = upstream::direct(context, &captured.pod, &app, target);
        let Dialled { stream, at_once } = dial.await.map_err(DirectError::Connect)?;
        // Before another task of the thread is asked what has come back.
        let end = if at_once { stream.local_addr().ok() } else { None };
        let hop = end.map(|end| hops.keep(end, served));
        // Meanwhile the thread that dialled what came back may have said so.
        hops.check(served)?;
        Ok::<_, DirectError>((stream, hop))
    };
    match dialled.await {
        Ok((server, hop)) => {
            Some(carry::outbound_direct(record, (place, hop), (app, server), &of_pod.account))
        }
        Err(error) => {
            record.fail(ResponseFlags::Connect, &error);
            None
        }
    }
}

/// Why nothing is reached.
#[derive(Debug, thiserror::Error)]
enum DirectError {
    /// It would not end.
    #[error(transparent)]
    Loop(#[from] Loop),
    /// It does not answer.
    #[error(transparent)]
    Connect(io::Error),
}
