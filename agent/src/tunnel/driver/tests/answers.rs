//! When a pass waits for applications that are about to answer.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::HeaderMap;
use rustls_pki_types::ServerName;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::super::tls;
use super::super::ready::Key;
use super::super::{Driver, Side, StreamHandle};
use crate::tunnel::Limits;
use crate::tunnel::testing::{Pki, local, tcp_pair, terms};

/// Both ends of a tunnel, with the first flights of HTTP/2 exchanged: nothing is left to do.
async fn quiet_tunnel() -> (Driver, Driver) {
    let pki = Pki::new();
    let (mut near, mut far) = tcp_pair().await;
    let layer = Limits::default().record_layer;
    let name = ServerName::from(near.peer_addr().unwrap().ip());
    let (client, server) = tokio::join!(
        tls::connect(&mut near, Arc::clone(&pki.client), name, layer),
        tls::accept(&mut far, Arc::clone(&pki.server), layer),
    );
    let terms = || terms(CancellationToken::new());
    let limits = Limits::default();
    let mut client = Driver::new(near, client.unwrap(), Side::Client, &limits, terms());
    let mut server = Driver::new(far, server.unwrap(), Side::Server, &limits, terms());
    // What the kernel carries late would be one more thing to do.
    for _ in 0..50 {
        poll(&mut client);
        poll(&mut server);
        sleep(Duration::from_millis(1)).await;
    }
    assert!(client.link().is_settled());
    (client, server)
}

fn poll(driver: &mut Driver) {
    assert!(matches!(driver.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
}

/// Streams that are ready and had no turn.
fn waiting(driver: &Driver) -> usize {
    driver.link().shared().state.borrow().run.len()
}

/// A new stream, ready.
fn make_ready(driver: &Driver) -> StreamHandle {
    let link = driver.link();
    let handle = link.open("10.0.0.1:80", &HeaderMap::new()).unwrap();
    let id = *link.shared().state.borrow().streams.keys().max().unwrap();
    link.shared().ready.mark(Key::Stream(id));
    handle
}

#[tokio::test]
async fn one_of_many_answers_waits_one_turn_for_the_others() {
    local(async {
        let (mut client, _server) = quiet_tunnel().await;
        (0..16).for_each(|_| client.answers.gave());
        client.answers.passed(0);
        let _first = make_ready(&client);
        poll(&mut client);
        assert_eq!(waiting(&client), 1, "it waits");
        let _second = make_ready(&client);
        poll(&mut client);
        assert_eq!(waiting(&client), 0, "both had their turn");
    })
    .await;
}

#[tokio::test]
async fn what_nobody_was_asked_for_does_not_wait() {
    local(async {
        let (mut client, _server) = quiet_tunnel().await;
        let _only = make_ready(&client);
        poll(&mut client);
        assert_eq!(waiting(&client), 0);
    })
    .await;
}
