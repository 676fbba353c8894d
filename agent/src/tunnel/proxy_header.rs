//! The header that tells an application behind a tunnel who called whom, in front of the bytes: the PROXY protocol,
//! version 2 (haproxy's `doc/proxy-protocol.txt`, 2.2), with what Istio's `ApplicationTunnel` adds to it.

use std::net::{IpAddr, SocketAddr};

use crate::mesh::SpiffeId;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, of a connection that is relayed.
const RELAYED: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// The SPIFFE identity of the source (Istio's `workload.proto`).
const IDENTITY: u8 = 0xd0;
/// The hostname of the service that is meant (there too).
const SERVICE: u8 = 0xd1;

/// Who called whom.
#[derive(Debug, Clone, Copy)]
pub struct ProxyHeader<'a> {
    /// The client's address; port 0 if that is not known.
    pub client: SocketAddr,
    /// What it asked for.
    pub destination: SocketAddr,
    /// What it has proved to be.
    pub identity: Option<&'a SpiffeId>,
    /// The service's hostname, if it asked for one.
    pub service: Option<&'a str>,
}

impl ProxyHeader<'_> {
    /// The bytes that go before all others.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (family, mut rest) = self.addresses();
        let identity = self.identity.map(ToString::to_string);
        for (kind, value) in [(IDENTITY, identity.as_deref()), (SERVICE, self.service)] {
            if let Some(value) = value {
                append(&mut rest, kind, value.as_bytes());
            }
        }
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([RELAYED, family]);
        // As much as `append` lets grow.
        bytes.extend(u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.append(&mut rest);
        bytes
    }

    /// Both are of one family: a client of IPv4 may have asked for an address of IPv6, or the other way round.
    fn addresses(&self) -> (u8, Vec<u8>) {
        let Self { client, destination, .. } = self;
        let ports = [client.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
        let (client, destination) = (client.ip().to_canonical(), destination.ip().to_canonical());
        match (client, destination) {
            (IpAddr::V4(client), IpAddr::V4(destination)) => {
                let ips = [client.octets(), destination.octets()].concat();
                (TCP_OVER_IPV4, [ips, ports].concat())
            }
            (client, destination) => {
                let ips = [client, destination].map(|ip| match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                });
                (TCP_OVER_IPV6, [ips.concat(), ports].concat())
            }
        }
    }
}

/// Adds a value to what is told, if there is room for it: all of it has less than 64 KiB.
fn append(rest: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    if rest.len() + 3 + value.len() > usize::from(u16::MAX) {
        return;
    }
    rest.push(kind);
    rest.extend(length.to_be_bytes());
    rest.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(client: &str, destination: &str, expected: &[u8]) {
        let (client, destination) = (client.parse().unwrap(), destination.parse().unwrap());
        let header = ProxyHeader { client, destination, identity: None, service: None };
        assert_eq!(header.to_bytes(), [&SIGNATURE[..], expected].concat(), "{header:?}");
    }

    #[test]
    fn addresses_are_told_as_the_protocol_says() {
        check(
            "10.1.0.2:40000",
            "10.96.0.7:80",
            b"\x21\x11\0\x0c\x0a\x01\0\x02\x0a\x60\0\x07\x9c\x40\0\x50",
        );
        let mut expected = b"\x21\x21\0\x24".to_vec();
        expected.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        expected.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        expected.extend([0, 0, 0, 80]);
        check("[2001:db8::2]:0", "[2001:db8::7]:80", &expected);
    }

    #[test]
    fn addresses_of_two_families_are_told_as_of_ipv6() {
        let mut expected = b"\x21\x21\0\x24".to_vec();
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 0, 2]);
        expected.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        expected.extend([0x9c, 0x40, 0, 80]);
        check("10.1.0.2:40000", "[2001:db8::7]:80", &expected);
    }

    #[test]
    fn identity_and_service_follow() {
        let identity: SpiffeId = "spiffe://cluster.local/ns/front/sa/client".parse().unwrap();
        let header = ProxyHeader {
            client: "10.1.0.2:1".parse().unwrap(),
            destination: "10.96.0.7:80".parse().unwrap(),
            identity: Some(&identity),
            service: Some("web.back"),
        };
        let bytes = header.to_bytes();
        let expected =
            [&b"\xd0\0\x29spiffe://cluster.local/ns/front/sa/client"[..], b"\xd1\0\x08web.back"]
                .concat();
        assert_eq!(bytes[28..], expected);
        assert_eq!(bytes[14..16], u16::try_from(12 + expected.len()).unwrap().to_be_bytes());
    }

    #[test]
    fn what_is_too_long_is_not_told() {
        let long = "x".repeat(65_530);
        let header = ProxyHeader {
            client: "10.1.0.2:1".parse().unwrap(),
            destination: "10.96.0.7:80".parse().unwrap(),
            identity: None,
            service: Some(&long),
        };
        assert_eq!(header.to_bytes().len(), 28);
    }
}
