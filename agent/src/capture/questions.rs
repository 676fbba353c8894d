//! What a pod asks of resolvers in datagrams: taken from it in their place, and answered as them.
//!
//! A question that a pod sends to port 53 of whatever address is addressed to a stand-in of that instead, at the port of
//! HBONE, where the agent's one socket of the family takes it. The answer comes from the stand-in, and the pod is shown
//! that it comes from whom it asked.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use sotto_abi::{DNS_PORT, Prefixes};
use tokio::io::Interest;

use super::PodCapture;
use super::places::{ListenError, at_some_place, is_family_absent};
use crate::sys::socket;

/// A pod's sockets for questions: one for each family that it has.
#[derive(Debug)]
pub struct Questions {
    /// Of IPv4: there in any case.
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    cookie: u64,
}

/// One of them, watched by a runtime.
#[derive(Debug)]
pub struct QuestionSocket {
    socket: tokio::net::UdpSocket,
    pod: Arc<PodCapture>,
    cookie: u64,
}

/// Who asks whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Bytes of it, at the start of the buffer.
    pub length: usize,
    client: SocketAddr,
    stand_in: IpAddr,
    /// The resolver that the pod asks.
    pub resolver: SocketAddr,
}

impl Question {
    /// Of so many bytes, from a client to a stand-in, which is a resolver's.
    pub fn new(
        length: usize,
        (client, stand_in): (SocketAddr, IpAddr),
        resolver: SocketAddr,
    ) -> Self {
        Self { length, client, stand_in, resolver }
    }
}

impl Questions {
    /// Takes questions in the pod's network namespace. IPv6 may be absent.
    pub(super) fn bind(
        pod: &PodCapture,
        prefixes: &Prefixes,
        cookie: u64,
    ) -> Result<Self, ListenError> {
        let bind = || {
            let v4 = at_some_place(prefixes, true, socket::bind_datagrams)?;
            let v6 = match at_some_place(prefixes, false, socket::bind_datagrams) {
                Err(ListenError::Listen { source, .. }) if is_family_absent(&source) => None,
                bound => Some(bound?),
            };
            Ok(Self { v4, v6, cookie })
        };
        pod.netns.enter(bind).map_err(ListenError::Enter)?
    }

    /// Each socket, and whether it is of IPv6.
    pub(super) fn all(&self) -> impl Iterator<Item = (&UdpSocket, bool)> {
        std::iter::once((&self.v4, false)).chain(self.v6.iter().map(|socket| (socket, true)))
    }

    /// One whose life tells that the agent's lasts.
    pub(super) fn token(&self) -> &UdpSocket {
        &self.v4
    }

    /// Has the calling thread's runtime watch them.
    ///
    /// # Errors
    /// It cannot.
    pub fn watch(self, pod: &Arc<PodCapture>) -> io::Result<Vec<QuestionSocket>> {
        let cookie = self.cookie;
        let sockets = std::iter::once(self.v4).chain(self.v6);
        let watch = |socket| {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            Ok(QuestionSocket { socket, pod: Arc::clone(pod), cookie })
        };
        sockets.map(watch).collect()
    }
}

impl QuestionSocket {
    /// Waits until there may be a question.
    ///
    /// # Errors
    /// The runtime is at its end.
    ///
    /// # Cancel safety
    /// Nothing is taken.
    pub async fn ready(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes a question; none for what is none, which is lost.
    ///
    /// # Errors
    /// There is none at this moment, or the socket has an error.
    pub fn take(&self, buffer: &mut [u8]) -> io::Result<Option<Question>> {
        let receive = || socket::receive(&self.socket, buffer);
        let Some(datagram) = self.socket.try_io(Interest::READABLE, receive)? else {
            return Ok(None);
        };
        let socket::Datagram { length, from: client, to: stand_in } = datagram;
        let resolver = self.pod.stand_ins.resolver(self.cookie, stand_in);
        Ok(resolver.map(|resolver| {
            let resolver = SocketAddr::new(resolver, DNS_PORT);
            Question::new(length, (client, stand_in), resolver)
        }))
    }

    /// Answers a question in the resolver's place. Who asks faster than it takes answers does without some.
    ///
    /// # Errors
    /// The kernel does not take the answer.
    pub fn answer(&self, question: &Question, bytes: &[u8]) -> io::Result<()> {
        socket::send(&self.socket, bytes, question.stand_in, question.client)
    }
}
