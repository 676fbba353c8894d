//! TCP sockets as the data path needs them: listeners inside a pod, dials from inside a pod.
//!
//! All of them have `TCP_NODELAY` on; those that leave the pod, keepalive too: inside it one kernel holds both
//! ends, and no end is lost silently. Sockets accepted from a listener inherit both.

mod canary;
mod dial;
mod ports;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

pub use canary::Canary;
pub use dial::{AppDialler, dial_from};

/// Connections waiting to be accepted.
pub const BACKLOG: i32 = 4096;

/// How a listener is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// The other ends are in the pod too, so nothing is to be paced; inherited by accepted sockets.
    pub inside: bool,
    /// As [`reset_on_close`], inherited by accepted sockets.
    pub reset_on_close: bool,
    /// Connections waiting to be accepted.
    pub backlog: i32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { inside: false, reset_on_close: false, backlog: BACKLOG }
    }
}

/// Listens on `address` in the calling thread's network namespace. Non-blocking.
///
/// # Errors
/// The address is taken or of a family that this kernel lacks, or an option is not permitted.
pub fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = tcp(address)?;
    keep_alive(&socket)?;
    if options.inside {
        unpace(&socket)?;
    }
    if options.reset_on_close {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        let_bind_anything(&socket)?;
    }
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// From now on closing `stream` sends a reset, so that a peer never mistakes our end for an orderly one.
///
/// # Errors
/// The socket is no longer valid.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Undoes [`reset_on_close`], before an orderly end.
///
/// # Errors
/// The socket is no longer valid.
pub fn clear_reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}

/// The cookie of the calling thread's network namespace.
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    nix::sys::socket::getsockopt(&socket.as_fd(), NetnsCookie).map_err(io::Error::from)
}

mod cookie {
    nix::getsockopt_impl!(
        NetnsCookie,
        libc::SOL_SOCKET,
        libc::SO_NETNS_COOKIE,
        u64,
        nix::sys::socket::sockopt::GetStruct<u64>
    );

    /// `SO_NETNS_COOKIE`, since Linux 5.14.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct NetnsCookie;
}
use cookie::NetnsCookie;

/// A non-blocking TCP socket of `address`'s family, in the calling thread's network namespace.
fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Lets the kernel find out that the other end is gone without a word.
fn keep_alive(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(180))
            .with_interval(Duration::from_secs(60))
            .with_retries(5),
    )
}

/// Over IPv6 a route alone does not make an address one to bind to.
fn let_bind_anything(socket: &Socket) -> io::Result<()> {
    socket.set_freebind_v6(true)
}

/// Congestion control for the legs between an application and the agent, the better first. One kernel holds both
/// ends: with bbr as the node's default, pacing on loopback costs a third of the throughput.
pub const UNPACED: [&str; 2] = ["cubic", "reno"];

/// Makes the first of [`UNPACED`] that this kernel has the socket's.
fn unpace(socket: &Socket) -> io::Result<()> {
    let [first, second] = UNPACED.map(str::as_bytes);
    socket.set_tcp_congestion(first).or_else(|_| socket.set_tcp_congestion(second))
}
