//! The TCP sockets of the calling thread's network namespace, as sock_diag(7) lists them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

/// A connection, open or on its way to be or to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Its address here.
    pub own: IpAddr,
    /// The other end's.
    pub peer: IpAddr,
    /// `SO_MARK`; none if there is none, or it may not be told.
    pub mark: Option<u32>,
}

/// Calls `each` for every connection of TCP, of IPv4 and IPv6, but those in TIME_WAIT, which no program has any more.
///
/// # Errors
/// The kernel lacks sock_diag(7), or breaks off.
pub fn connections(mut each: impl FnMut(Connection)) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(u8::try_from(family).map_err(io::Error::other)?, &mut each)?;
    }
    Ok(())
}

fn dump(family: u8, each: &mut impl FnMut(Connection)) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
    ask(&socket, family)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = number(body, 0).unwrap_or_default();
                    return Err(io::Error::from_raw_os_error(-code.cast_signed()));
                }
                _ => each(connection(body).ok_or(io::ErrorKind::InvalidData)?),
            }
            rest = next;
        }
    }
}

/// `struct inet_diag_req_v2` in a netlink message.
fn ask(socket: &OwnedFd, family: u8) -> io::Result<()> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).map_err(io::Error::other)?;
    let tcp = u8::try_from(libc::IPPROTO_TCP).map_err(io::Error::other)?;
    let mut asked = Vec::with_capacity(HEADER + REQUEST);
    asked.extend(72_u32.to_ne_bytes());
    asked.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    asked.extend(flags.to_ne_bytes());
    asked.extend([0; 8]); // sequence and port
    asked.extend([family, tcp, 0, 0]);
    asked.extend(STATES.to_ne_bytes());
    asked.resize(HEADER + REQUEST, 0);
    sendto(socket.as_raw_fd(), &asked, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// The first message: its type and body; and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let kind = bytes.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// From `struct inet_diag_msg` and its attributes.
fn connection(body: &[u8]) -> Option<Connection> {
    let address = |at: usize| -> Option<IpAddr> {
        if i32::from(*body.first()?) == libc::AF_INET {
            let octets: [u8; 4] = body.get(at..at + 4)?.try_into().ok()?;
            return Some(Ipv4Addr::from(octets).into());
        }
        let octets: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).to_canonical())
    };
    let (own, peer) = (address(OWN)?, address(PEER)?);
    let mut attributes = body.get(MESSAGE..).unwrap_or_default();
    let mut mark = None;
    while let Some(head) = attributes.get(..4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        if u16::from_ne_bytes([head[2], head[3]]) == INET_DIAG_MARK {
            mark = number(attributes, 4);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Connection { own, peer, mark })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The kernel answers at once; this only bounds a kernel gone wrong.
const TIMEOUT_SECONDS: i64 = 5;
/// The kernel fills what it is given, up to 32 KiB.
const BUFFER: usize = 32 * 1024;

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
const OWN: usize = 8;
const PEER: usize = 24;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_MARK: u16 = 15;
/// A bit for each state, from `enum` in net/tcp_states.h: all but TIME_WAIT (6), CLOSE (7) and LISTEN (10).
const STATES: u32 = 0xffff & !(1 << 6 | 1 << 7 | 1 << 10 | 1);

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_listed_at_both_ends() {
        let listener = TcpListener::bind("127.13.9.77:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut found = 0;
        connections(|one| {
            let address: IpAddr = "127.13.9.77".parse().unwrap();
            found += usize::from(one.own == address) + usize::from(one.peer == address);
        })
        .unwrap();
        assert_eq!(found, 2);
        drop(client);
    }
}
