//! What frames cost, beside the `h2` crate: DATA in and out, and requests.

#![expect(clippy::unwrap_used, reason = "both ends are honest")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue, StatusCode};
use sotto::tunnel::h2::{Config, Connection, Event, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of DATA in a frame.
const SIZES: [usize; 4] = [1, 1024, 16_375, 262_135];
const STREAMS: u32 = 32;
/// The input comes in pieces as large as the agent reads at once.
const READ: usize = 512 << 10;

fn main() {
    divan::main();
}

fn frames(size: usize) -> usize {
    (8 << 20) / (size + 1000)
}

fn config() -> Config {
    Config { initial_window: 1 << 20, max_window: 1 << 20, ..Config::default() }
}

/// A client and a server of ours with tunnels open.
fn pair() -> (Connection, Connection) {
    let (mut client, mut server) = (Connection::client(config()), Connection::server(config()));
    exchange(&mut client, &mut server);
    for _ in 0..STREAMS {
        client.open("10.244.1.7:8080", &headers(1)).unwrap();
    }
    exchange(&mut client, &mut server);
    (client, server)
}

fn exchange(client: &mut Connection, server: &mut Connection) {
    while client.has_output() || server.has_output() {
        feed(server, &output(client));
        feed(client, &output(server));
    }
}

fn output(connection: &mut Connection) -> Vec<u8> {
    let mut out = Vec::new();
    connection.take_output(&mut out);
    out
}

/// Returns how many bytes of DATA came.
fn feed(connection: &mut Connection, mut rest: &[u8]) -> usize {
    let mut count = 0;
    while let (taken, Some(event)) = connection.receive(rest).unwrap() {
        rest = &rest[taken..];
        match event {
            Event::Request { id, .. } => {
                connection.respond(id, StatusCode::OK, &HeaderMap::new(), false).unwrap();
            }
            Event::Data { id, bytes } => {
                count += bytes.len();
                connection.consumed(id, bytes.len(), true);
            }
            _ => {}
        }
    }
    count
}

/// What HBONE carries.
fn headers(stream: u32) -> HeaderMap {
    let baggage = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,\
                   service.name=cart,service.version=v1";
    let mut headers = HeaderMap::new();
    headers.insert("baggage", HeaderValue::from_static(baggage));
    let forwarded =
        format!("for=\"10.244.0.9:{}\";host=cart.shop.svc.cluster.local", 30_000 + stream);
    headers.insert("forwarded", forwarded.parse().unwrap());
    let trace = format!("00-{:032x}-{:016x}-00", u128::from(stream) << 90 | 7, stream);
    headers.insert("traceparent", trace.parse().unwrap());
    headers
}

/// DATA frames of all streams in turn.
fn data(size: usize) -> Vec<u8> {
    let length = u32::try_from(size).unwrap().to_be_bytes();
    let ids = (0..STREAMS).map(|stream| 2 * stream + 1).cycle().take(frames(size));
    ids.flat_map(|id| [&length[1..], &[0, 0], &id.to_be_bytes(), &vec![7; size]].concat()).collect()
}

#[divan::bench(args = SIZES)]
fn data_in(bencher: Bencher<'_, '_>, size: usize) {
    let wire = data(size);
    bencher
        .counter(BytesCount::new(frames(size) * size))
        .counter(ItemsCount::new(frames(size)))
        .with_inputs(pair)
        .bench_local_refs(|(_, server)| {
            let count: usize = wire.chunks(READ).map(|piece| feed(server, piece)).sum();
            assert_eq!(count, frames(size) * size);
        });
}

#[divan::bench(args = SIZES)]
fn data_out(bencher: Bencher<'_, '_>, size: usize) {
    // 4 MiB is what the windows hold after all; more frames than that are not made at once.
    let ids: Vec<StreamId> = {
        let (mut client, _) = (Connection::client(config()), ());
        (0..STREAMS).map(|_| client.open("a:1", &HeaderMap::new()).unwrap()).collect()
    };
    let count = frames(size).min((4 << 20) / size);
    bencher.counter(ItemsCount::new(count)).with_inputs(pair).bench_local_refs(|(client, _)| {
        for id in ids.iter().cycle().take(count) {
            let most = client.capacity(*id).min(client.max_send_frame());
            black_box(client.data(*id, size.min(most), false).unwrap());
        }
    });
}

#[divan::bench]
fn requests(bencher: Bencher<'_, '_>) {
    const COUNT: u32 = 100;
    let all: Vec<_> = (0..COUNT).map(headers).collect();
    bencher
        .counter(ItemsCount::new(COUNT))
        .with_inputs(|| {
            let mut pair = (Connection::client(config()), Connection::server(config()));
            exchange(&mut pair.0, &mut pair.1);
            pair
        })
        .bench_local_refs(|(client, server)| {
            for headers in &all {
                client.open("10.244.1.7:8080", headers).unwrap();
                feed(server, &output(client));
            }
            feed(client, &output(server));
        });
}

/// A transport in memory.
#[derive(Debug, Clone, Default)]
struct Wire(Rc<RefCell<(VecDeque<u8>, Vec<u8>)>>);

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let input = &mut self.0.borrow_mut().0;
        let count = input.as_slices().0.len().min(buf.remaining());
        if count == 0 {
            return Poll::Pending;
        }
        buf.put_slice(&input.as_slices().0[..count]);
        input.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().1.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A server of the crate.
struct Crate {
    wire: Wire,
    server: h2::server::Connection<Wire, Bytes>,
    bodies: Vec<h2::RecvStream>,
    held: Vec<h2::SendStream<Bytes>>,
}

impl Crate {
    /// With the tunnels of a client of ours open.
    fn new(opened: u32) -> (Connection, Self) {
        let mut client = Connection::client(config());
        let wire = Wire::default();
        wire.0.borrow_mut().0.extend(output(&mut client));
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20);
        builder.max_frame_size((1 << 24) - 1).data_frame_budget(usize::MAX / 2);
        let cx = &mut Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(server)) = pin!(builder.handshake(wire.clone())).poll(cx) else {
            unreachable!("the preface is there");
        };
        let mut this = Self { wire, server, bodies: Vec::new(), held: Vec::new() };
        this.feed(&[]);
        this.answer(&mut client);
        for _ in 0..opened {
            client.open("10.244.1.7:8080", &headers(1)).unwrap();
        }
        this.feed(&output(&mut client));
        this.answer(&mut client);
        (client, this)
    }

    fn answer(&self, client: &mut Connection) {
        let sent = std::mem::take(&mut self.wire.0.borrow_mut().1);
        feed(client, &sent);
    }

    fn feed(&mut self, piece: &[u8]) -> usize {
        let cx = &mut Context::from_waker(Waker::noop());
        self.wire.0.borrow_mut().0.extend(piece);
        while let Poll::Ready(Some(accepted)) = self.server.poll_accept(cx) {
            let (request, mut respond) = accepted.unwrap();
            self.held.push(respond.send_response(http::Response::new(()), false).unwrap());
            self.bodies.push(request.into_body());
        }
        let mut count = 0;
        for body in &mut self.bodies {
            while let Poll::Ready(Some(bytes)) = body.poll_data(cx) {
                let bytes = bytes.unwrap();
                count += bytes.len();
                body.flow_control().release_capacity(bytes.len()).unwrap();
            }
        }
        count
    }
}

#[divan::bench(args = SIZES)]
fn data_in_by_the_crate(bencher: Bencher<'_, '_>, size: usize) {
    let wire = data(size);
    bencher
        .counter(BytesCount::new(frames(size) * size))
        .counter(ItemsCount::new(frames(size)))
        .with_inputs(|| Crate::new(STREAMS))
        .bench_local_refs(|(_, server)| {
            let count: usize = wire.chunks(READ).map(|piece| server.feed(piece)).sum();
            assert_eq!(count, frames(size) * size);
        });
}

#[divan::bench]
fn requests_by_the_crate(bencher: Bencher<'_, '_>) {
    const COUNT: u32 = 100;
    let all: Vec<_> = (0..COUNT).map(headers).collect();
    bencher.counter(ItemsCount::new(COUNT)).with_inputs(|| Crate::new(0)).bench_local_refs(
        |(client, server)| {
            for headers in &all {
                client.open("10.244.1.7:8080", headers).unwrap();
                server.feed(&output(client));
            }
            server.answer(client);
        },
    );
}
