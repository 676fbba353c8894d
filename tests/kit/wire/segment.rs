//! A TCP segment in an Ethernet frame, IPv4 or IPv6. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A TCP segment as seen on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Sequence number of its first payload byte (of the SYN, if it is one).
    pub sequence: u32,
    /// It opens a connection (SYN without ACK).
    pub opens: bool,
    /// It has SYN set.
    pub syn: bool,
    /// It has RST set.
    pub reset: bool,
    /// What the TCP connection carries.
    pub payload: Vec<u8>,
}

/// The TCP segment in an Ethernet frame, if it holds one, whole.
pub fn parse(frame: &[u8]) -> Option<Segment> {
    let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let packet = frame.get(14..)?;
    match kind {
        0x0800 => parse_ipv4(packet),
        0x86dd => parse_ipv6(packet),
        _ => None,
    }
}

fn parse_ipv4(packet: &[u8]) -> Option<Segment> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    if *packet.get(9)? != 6 {
        return None;
    }
    let source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    let destination = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
    // A frame handed over before segmentation may be larger than the field can say: 0 then.
    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
    parse_tcp(packet.get(header..end)?, source.into(), destination.into())
}

fn parse_ipv6(packet: &[u8]) -> Option<Segment> {
    // No extension headers: nothing here sends them with TCP.
    if *packet.get(6)? != 6 {
        return None;
    }
    let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
    let destination = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?);
    let end = if length == 0 { packet.len() } else { (40 + length).min(packet.len()) };
    parse_tcp(packet.get(40..end)?, source.into(), destination.into())
}

fn parse_tcp(tcp: &[u8], source: IpAddr, destination: IpAddr) -> Option<Segment> {
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let flags = *tcp.get(13)?;
    let header = usize::from(*tcp.get(12)? >> 4) * 4;
    let (syn, ack, reset) = (flags & 0x02 != 0, flags & 0x10 != 0, flags & 0x04 != 0);
    Some(Segment {
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
        sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        opens: syn && !ack,
        syn,
        reset,
        payload: tcp.get(header..)?.to_vec(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame with an IPv4 TCP segment.
    pub(crate) fn frame(
        source: &str,
        destination: &str,
        seq: u32,
        flags: u8,
        data: &[u8],
    ) -> Vec<u8> {
        let (source, destination): (SocketAddr, SocketAddr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), destination.ip()) else { panic!() };
        let total = u16::try_from(40 + data.len()).unwrap();
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(from.octets());
        frame.extend(to.octets());
        frame.extend(source.port().to_be_bytes());
        frame.extend(destination.port().to_be_bytes());
        frame.extend(seq.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.extend(data);
        frame
    }

    #[test]
    fn an_ipv4_segment_is_read_and_ethernet_padding_left_out() {
        let mut bytes = frame("10.0.0.1:1000", "10.0.0.2:80", 7, 0x18, b"hi");
        bytes.extend([0; 8]);
        let segment = parse(&bytes).unwrap();
        assert_eq!(segment.payload, b"hi");
        assert_eq!(segment.destination, "10.0.0.2:80".parse().unwrap());
        assert_eq!((segment.sequence, segment.opens), (7, false));
    }

    #[test]
    fn a_frame_cut_anywhere_is_no_segment_and_no_panic() {
        let bytes = frame("10.0.0.1:1000", "10.0.0.2:80", 7, 0x02, b"");
        assert!(parse(&bytes).unwrap().opens);
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), None, "{length}");
        }
    }
}
