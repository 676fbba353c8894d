//! Applications: a server that tells each client how it sees it, and clients.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};
use sotto::sys::Netns;

use super::{Cgroups, Place};

/// How long anything in a lab may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers every line with the client's address and the line; for IPv4 and IPv6.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    netns: Netns,
    at: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(cgroups: &Arc<Cgroups>, netns: &Netns, port: u16) -> Result<Self> {
        let (cgroups, inside) = (Arc::clone(cgroups), netns.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let listener = cgroups
                .join(Place::App)
                .and_then(|()| Ok(inside.enter(|| listen_everywhere(port))??));
            let listener = match listener {
                Ok(listener) => listener,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // The last owner removes the cgroups, which must not be this thread.
            drop(cgroups);
            if ready.send(Ok(())).is_err() {
                return;
            }
            while let Ok((stream, client)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::spawn(move || answer(stream, client));
            }
        });
        is_ready.recv()??;
        let at = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        Ok(Self { stop, netns: netns.clone(), at, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accept.
        let woken = self.netns.enter(|| TcpStream::connect_timeout(&self.at, PATIENCE));
        if let (Ok(Ok(_)), Some(thread)) = (woken, self.thread.take()) {
            drop(thread.join());
        }
    }
}

fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn answer(stream: TcpStream, client: SocketAddr) {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let Ok(mut writer) = stream.try_clone() else { return };
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        if writeln!(writer, "{client} {line}").is_err() {
            return;
        }
    }
}

/// Connects as an ordinary application.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Says a line on a connection to a [`Server`]; returns how the server sees the client.
pub fn ask(stream: &mut TcpStream, line: &str) -> io::Result<SocketAddr> {
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(&mut *stream).read_line(&mut answer)?;
    let (client, echo) = answer
        .trim_end()
        .split_once(' ')
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, answer.clone()))?;
    if echo != line {
        return Err(io::Error::new(io::ErrorKind::InvalidData, answer));
    }
    client.parse().map_err(io::Error::other)
}

/// Connects to a [`Server`] with `socket`, prepared as a test likes, and asks it.
pub fn ask_from(socket: Socket, to: SocketAddr) -> io::Result<IpAddr> {
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    Ok(ask(&mut stream, "hello")?.ip())
}

mod options {
    nix::setsockopt_impl!(
        TcpFastOpenNoCookie,
        libc::IPPROTO_TCP,
        libc::TCP_FASTOPEN_NO_COOKIE,
        bool,
        nix::sys::socket::sockopt::SetBool
    );

    nix::getsockopt_impl!(
        PeerName,
        libc::SOL_SOCKET,
        libc::SO_PEERNAME,
        libc::sockaddr_in,
        nix::sys::socket::sockopt::GetStruct<libc::sockaddr_in>
    );

    nix::getsockopt_impl!(
        TcpInfo,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        libc::tcp_info,
        nix::sys::socket::sockopt::GetStruct<libc::tcp_info>
    );

    /// `TCP_FASTOPEN_NO_COOKIE`.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct TcpFastOpenNoCookie;

    /// `SO_PEERNAME`, of an IPv4 socket.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct PeerName;

    /// `TCP_INFO`.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct TcpInfo;
}

/// What the kernel tells an application of its connection.
pub fn tcp_info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
    Ok(nix::sys::socket::getsockopt(stream, options::TcpInfo)?)
}

/// Asks the socket option, not getpeername(2), for the other end of an IPv4 connection.
pub fn peer_name(stream: &TcpStream) -> io::Result<SocketAddrV4> {
    let name = nix::sys::socket::getsockopt(stream, options::PeerName)?;
    let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
    Ok(SocketAddrV4::new(ip, u16::from_be(name.sin_port)))
}

/// What the socket sends at once may go along with its SYN: `MSG_FASTOPEN`.
pub fn fast_open_without_cookie(socket: &Socket) -> io::Result<()> {
    Ok(nix::sys::socket::setsockopt(socket, options::TcpFastOpenNoCookie, &true)?)
}

/// connect(2) only remembers where to; the SYN comes with the first bytes.
pub fn fast_open_connect(socket: &Socket) -> io::Result<()> {
    fast_open_without_cookie(socket)?;
    Ok(nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::TcpFastOpenConnect, &true)?)
}
