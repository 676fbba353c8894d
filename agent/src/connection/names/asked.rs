//! Resolvers, asked as the pod: each question has a socket to itself, which asks again for a moment, as opening one costs more
//! than a question.
//!
//! Who is to guess an answer must guess the port as well (RFC 5452, 9.2), and has [`LIFE`] to find one out. What comes to
//! a socket that has asked nothing ends it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::BUFFER;
use crate::connection::quota::Place;
use crate::dns;
use crate::sys::{Netns, socket};

/// How long a socket asks.
pub(super) const LIFE: Duration = Duration::from_secs(1);
/// Sockets that wait for the next question. Each has a place of its own: see [`super::super::Quota`].
const IDLE: usize = 128;

/// A socket to a resolver.
#[derive(Debug)]
struct Way {
    socket: UdpSocket,
    resolver: SocketAddr,
    /// When it was opened.
    begun: Instant,
    _place: Place,
}

/// Those of a pod that wait for the next question; the oldest first.
#[derive(Debug, Default)]
pub(super) struct Ways(RefCell<VecDeque<Way>>);

impl Ways {
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Closes those that have lived.
    pub(super) fn close_old(&self) {
        self.0.borrow_mut().retain(Way::lives);
    }

    /// Asks a resolver as the pod, on a port that nobody else knows. Whoever waits gives it up by dropping this.
    ///
    /// # Errors
    /// The resolver cannot be asked.
    pub(super) async fn ask(
        &self,
        netns: &Netns,
        resolver: SocketAddr,
        question: &[u8],
        place: Place,
    ) -> io::Result<Vec<u8>> {
        let way = match self.take(resolver) {
            Some(way) => way,
            None => Way::open(netns, resolver, place)?,
        };
        let answer = way.ask(question).await?;
        let mut idle = self.0.borrow_mut();
        if way.lives() && idle.len() < IDLE {
            idle.push_back(way);
        }
        Ok(answer)
    }

    fn take(&self, resolver: SocketAddr) -> Option<Way> {
        let mut idle = self.0.borrow_mut();
        while idle.front().is_some_and(|way| !way.lives()) {
            idle.pop_front();
        }
        while let Some(at) = idle.iter().position(|way| way.resolver == resolver) {
            let way = idle.remove(at)?;
            if way.is_silent() {
                return Some(way);
            }
        }
        None
    }
}

impl Way {
    fn open(netns: &Netns, resolver: SocketAddr, place: Place) -> io::Result<Self> {
        let socket = netns.enter(|| socket::connect_datagrams(resolver))??;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self { socket, resolver, begun: Instant::now(), _place: place })
    }

    fn lives(&self) -> bool {
        self.begun.elapsed() < LIFE
    }

    /// Nothing has come that nobody asked for: a second answer, or somebody's guess.
    fn is_silent(&self) -> bool {
        let received = BUFFER.with_borrow_mut(|buffer| self.socket.try_recv(buffer));
        received.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn ask(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let socket = &self.socket;
        socket.send(question).await?;
        loop {
            // That the resolver is not there is an error, and nothing to read.
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                if let Some(error) = socket.take_error()? {
                    return Err(error);
                }
                let seen = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _none_left = socket.try_io(Interest::ERROR, seen);
            }
            let answer = BUFFER.with_borrow_mut(|buffer| match socket.try_recv(buffer) {
                Ok(length) => {
                    let message = buffer.get(..length).unwrap_or_default();
                    Ok(dns::is_answer(question, message).then(|| message.to_vec()))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error),
            })?;
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }
}
