//! An app inside a pod that notes when bytes sent in the clear reached its socket.
//!
//! The time is the kernel's, of the segment's arrival: a server that is scheduled late still tells
//! a byte that was let in before a change of policy from one that was let in after it.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kit::netns;
use kit::node::RunningPod;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, cmsg_space, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use nix::sys::time::TimeSpec;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

/// Where it listens, in whichever pod.
pub(crate) const RECORDER: u16 = 7100;
/// What plaintext clients send, and nobody else.
pub(crate) const CLEAR: u8 = b'p';
/// No answer takes longer that comes at all.
const PATIENCE: Duration = Duration::from_secs(15);

/// A span of time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
}

/// The app: echoes everything, and notes the arrival of every [`CLEAR`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<SystemTime>>>);

impl Recorder {
    /// Serves in a pod until the test's runtime ends.
    pub(crate) fn start(pod: &RunningPod) -> Self {
        let name = pod.netns.file_name().unwrap().to_str().unwrap();
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, RECORDER));
        let listener = netns::within(name, bind).unwrap().unwrap();
        // What it accepts inherits it.
        setsockopt(&listener, ReceiveTimestampns, &true).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let recorder = Self::default();
        let of_task = recorder.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let recorder = of_task.clone();
                tokio::spawn(async move {
                    // A reset is how most of these connections end.
                    let ended = recorder.serve(stream).await;
                    tracing::trace!(?ended, "recorded");
                });
            }
        });
        recorder
    }

    /// When each byte came so far.
    pub(crate) fn arrivals(&self) -> Vec<SystemTime> {
        self.0.lock().clone()
    }

    /// How many came within any of these spans.
    pub(crate) fn within(&self, spans: &[Span]) -> usize {
        let held = |at: &&SystemTime| spans.iter().any(|span| span.from <= **at && **at < span.to);
        self.0.lock().iter().filter(held).count()
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = [0; 1024];
        loop {
            stream.readable().await?;
            let received = stream.try_io(Interest::READABLE, || receive(&stream, &mut buffer));
            let (count, at) = match received {
                Ok((0, _)) => return Ok(()),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            let clear = buffer[..count].iter().filter(|byte| **byte == CLEAR).count();
            // The kernel begins to tell a moment after it is first asked to.
            let at = at.unwrap_or_else(SystemTime::now);
            self.0.lock().extend(std::iter::repeat_n(at, clear));
            stream.write_all(&buffer[..count]).await?;
        }
    }
}

/// Bytes, and when the last of them arrived.
fn receive(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<(usize, Option<SystemTime>)> {
    let mut control = vec![0; cmsg_space::<TimeSpec>()];
    let mut parts = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let at = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(at) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from(at))
        }
        _ => None,
    });
    Ok((received.bytes, at))
}

/// What became of a connection in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The byte came back.
    Served,
    /// It ended without.
    Refused,
}

/// One byte on a connection; whether it came back.
pub(crate) async fn exchange(stream: &mut TcpStream) -> Fate {
    let there_and_back = async {
        stream.write_all(&[CLEAR]).await?;
        stream.read_u8().await
    };
    match tokio::time::timeout(PATIENCE, there_and_back).await {
        Ok(Ok(_)) => Fate::Served,
        Ok(Err(_)) | Err(_) => Fate::Refused,
    }
}

/// A new connection from the namespace of the calling thread, and one byte on it.
pub(crate) async fn knock(to: SocketAddr) -> (Fate, Option<TcpStream>) {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await {
        Ok(Ok(mut stream)) => (exchange(&mut stream).await, Some(stream)),
        Ok(Err(_)) | Err(_) => (Fate::Refused, None),
    }
}
