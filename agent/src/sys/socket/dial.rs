//! Dials from inside a pod's network namespace: to its application, or to the outside on its behalf.
//!
//! Only the socket's creation happens inside the namespace: a socket stays where it was made.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use socket2::Socket;
use sotto_abi::MARK_LOOP;
use tokio::net::{TcpSocket, TcpStream};

use super::super::Netns;
use super::{prefer_unpaced, set_transparent, tcp};

/// Source ports for dials with a preserved source.
///
/// Below Linux's default ephemeral range (32768..): a client that later uses the same port to the same pod
/// would meet the application's half of our connection. Above most ports that applications listen on.
const SOURCE_PORTS: std::ops::Range<u16> = 16384..32768;
/// Ports tried before giving up: the application or an old connection may hold some.
const PORT_ATTEMPTS: u32 = 32;

/// Connects to the application of a pod, from inside the pod, as `source` if given (else as the pod itself).
///
/// With a source, replies return to us over `lo` through the mark and the pod's loop route.
///
/// # Errors
/// The namespace is gone, no source port is free, the application refuses, or `timeout` passes.
pub async fn dial_app(
    netns: &Netns,
    source: Option<IpAddr>,
    destination: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let connect = async {
        // The pod's own address needs no disguise, and answers to it would not come back over `lo`.
        let Some(source) = source.filter(|source| *source != destination.ip()) else {
            let socket = netns.enter(|| tcp(destination))??;
            prefer_unpaced(&socket);
            return connect(socket, destination).await;
        };
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORT_ATTEMPTS {
            let port = rand::rng().random_range(SOURCE_PORTS);
            match dial_as(netns, SocketAddr::new(source, port), destination).await {
                Err(error) if is_port_taken(&error) => last = error,
                result => return result,
            }
        }
        Err(last)
    };
    within(timeout, connect).await
}

/// Connects to the outside from inside a pod, with the pod's address.
///
/// # Errors
/// The namespace is gone, the peer refuses or cannot be reached, or `timeout` passes.
pub async fn dial_from(
    netns: &Netns,
    destination: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let socket = netns.enter(|| tcp(destination))??;
    within(timeout, connect(socket, destination)).await
}

async fn dial_as(
    netns: &Netns,
    source: SocketAddr,
    destination: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = netns.enter(|| tcp(destination))??;
    prefer_unpaced(&socket);
    set_transparent(&socket, destination)?;
    socket.set_mark(MARK_LOOP)?;
    // A pod's own address lives on its device: bound to `lo`, the lookup skips that local route and takes the
    // loop table, so the connection arrives on `lo` and is not captured again.
    socket.bind_device(Some(b"lo"))?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    connect(socket, destination).await
}

async fn connect(socket: Socket, destination: SocketAddr) -> io::Result<TcpStream> {
    TcpSocket::from_std_stream(socket.into()).connect(destination).await
}

async fn within<T>(
    timeout: Duration,
    connect: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(timeout, connect)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

/// Somebody holds the port (`EADDRINUSE`), or the very four-tuple (`EADDRNOTAVAIL`).
fn is_port_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}
