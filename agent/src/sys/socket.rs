//! TCP sockets as the data path needs them: listeners inside a pod, dials from inside a pod.
//!
//! All of them have `TCP_NODELAY` on; those that leave the pod, keepalive too: inside it one kernel holds both
//! ends, and no end is lost silently. Sockets accepted from a listener inherit both.

mod dial;
mod ports;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

pub use dial::{AppDialler, dial_from};

/// Connections waiting to be accepted.
pub const BACKLOG: i32 = 4096;

/// How a listener is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// `SO_MARK`, inherited by accepted sockets.
    pub mark: Option<u32>,
    /// `IP_TRANSPARENT`: accepted sockets may have foreign local addresses.
    pub transparent: bool,
    /// As [`reset_on_close`], inherited by accepted sockets.
    pub reset_on_close: bool,
    /// Connections waiting to be accepted.
    pub backlog: i32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { mark: None, transparent: false, reset_on_close: false, backlog: BACKLOG }
    }
}

/// Listens on `address` in the calling thread's network namespace. Non-blocking.
///
/// # Errors
/// The address is taken or of a family that this kernel lacks, or an option is not permitted.
pub fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = tcp(address)?;
    keep_alive(&socket)?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if options.transparent {
        set_transparent(&socket, address)?;
    }
    if options.reset_on_close {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
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

fn set_transparent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() {
        socket.set_ip_transparent_v4(true)
    } else {
        socket.set_ip_transparent_v6(true)
    }
}
