//! Our tunnels against the `h2` crate, which dials us and is dialled by us: all that two HTTP/2 can
//! do to each other with streams that tunnel bytes.

use std::cell::Cell;
use std::rc::Rc;

use futures::StreamExt as _;
use sotto::tunnel::Limits;
use tokio::net::TcpStream;

use crate::bytes;
use crate::ends::{Dialler, Gateway};
use crate::pki::Pki;

mod bulk;
mod ending;
mod theirs;
mod windows;

use theirs::{Client, Server, exchange};

/// What the flows of a stream are, up and down, by its authority.
fn flows(authority: &str) -> (u64, u64) {
    let number: u64 = authority.rsplit(':').next().unwrap().parse().unwrap();
    (2 * number, 2 * number + 1)
}

/// Our end, whose applications exchange `total` bytes both ways on each stream.
async fn exchanging(pki: &Pki, total: u64) -> Gateway {
    let app = move |authority: String, app| async move {
        let (up, down) = flows(&authority);
        bytes::exchange(app, (down, up), total).await;
    };
    Gateway::start(pki, Limits::default(), app).await
}

fn authority(number: usize) -> String {
    format!("10.0.0.1:{number}")
}

/// How the streams of a test are.
#[derive(Clone)]
struct Plan {
    limits: Limits,
    set: theirs::Set,
    streams: usize,
    /// Of them at a time.
    at_once: usize,
    /// Bytes each way on each.
    total: u64,
}

impl Default for Plan {
    fn default() -> Self {
        let (limits, set) = (Limits::default(), theirs::Set::default());
        Self { limits, set, streams: 100, at_once: 100, total: 100_000 }
    }
}

/// The crate dials us: every stream carries `total` bytes both ways at once, each byte compared.
async fn crate_dials(plan: Plan) {
    let pki = Pki::new();
    let (total, apps) = (plan.total, Rc::new(Cell::new(0)));
    let ended = Rc::clone(&apps);
    let app = move |authority: String, app: TcpStream| {
        let ended = Rc::clone(&ended);
        async move {
            let (up, down) = flows(&authority);
            bytes::exchange(app, (down, up), total).await;
            ended.set(ended.get() + 1);
        }
    };
    let gateway = Gateway::start(&pki, plan.limits, app).await;
    let client = Client::dial(&pki, gateway.address, plan.set).await;
    let streams = futures::stream::iter(1..=plan.streams).map(|number| {
        let (client, authority) = (&client, authority(number));
        async move {
            let (send, body) = client.open(&authority).await;
            exchange(send, body, flows(&authority), (total, plan.set.piece)).await;
        }
    });
    streams.buffer_unordered(plan.at_once).collect::<Vec<()>>().await;
    crate::ends::until("all applications ended", || apps.get() == plan.streams).await;
    assert_eq!(gateway.accepted.get(), 1, "one tunnel carried them all");
}

/// We dial the crate.
async fn crate_is_dialled(plan: Plan) {
    let pki = Pki::new();
    let (total, piece) = (plan.total, plan.set.piece);
    let server = Server::start(&pki, plan.set, move |request, mut respond| async move {
        let authority = request.uri().authority().unwrap().to_string();
        let send = respond.send_response(http::Response::new(()), false).unwrap();
        let (up, down) = flows(&authority);
        exchange(send, request.into_body(), (down, up), (total, piece)).await;
    })
    .await;
    let dialler = Dialler::new(&pki, plan.limits, server.address).await;
    let streams = futures::stream::iter(1..=plan.streams).map(|number| {
        let (dialler, authority) = (&dialler, authority(number));
        async move {
            let (app, outcome) = dialler.open(&authority).await;
            bytes::exchange(app, flows(&authority), total).await;
            outcome.await.unwrap().unwrap();
        }
    });
    streams.buffer_unordered(plan.at_once).collect::<Vec<()>>().await;
    assert_eq!(server.connections.get(), 1, "one tunnel carried them all");
}
