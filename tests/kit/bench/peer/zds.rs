//! The server's side of ZDS: a ztunnel connects to a SEQPACKET socket, says hello, is given each
//! workload with the descriptor of its network namespace and the end of the list, and acknowledges
//! each before it is given the next. One message a packet; field numbers are those of Istio's API.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen,
    recv, sendmsg, socket,
};
use prost::Message;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::objects::Tasks;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest packet of either side.
const PACKET_BYTES: usize = 1024;

/// A pod to hand over.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) service_account: String,
    /// The pin of its network namespace.
    pub(super) netns: PathBuf,
}

#[derive(Clone, PartialEq, Message)]
struct Hello {
    #[prost(int32, tag = "1")]
    version: i32,
}

/// One of its fields is set.
#[derive(Clone, PartialEq, Message)]
struct ToProxy {
    #[prost(message, optional, tag = "1")]
    add: Option<Add>,
    #[prost(message, optional, tag = "3")]
    all_sent: Option<AllSent>,
}

#[derive(Clone, PartialEq, Message)]
struct Add {
    #[prost(string, tag = "1")]
    uid: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    service_account: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct AllSent {}

#[derive(Clone, PartialEq, Message)]
struct FromProxy {
    #[prost(message, optional, tag = "1")]
    ack: Option<Ack>,
}

#[derive(Clone, PartialEq, Message)]
struct Ack {
    /// Empty if all is well.
    #[prost(string, tag = "1")]
    error: String,
}

/// Gives `workloads` to every ztunnel that connects, one after the other, until the cluster ends.
///
/// # Errors
/// The socket cannot be made.
pub(super) fn serve(path: &Path, workloads: Vec<Workload>, tasks: &Tasks) -> Result<()> {
    let listener = open(path).with_context(|| format!("listen on {}", path.display()))?;
    tasks.spawn(async move {
        loop {
            let served = match listener.accept().await {
                Ok((stream, _)) => give(&stream, &workloads).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = served {
                tracing::warn!("give workloads to the peer: {error:#}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    Ok(())
}

fn open(path: &Path) -> Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(made.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&made, Backlog::new(8)?)?;
    Ok(UnixListener::from_std(net::UnixListener::from(made))?)
}

/// The whole conversation, up to the moment the other side leaves.
async fn give(stream: &UnixStream, workloads: &[Workload]) -> Result<()> {
    let hello = Hello::decode(&*receive(stream).await?).context("read its hello")?;
    if hello.version != 1 {
        bail!("version {} is not known", hello.version);
    }
    for workload in workloads {
        let netns = File::open(&workload.netns).context("open a pod's network namespace")?;
        let message = ToProxy { add: Some(workload.message()), all_sent: None };
        exchange(stream, &message, &[netns.as_fd().as_raw_fd()])
            .await
            .with_context(|| format!("hand over {}", workload.name))?;
    }
    let end = ToProxy { add: None, all_sent: Some(AllSent {}) };
    exchange(stream, &end, &[]).await.context("end the list")?;
    // It says nothing more: what comes is its end.
    let more = packet(stream).await.context("wait for its end")?;
    if more.is_empty() { Ok(()) } else { bail!("it says something after the list") }
}

impl Workload {
    fn message(&self) -> Add {
        let info = Info {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        };
        Add { uid: self.uid.clone(), info: Some(info) }
    }
}

/// Sends a message and waits until it is acknowledged.
async fn exchange(stream: &UnixStream, message: &ToProxy, descriptors: &[RawFd]) -> Result<()> {
    let packet = message.encode_to_vec();
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights };
    let send = || {
        let parts = [IoSlice::new(&packet)];
        sendmsg::<()>(stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(std::io::Error::from)
    };
    let sent = stream.async_io(Interest::WRITABLE, send);
    tokio::time::timeout(PATIENCE, sent).await.context("it does not read")??;
    let answer = FromProxy::decode(&*receive(stream).await?).context("read its answer")?;
    match answer.ack {
        Some(Ack { error }) if error.is_empty() => Ok(()),
        Some(Ack { error }) => bail!("it refuses: {error}"),
        None => bail!("it answers something else"),
    }
}

async fn receive(stream: &UnixStream) -> Result<Vec<u8>> {
    let received = tokio::time::timeout(PATIENCE, packet(stream)).await;
    let received = received.context("it does not answer")??;
    if received.is_empty() {
        bail!("it left");
    }
    Ok(received)
}

/// The next packet; empty at the end.
async fn packet(stream: &UnixStream) -> std::io::Result<Vec<u8>> {
    let mut packet = vec![0; PACKET_BYTES];
    let read =
        || recv(stream.as_raw_fd(), &mut packet, MsgFlags::empty()).map_err(std::io::Error::from);
    let count = stream.async_io(Interest::READABLE, read).await?;
    packet.truncate(count);
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use nix::cmsg_space;
    use nix::sys::socket::{ControlMessageOwned, connect, recvmsg, send};
    use std::io::IoSliceMut;
    use std::os::fd::OwnedFd;

    use super::*;

    /// Plays a ztunnel: what it was given, as (bytes, descriptors) of each packet.
    fn play(path: &Path, acks: &[&str]) -> Vec<(Vec<u8>, usize)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let proxy: OwnedFd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        let proxy = proxy.as_raw_fd();
        connect(proxy, &UnixAddr::new(path).unwrap()).unwrap();
        send(proxy, &[8, 1], MsgFlags::empty()).unwrap();
        let mut given = Vec::new();
        for ack in acks {
            let (mut packet, mut space) = (vec![0; PACKET_BYTES], cmsg_space!(RawFd));
            let mut parts = [IoSliceMut::new(&mut packet)];
            let got =
                recvmsg::<()>(proxy, &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
            let count = got.bytes;
            let descriptors = got.cmsgs().unwrap().map(|one| match one {
                ControlMessageOwned::ScmRights(all) => all.len(),
                _ => 0,
            });
            let descriptors = descriptors.sum();
            packet.truncate(count);
            given.push((packet, descriptors));
            let ack = FromProxy { ack: Some(Ack { error: (*ack).to_owned() }) };
            send(proxy, &ack.encode_to_vec(), MsgFlags::empty()).unwrap();
        }
        given
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_proxy_is_given_each_pod_with_its_namespace_then_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (path, tasks) = (dir.path().join("zds.sock"), Tasks::default());
        let workload = Workload {
            uid: String::from("u"),
            name: String::from("n"),
            namespace: String::from("s"),
            service_account: String::from("a"),
            netns: PathBuf::from("/proc/self/ns/net"),
        };
        serve(&path, vec![workload], &tasks).unwrap();
        // A second one, after the first has left, is given the same.
        for _ in 0..2 {
            let path = path.clone();
            let given = tokio::task::spawn_blocking(move || play(&path, &["", ""])).await.unwrap();
            let add = [10, 14, 10, 1, b'u', 18, 9, 10, 1, b'n', 18, 1, b's', 26, 1, b'a'];
            assert_eq!(given, [(add.to_vec(), 1), (vec![26, 0], 0)]);
        }
        tasks.stop.cancel();
    }
}
