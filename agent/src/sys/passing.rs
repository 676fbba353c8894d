//! Messages with descriptors (unix(7), `SCM_RIGHTS`), between two processes of one node's root.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the message, big endian |
//! | 4 | length of the secret |
//! | 4 | how many descriptors: the first of them come with these bytes |
//! | 1 for each further [`AT_ONCE`] descriptors | nothing: what carries them |
//! | | the message |
//! | | the secret, wiped where it is dropped |

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zeroize::Zeroizing;

/// Descriptors that go with one byte; the kernel takes 253 (`SCM_MAX_FD`).
const AT_ONCE: usize = 200;
const HEAD: usize = 12;
/// The longest message, in bytes, and the longest secret.
const MAX_MESSAGE: usize = 256 << 20;
const MAX_SECRET: usize = 64 << 10;
/// Descriptors of one message.
const MAX_DESCRIPTORS: usize = 16 << 10;

/// A message and what came with it.
#[derive(Debug)]
pub struct Passed {
    /// The message.
    pub message: Vec<u8>,
    /// Nobody else is to have it.
    pub secret: Zeroizing<Vec<u8>>,
    /// In the order they were sent.
    pub descriptors: Vec<OwnedFd>,
}

/// A connection on which messages are passed; its calls block.
#[derive(Debug)]
pub struct Passing {
    stream: UnixStream,
    patience: Duration,
}

impl Passing {
    /// Waits so long at most for the other to take some bytes, or to go on with what it has begun to send.
    ///
    /// # Errors
    /// The kernel refuses, or the other end is not root's.
    pub fn new(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
        if peer.uid() != 0 {
            let error = format!("the other end is of user {}, not of root", peer.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
        }
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, patience })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// It is too large, or the other end is gone, or takes nothing for too long.
    pub fn send(
        &mut self,
        message: &[u8],
        secret: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        if message.len() > MAX_MESSAGE
            || secret.len() > MAX_SECRET
            || descriptors.len() > MAX_DESCRIPTORS
        {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too large to be passed"));
        }
        let mut head = [0; HEAD];
        let lengths = [message.len(), secret.len(), descriptors.len()];
        for (field, length) in head.chunks_exact_mut(4).zip(lengths) {
            field.copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        }
        let mut parts = descriptors.chunks(AT_ONCE);
        self.send_with(&head, parts.next().unwrap_or_default())?;
        for part in parts {
            self.send_with(&[0], part)?;
        }
        self.stream.write_all(message)?;
        self.stream.write_all(secret)
    }

    /// The next message, that may begin when it likes; none if the other end has closed.
    ///
    /// # Errors
    /// It is none, or cut off.
    pub fn wait(&mut self) -> io::Result<Option<Passed>> {
        self.stream.set_read_timeout(None)?;
        self.receive()
    }

    /// The message that is expected.
    ///
    /// # Errors
    /// It is none, or cut off, or does not come, or the other end has closed.
    pub fn answer(&mut self) -> io::Result<Passed> {
        self.stream.set_read_timeout(Some(self.patience))?;
        self.receive()?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn receive(&mut self) -> io::Result<Option<Passed>> {
        let (mut head, mut descriptors) = ([0; HEAD], Vec::new());
        if !self.receive_with(&mut head, &mut descriptors)? {
            return Ok(None);
        }
        let [message, secret, count] = [0, 4, 8].map(|at| {
            let field = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            usize::try_from(u32::from_be_bytes(field)).unwrap_or(usize::MAX)
        });
        self.stream.set_read_timeout(Some(self.patience))?;
        if message > MAX_MESSAGE || secret > MAX_SECRET || count > MAX_DESCRIPTORS {
            return Err(invalid("a message larger than any"));
        }
        for _ in 1..count.div_ceil(AT_ONCE) {
            if !self.receive_with(&mut [0], &mut descriptors)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if descriptors.len() != count {
            return Err(invalid("other descriptors than told"));
        }
        let (mut message, mut secret) = (vec![0; message], Zeroizing::new(vec![0; secret]));
        self.stream.read_exact(&mut message)?;
        self.stream.read_exact(&mut secret)?;
        Ok(Some(Passed { message, secret, descriptors }))
    }

    fn send_with(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            debug_assert!(fits, "there is room for so many");
        }
        let sent =
            sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        self.stream.write_all(&bytes[sent..])
    }

    /// Fills `bytes`; false if the other end has closed before the first.
    fn receive_with(
        &mut self,
        bytes: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(bytes)];
        let received = recvmsg(&self.stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        if received.bytes == 0 {
            return Ok(false);
        }
        self.stream.read_exact(&mut bytes[received.bytes..])?;
        Ok(true)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;

    fn pair() -> (Passing, Passing) {
        let (one, other) = UnixStream::pair().unwrap();
        let patience = Duration::from_secs(5);
        (Passing::new(one, patience).unwrap(), Passing::new(other, patience).unwrap())
    }

    #[test]
    fn messages_come_whole_with_any_number_of_descriptors_in_their_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for count in [0, 1, 200, 201, 450] {
            let (mut one, mut other) = pair();
            let (near, far): (Vec<_>, Vec<_>) = (0..count)
                .map(|_| {
                    let near = TcpStream::connect(address).unwrap();
                    (near, listener.accept().unwrap().0)
                })
                .unzip();
            let message: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
            let sent = message.clone();
            let sender = std::thread::spawn(move || {
                let descriptors: Vec<_> = near.iter().map(|socket| socket.as_fd()).collect();
                one.send(&sent, b"secret", &descriptors).unwrap();
                one.send(b"", b"", &[]).unwrap();
            });
            let passed = other.wait().unwrap().unwrap();
            assert!(passed.message == message && *passed.secret == *b"secret");
            assert_eq!(passed.descriptors.len(), count);
            for (index, (passed, mut far)) in passed.descriptors.into_iter().zip(far).enumerate() {
                let name = index.to_string();
                TcpStream::from(passed).write_all(name.as_bytes()).unwrap();
                let mut said = vec![0; name.len()];
                far.read_exact(&mut said).unwrap();
                assert_eq!(said, name.as_bytes());
            }
            assert_eq!(other.wait().unwrap().unwrap().message, b"");
            sender.join().unwrap();
            assert!(other.wait().unwrap().is_none());
        }
    }

    #[test]
    fn what_is_cut_off_or_larger_than_any_is_refused() {
        for (bytes, kind) in [
            (&[0; 5][..], io::ErrorKind::UnexpectedEof),
            (&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], io::ErrorKind::UnexpectedEof),
            (&[255; 12][..], io::ErrorKind::InvalidData),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], io::ErrorKind::InvalidData),
        ] {
            let (mut one, mut other) = pair();
            one.stream.write_all(bytes).unwrap();
            drop(one);
            assert_eq!(other.wait().unwrap_err().kind(), kind, "{bytes:?}");
        }
    }
}
