//! Away from here.

use std::net::TcpStream;
use std::rc::Rc;

use rustls_pki_types::CertificateDer;
use sotto_proto::handover::{self as proto, parcel::What};

use super::super::accepted::Leaving;
use super::super::context::Context;
use super::super::record::Live;
use super::parcel::Parcel;
use super::told;
use crate::mesh::PodUid;
use crate::tunnel::tls::Frozen;
use crate::tunnel::{Departing, Moving, Progress, Way};

/// Something that may leave.
pub struct Departure(Kind);

enum Kind {
    Accepted(Leaving),
    Dialled(Departing),
    Plain(Rc<Live>),
}

/// All that may leave a thread.
pub fn departures(context: &Context) -> Vec<Departure> {
    let accepted = context.accepted.leaving().into_iter().map(Kind::Accepted);
    let dialled = context.pool.departing().into_iter().map(Kind::Dialled);
    let plain = context.open.plain().into_iter().map(Kind::Plain);
    accepted.chain(dialled).chain(plain).map(Departure).collect()
}

impl Departure {
    /// Whose it is.
    pub fn pod(&self) -> &PodUid {
        match &self.0 {
            Kind::Accepted(leaving) => &leaving.caller.pod.pod.uid,
            Kind::Dialled(departing) => &departing.key.pod,
            Kind::Plain(live) => &live.way().pod,
        }
    }

    /// Takes it, once it can be; none if it ends before, or is to stay.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it leaves all where it is.
    pub async fn leave(&self, context: &Context) -> Option<Parcel> {
        match &self.0 {
            Kind::Accepted(leaving) => {
                let Moving { tunnel, session, tcp, apps } = *leaving.exit.leave().await?;
                let (connections, sockets) = carried(context, tcp, apps)?;
                let caller = &leaving.caller;
                let what = What::Accepted(proto::Accepted {
                    client: caller.client.to_string(),
                    destination: caller.destination.to_string(),
                    certificates: der(leaving.peer.certificates()),
                    tunnel: Some(tunnel),
                    connections,
                    shown_root: leaving.peer.shown(),
                });
                Some(parcel(&caller.pod.pod.uid, what, Some(session), sockets))
            }
            Kind::Dialled(Departing { key, peer, shown, exit }) => {
                let Moving { tunnel, session, tcp, apps } = *exit.leave().await?;
                let (connections, sockets) = carried(context, tcp, apps)?;
                let what = What::Dialled(proto::Dialled {
                    source: key.source.to_string(),
                    gateway: key.gateway.to_string(),
                    expected: key.expected.iter().map(ToString::to_string).collect(),
                    certificates: der(peer),
                    tunnel: Some(tunnel),
                    connections,
                    shown_root: *shown,
                });
                Some(parcel(&key.pod, what, Some(session), sockets))
            }
            Kind::Plain(live) => {
                let moving = live.brake()?.pull().await?;
                let connection = told::leaving(live)?;
                let [from_first, from_second] = moving.ways.map(|way| {
                    let Way { rest, ended } = way;
                    Some(proto::Way { rest, ended })
                });
                let plain = proto::Plain { connection: Some(connection), from_first, from_second };
                let sockets = moving.ends.into();
                Some(parcel(&live.way().pod, What::Plain(plain), None, sockets))
            }
        }
    }
}

/// What is told of the streams of a tunnel that was left; its own socket, and their applications'.
fn carried(
    context: &Context,
    tunnel: TcpStream,
    apps: Vec<(TcpStream, Rc<Progress>)>,
) -> Option<(Vec<proto::Connection>, Vec<TcpStream>)> {
    let (mut connections, mut sockets) = (Vec::new(), vec![tunnel]);
    for (app, progress) in apps {
        let Some(told) = context.open.of(&progress).and_then(|live| told::leaving(&live)) else {
            tracing::error!("a tunnel is lost: nothing is known of a stream in it");
            return None;
        };
        connections.push(told);
        sockets.push(app);
    }
    Some((connections, sockets))
}

fn parcel(pod: &PodUid, what: What, session: Option<Frozen>, sockets: Vec<TcpStream>) -> Parcel {
    let message = proto::Parcel { pod_uid: pod.to_string(), what: Some(what) };
    Parcel { message, session, sockets }
}

fn der(certificates: &[CertificateDer<'static>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|certificate| certificate.to_vec()).collect()
}

impl std::fmt::Debug for Departure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Departure").finish_non_exhaustive()
    }
}
