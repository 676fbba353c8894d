//! Listening on ports of our own, in the network that the process is in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use super::{BACKLOG, tcp};

/// Listens on `address`: on those of both families if that is `[::]`, and where the kernel has no IPv6, on all of IPv4.
///
/// # Errors
/// The address is taken, or none of ours.
///
/// # Panics
/// Outside of a runtime.
pub fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    open(address).or_else(|error| match instead(address, &error) {
        Some(address) => open(address),
        None => Err(error),
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tcp(address)?;
    if address.is_ipv6() {
        // Whatever `net.ipv6.bindv6only` says.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What to listen on instead, where there is no IPv6.
fn instead(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let lacks_family =
        matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL));
    let all = address.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED);
    (all && lacks_family).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let listener = listen_on("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for ip in ["127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            drop(TcpStream::connect((ip, port)).unwrap());
            let (_, client) = listener.accept().await.unwrap();
            assert_eq!(client.ip().to_canonical(), ip);
        }
        let taken = listen_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn one_address_is_that_one() {
        let listener = listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect(("::1", port)).is_err());
    }

    #[test]
    fn without_ipv6_all_of_ipv4_is_listened_on_and_never_less_than_was_asked_for() {
        let error = io::Error::from_raw_os_error;
        let of = |address: &str, code| instead(address.parse().unwrap(), &error(code));
        let all: SocketAddr = "0.0.0.0:15021".parse().unwrap();
        assert_eq!(of("[::]:15021", libc::EAFNOSUPPORT), Some(all));
        assert_eq!(of("[::]:15021", libc::EADDRNOTAVAIL), Some(all));
        assert_eq!(of("[::]:15021", libc::EADDRINUSE), None);
        assert_eq!(of("[::1]:15021", libc::EAFNOSUPPORT), None);
        assert_eq!(of("10.0.0.1:15021", libc::EADDRNOTAVAIL), None);
    }
}
