//! Sockets that show whether the kernel's programs rename the other ends of connections.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// Two sockets, one for each family's program, that are connected to an address which the programs show as another.
#[derive(Debug)]
pub struct Canary {
    v4: Socket,
    /// None where the kernel has no IPv6.
    v6: Option<Socket>,
    shown: IpAddr,
}

/// Datagrams need no one to listen, and none is sent.
const PORT: u16 = 9;

impl Canary {
    /// Connects to `address`, of IPv4 and local to the calling thread's network namespace, which is to be shown as
    /// `shown`.
    ///
    /// # Errors
    /// The kernel refuses a socket, or the address is not local: `lo` is down.
    pub fn new(address: std::net::Ipv4Addr, shown: IpAddr) -> io::Result<Self> {
        let v4 = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
        v4.connect(&SocketAddr::from((address, PORT)).into())?;
        let v6 = match Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            made => {
                let socket = made?;
                socket.set_only_v6(false)?;
                socket.connect(&SocketAddr::from((address.to_ipv6_mapped(), PORT)).into())?;
                Some(socket)
            }
        };
        Ok(Self { v4, v6, shown })
    }

    /// Whether the programs of both families run, at this moment.
    pub fn sings(&self) -> bool {
        let shows = |socket: &Socket| {
            let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
            peer.is_some_and(|peer| peer.ip().to_canonical() == self.shown)
        };
        shows(&self.v4) && self.v6.as_ref().is_none_or(shows)
    }
}
