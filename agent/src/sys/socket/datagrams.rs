//! UDP sockets for questions for names: one that takes what is addressed to many addresses and answers from each, and
//! ones that ask a resolver.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, RcvBuf, RcvBufForce};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::let_bind_anything;

/// What the kernel keeps of what comes faster than it is answered, in bytes; with what it needs itself, twice that.
const WAITING: usize = 1 << 20;

/// A datagram that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes of it, at the start of the buffer.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was addressed to.
    pub to: IpAddr,
}

/// A non-blocking socket in the calling thread's network namespace, which is told where datagrams were addressed to.
///
/// # Errors
/// The address is taken or of a family that this kernel lacks, or an option is not permitted.
pub fn bind_datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp(address)?;
    // Beyond `net.core.rmem_max` for whoever administrates the namespace.
    let forced = setsockopt(&socket.as_fd(), RcvBufForce, &WAITING);
    forced.or_else(|_| setsockopt(&socket.as_fd(), RcvBuf, &WAITING))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        // Also for the addresses that answers come from.
        let_bind_anything(&socket)?;
        setsockopt(&socket.as_fd(), Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket.as_fd(), Ipv4PacketInfo, &true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A non-blocking socket in the calling thread's network namespace, on a port of its own, that hears from `peer` alone.
///
/// # Errors
/// There is no way there, or no port or descriptor is left.
pub fn connect_datagrams(peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = udp(peer)?;
    socket.connect(&peer.into())?;
    Ok(socket.into())
}

fn udp(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))
}

/// Takes a datagram from a socket of [`bind_datagrams`]. One that is longer than the buffer is lost: none if so.
///
/// # Errors
/// There is none, or the socket has an error.
pub fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    if received.flags.contains(MsgFlags::MSG_TRUNC) {
        return Ok(None);
    }
    let to = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
        }
        _ => None,
    });
    let from = received.address.as_ref().and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into())))
    });
    let length = received.bytes;
    Ok(from.zip(to).map(|(from, to)| Datagram { length, from, to }))
}

/// Sends a datagram from a socket of [`bind_datagrams`], as the address `from`.
///
/// # Errors
/// The address is not local, there is no way there, or the socket has no room at this moment.
pub fn send(socket: &impl AsRawFd, bytes: &[u8], from: IpAddr, to: SocketAddr) -> io::Result<()> {
    let parts = [IoSlice::new(bytes)];
    let to = SockaddrStorage::from(to);
    let flags = MsgFlags::MSG_DONTWAIT;
    match from {
        IpAddr::V4(from) => {
            let address = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let none = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: none };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(socket.as_raw_fd(), &parts, &control, flags, Some(&to))?;
        }
        IpAddr::V6(from) => {
            let address = libc::in6_addr { s6_addr: from.octets() };
            let info = libc::in6_pktinfo { ipi6_ifindex: 0, ipi6_addr: address };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(socket.as_raw_fd(), &parts, &control, flags, Some(&to))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn answers_come_from_where_the_question_went() {
        for (bound, other) in [("127.13.9.78:0", "127.13.9.78"), ("[::1]:0", "::1")] {
            let server = bind_datagrams(bound.parse().unwrap()).unwrap();
            let at = SocketAddr::new(other.parse().unwrap(), server.local_addr().unwrap().port());
            let client = connect_datagrams(at).unwrap();
            client.set_nonblocking(false).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.send(b"question").unwrap();
            let mut buffer = [0; 64];
            let came = receive(&server, &mut buffer).unwrap().unwrap();
            let from = client.local_addr().unwrap();
            assert_eq!(came, Datagram { length: 8, from, to: at.ip() });
            send(&server, b"answer", came.to, came.from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        }
    }

    #[test]
    fn what_is_longer_than_the_buffer_is_lost() {
        let server = bind_datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = connect_datagrams(server.local_addr().unwrap()).unwrap();
        client.send(&[7; 65]).unwrap();
        assert_eq!(receive(&server, &mut [0; 64]).unwrap(), None);
        let empty = receive(&server, &mut [0; 64]).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    }
}
