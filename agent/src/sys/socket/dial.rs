//! Dials from inside a pod's network namespace: to its application, or to the outside on its behalf.
//!
//! Only the socket's creation happens inside the namespace: a socket stays where it was made.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::Socket;
use tokio::net::TcpStream;

use super::super::Netns;
use super::ports;
use super::{bound, keep_alive, let_bind_anything, tcp, unpace};

/// Ports tried before giving up: the application or an old connection may hold some.
const PORT_ATTEMPTS: u32 = 32;
/// Sockets made at a time.
const STOCK: usize = 4;

/// Dials the application of a pod, from inside the pod, for one thread.
///
/// Sockets that are to bear a client's address are made a few at a time: to enter the namespace costs more than
/// to make one. Those that wait are closed with this.
#[derive(Debug)]
pub struct AppDialler {
    netns: Netns,
    /// By family: IPv4, IPv6.
    ready: RefCell<[Vec<Socket>; 2]>,
}

impl AppDialler {
    /// For the pod in `netns`.
    pub fn new(netns: Netns) -> Self {
        Self { netns, ready: RefCell::default() }
    }

    /// Connects to the application as `source` if given (else as the pod itself): an address that is local in the
    /// pod, and a port, if it is free; 0 and otherwise, any port.
    ///
    /// # Errors
    /// The namespace is gone, no source port is free, the application refuses, or `timeout` passes.
    pub async fn dial(
        &self,
        source: Option<SocketAddr>,
        destination: SocketAddr,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        within(timeout, async {
            match source {
                Some(source) => self.dial_as(source, destination).await,
                None => {
                    let socket = self.netns.enter(|| inside(destination))??;
                    connect(socket, destination).await.map(|dialled| dialled.stream)
                }
            }
        })
        .await
    }

    async fn dial_as(&self, source: SocketAddr, destination: SocketAddr) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for attempt in 0..PORT_ATTEMPTS {
            let port = match (attempt, source.port()) {
                (0, 1..) => source.port(),
                (0 | 1, _) => ports::next(self.netns.inode(), source.ip(), destination),
                _ => ports::random(),
            };
            let socket = self.take(destination)?;
            let connected = match socket.bind(&SocketAddr::new(source.ip(), port).into()) {
                Ok(()) => connect(socket, destination).await.map(|dialled| dialled.stream),
                Err(error) => Err(error),
            };
            match connected {
                Err(error) if is_port_taken(&error) => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    /// A socket of the destination's family; others are made with it if there is none.
    fn take(&self, destination: SocketAddr) -> io::Result<Socket> {
        let mut ready = self.ready.borrow_mut();
        let ready = &mut ready[usize::from(destination.is_ipv6())];
        if let Some(socket) = ready.pop() {
            return Ok(socket);
        }
        let made: io::Result<Vec<_>> =
            self.netns.enter(|| (0..STOCK).map(|_| disguisable(destination)).collect())?;
        ready.extend(made?);
        // None only if `STOCK` were 0.
        ready.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
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
    dial_telling(netns, destination, timeout).await.map(|dialled| dialled.stream)
}

/// A connection, and what was noticed of the way.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: TcpStream,
    /// The handshake had ended when connect(2) returned: the other end is on this machine.
    pub at_once: bool,
}

/// The same as [`dial_from`].
///
/// # Errors
/// As there.
pub async fn dial_telling(
    netns: &Netns,
    destination: SocketAddr,
    timeout: Duration,
) -> io::Result<Dialled> {
    let socket = netns.enter(|| tcp(destination))??;
    keep_alive(&socket)?;
    bound(&socket, false)?;
    // The kernel gives it a port of the pod's: with this, an application's listener may have that too.
    socket.set_reuse_address(true)?;
    within(timeout, connect(socket, destination)).await
}

/// A socket in the calling thread's network namespace, for its applications.
pub(super) fn inside(destination: SocketAddr) -> io::Result<Socket> {
    let socket = tcp(destination)?;
    bound(&socket, true)?;
    unpace(&socket)?;
    Ok(socket)
}

/// A socket in the calling thread's network namespace that can be bound to any address that is local there.
fn disguisable(destination: SocketAddr) -> io::Result<Socket> {
    let socket = inside(destination)?;
    if destination.is_ipv6() {
        let_bind_anything(&socket)?;
    }
    // A port that an earlier connection of the client had may be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

pub(super) async fn connect(socket: Socket, destination: SocketAddr) -> io::Result<Dialled> {
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Over `lo` the handshake has ended when connect(2) returns: nobody must be woken for it.
    let at_once = socket.peer_addr().is_ok();
    let stream = TcpStream::from_std(socket.into())?;
    if !at_once {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(Dialled { stream, at_once })
}

pub(super) async fn within<T>(
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
