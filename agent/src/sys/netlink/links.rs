//! Which devices a network namespace has.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, NetlinkAddr, recv, sendto};

use super::{HEADER_BYTES, Netlink, acknowledgement, attribute};

impl Netlink {
    /// The name of a bridge of the namespace, if it has one. Ends this socket, as the rest of the answer is not read.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn bridge(self) -> io::Result<Option<String>> {
        sendto(self.socket.as_raw_fd(), &bridges(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = vec![0; ANSWER_BYTES];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        first(answer.get(..length).unwrap_or_default())
    }
}

/// `ip link show type bridge`.
fn bridges() -> Vec<u8> {
    let mut kind = Vec::new();
    attribute(&mut kind, IFLA_INFO_KIND, b"bridge");
    let mut body = vec![0; IFINFO_BYTES];
    attribute(&mut body, IFLA_LINKINFO, &kind);
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(RTM_GETLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend([0; 8]); // sequence and port
    message.extend(body);
    message
}

/// The name in the first message, if that is of a device.
fn first(message: &[u8]) -> io::Result<Option<String>> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).ok_or_else(short)?;
    match u16::from_ne_bytes(kind) {
        NLMSG_DONE => Ok(None),
        NLMSG_ERROR => acknowledgement(message).map(|()| None),
        RTM_NEWLINK => {
            let attributes = message.get(HEADER_BYTES + IFINFO_BYTES..).ok_or_else(short)?;
            Ok(Some(name(attributes).unwrap_or_else(|| String::from("of no name"))))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The attribute with the name.
fn name(mut attributes: &[u8]) -> Option<String> {
    while let Some((head, _)) = attributes.split_first_chunk::<4>() {
        let [length, kind] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_ne_bytes);
        let length = usize::from(length).max(head.len());
        let payload = attributes.get(head.len()..length)?;
        if kind == IFLA_IFNAME {
            let text = payload.split(|byte| *byte == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// What the kernel gives to one read of a dump at most.
const ANSWER_BYTES: usize = 32 * 1024;
/// `sizeof(struct ifinfomsg)`.
const IFINFO_BYTES: usize = 16;
// linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
// linux/rtnetlink.h, linux/if_link.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER_BYTES + IFINFO_BYTES];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.extend(attributes);
        message
    }

    #[test]
    fn the_name_of_the_first_device_is_read() {
        let mut attributes = Vec::new();
        attribute(&mut attributes, 13, &[0; 5]);
        attribute(&mut attributes, IFLA_IFNAME, b"docker0\0");
        let found = first(&answer(RTM_NEWLINK, &attributes)).unwrap();
        assert_eq!(found.as_deref(), Some("docker0"));
        assert_eq!(first(&answer(NLMSG_DONE, &[])).unwrap(), None);
        assert!(first(&[0; 3]).is_err());
        assert!(first(&answer(99, &[])).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes: Vec<u8>) {
            drop(first(&bytes));
            drop(first(&answer(RTM_NEWLINK, &bytes)));
        }
    }
}
