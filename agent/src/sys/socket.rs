//! Sockets as the data path needs them: listeners inside a pod, dials from inside a pod.
//!
//! All of TCP have `TCP_NODELAY` on; those that leave the pod, keepalive too: inside it one kernel holds both
//! ends, and no end is lost silently. Sockets accepted from a listener inherit both.

mod canary;
mod datagrams;
mod dial;
mod own;
mod pair;
mod patience;
mod ports;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

pub use canary::Canary;
pub use datagrams::{Datagram, bind_datagrams, connect_datagrams, receive, send};
pub use dial::{AppDialler, Dialled, dial_from, dial_telling};
pub use own::listen_on;
pub use pair::pair;
pub use patience::{DIAL, gave_up};

/// What the kernel takes for a reader that does not read, in bytes, beyond what the reader's own end holds.
pub const UNSENT: u32 = 64 << 10;
/// The same of a reader that is not in a pod of this node: so much can be sent before we are asked for more.
const UNSENT_AFAR: u32 = 512 << 10;
/// What the kernel takes from an application that we do not read, in bytes; with what it needs itself, twice that.
const UNREAD: usize = 512 << 10;
/// Connections waiting to be accepted.
pub const BACKLOG: i32 = 4096;

/// How a listener is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// As [`reset_on_close`], inherited by accepted sockets.
    pub reset_on_close: bool,
    /// The other ends are in the pod too: what they hold is bounded (see [`bound`]), and nothing is paced. Inherited by
    /// accepted sockets.
    pub inside: bool,
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
    bound(&socket, options.inside)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        let_bind_anything(&socket)?;
    }
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    // What is accepted in an application's place has its address and port; without this, which is inherited,
    // the application could not bind them anew while such a connection is open. (A listener shares nothing.)
    socket.set_reuse_address(true)?;
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

/// Has the kernel refuse more bytes while [`UNSENT`] wait that it cannot send yet (`TCP_NOTSENT_LOWAT`); or, not
/// `tight`, as many as suit a reader far away.
///
/// # Errors
/// The socket is no longer valid.
pub fn tighten(stream: &TcpStream, tight: bool) -> io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(if tight { UNSENT } else { UNSENT_AFAR })
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

/// Bounds what the kernel holds for a reader that does not read (`TCP_NOTSENT_LOWAT`) and, `inside` a pod, for us who do
/// not read the application, whatever the pod's namespace allows: `tcp_wmem` and `tcp_rmem` are its own to set, and what
/// they let pile up is charged to us. What is sent and not acknowledged is not counted, so a reader that keeps up is as
/// fast as before.
///
/// What comes from afar, or goes there, needs room for its way; there only what cannot be sent is bounded.
fn bound(socket: &Socket, inside: bool) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(if inside { UNSENT } else { UNSENT_AFAR })?;
    if !inside {
        return Ok(());
    }
    // Beyond `net.core.rmem_max` for whoever administrates the namespace.
    let forced = nix::sys::socket::setsockopt(&socket.as_fd(), RcvBufForce, &UNREAD);
    forced.or_else(|_| nix::sys::socket::setsockopt(&socket.as_fd(), RcvBuf, &UNREAD))?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write as _};
    use std::net::TcpStream as Plain;

    use super::*;

    /// What a connection accepted so takes for a client that does not read, in bytes.
    fn taken(inside: bool) -> usize {
        let options = ListenOptions { inside, ..ListenOptions::default() };
        let listener = listen("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let client = tcp(listener.local_addr().unwrap()).unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        // Over loopback it is done at once; the listener is not asked before.
        let connecting = client.connect(&listener.local_addr().unwrap().into());
        connecting
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINPROGRESS) => Ok(()),
                _ => Err(error),
            })
            .unwrap();
        let (mut accepted, _): (Plain, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let (piece, mut taken) = (vec![7; 64 << 10], 0);
        loop {
            match accepted.write(&piece) {
                Ok(written) => taken += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn the_kernel_takes_little_for_an_application_that_does_not_read() {
        let (inside, afar) = (taken(true), taken(false));
        let unsent = usize::try_from(UNSENT).unwrap();
        assert!(inside <= 2 * unsent + (64 << 10), "{inside}");
        assert!(afar > inside, "{afar}");
        assert!(afar <= 2 * usize::try_from(UNSENT_AFAR).unwrap(), "{afar}");
    }

    #[test]
    fn the_kernel_takes_no_more_from_an_application_than_we_say() {
        let options = ListenOptions { inside: true, ..ListenOptions::default() };
        let listener = listen("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let client = Plain::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        // What the kernel needs itself is added: socket(7).
        assert_eq!(SockRef::from(&accepted).recv_buffer_size().unwrap(), 2 * UNREAD);
        drop(client);
    }
}
