//! What a tunnel's task and the owners of its streams share.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::account::Account;
use super::super::h2::{Code, Connection, FEW, Request, StreamId};
use super::broken::Broken;
use super::moved::Mover;
use super::stream::{Ended, Stream};

/// A tunnel's streams and its HTTP/2.
pub(super) struct State {
    pub(super) h2: Connection,
    pub(super) streams: HashMap<StreamId, Stream>,
    /// Whose bytes wait.
    pub(super) account: Rc<Account>,
    /// Streams with something to do, in the order of their turns.
    pub(super) run: VecDeque<StreamId>,
    /// Streams that wait for the peer's window.
    pub(super) starved: Vec<StreamId>,
    /// Streams of the peer that nobody has seen yet.
    pub(super) incoming: VecDeque<(StreamId, Request)>,
    /// The same, and those that wait for their answer.
    pub(super) unanswered: usize,
    pub(super) max_unanswered: usize,
    /// The peer's settings are here.
    pub(super) settled: bool,
    /// No new streams; the tunnel ends with the last one.
    pub(super) retiring: bool,
    /// Since when there has been no stream.
    pub(super) idle_since: Option<Instant>,
    pub(super) broken: Option<Broken>,
    /// Told when `settled` or `retiring` change.
    pub(super) changed: Rc<Notify>,
    /// Who wants to go on with the tunnel elsewhere.
    pub(super) mover: Option<Mover>,
}

impl State {
    pub(super) fn new(h2: Connection, account: Rc<Account>, max_unanswered: usize) -> Self {
        Self {
            h2,
            streams: HashMap::new(),
            account,
            run: VecDeque::new(),
            starved: Vec::new(),
            incoming: VecDeque::new(),
            unanswered: 0,
            max_unanswered,
            settled: false,
            retiring: false,
            idle_since: Some(Instant::now()),
            broken: None,
            changed: Rc::default(),
            mover: None,
        }
    }

    /// Adds a stream that was just opened.
    pub(super) fn insert(&mut self, id: StreamId, stream: Stream) {
        self.streams.insert(id, stream);
        self.idle_since = None;
    }

    /// The next stream of the peer that nobody has seen yet.
    pub(super) fn next_incoming(&mut self) -> Option<(StreamId, Request)> {
        let next = self.incoming.pop_front()?;
        if self.incoming.is_empty() {
            self.incoming.shrink_to(FEW);
        }
        Some(next)
    }

    /// Gives a stream a turn.
    pub(super) fn queue(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued
        {
            stream.queued = true;
            self.run.push_back(id);
        }
    }

    /// The stream waits for the peer's window.
    pub(super) fn starve(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.starved
        {
            stream.starved = true;
            self.starved.push(id);
        }
    }

    /// The peer's window opened, of one stream or of all.
    pub(super) fn feed(&mut self, id: Option<StreamId>) {
        if let Some(id) = id {
            return self.queue(id);
        }
        for id in std::mem::take(&mut self.starved) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.starved = false;
            }
            self.queue(id);
        }
    }

    /// Ends a stream for the application's fault, and tells the peer.
    pub(super) fn fail(&mut self, id: StreamId, error: std::io::Error) {
        self.h2.reset(id, Code::CONNECT_ERROR);
        self.end(id, Ended::App(error));
    }

    pub(super) fn end(&mut self, id: StreamId, ended: Ended) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.end(ended);
        }
    }

    /// The owner has left: what it did not see the end of is reset.
    pub(super) fn remove(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if stream.ended.is_none() {
            // RFC 9113 8.5: a broken TCP connection is CONNECT_ERROR, while CANCEL reads as an
            // orderly end to mesh peers.
            let code = if stream.established { Code::CONNECT_ERROR } else { Code::CANCEL };
            self.h2.reset(id, code);
        }
        if stream.starved {
            self.starved.retain(|starved| *starved != id);
        }
        if self.streams.is_empty() {
            self.streams.shrink_to(FEW);
            self.idle_since = Some(Instant::now());
        }
    }

    pub(super) fn settle(&mut self) {
        if !self.settled {
            self.settled = true;
            self.changed.notify_waiters();
        }
    }

    pub(super) fn retire(&mut self) {
        if !self.retiring {
            self.retiring = true;
            self.changed.notify_waiters();
        }
    }

    /// The connection is gone: only streams go on of which all has arrived and been sent.
    pub(super) fn sever(&mut self, broken: &Broken) {
        if self.broken.is_none() {
            self.broken = Some(broken.clone());
        }
        self.retire();
        for stream in self.streams.values_mut() {
            if !(stream.peer_ended && stream.app_ended) {
                stream.end(Ended::Tunnel(broken.clone()));
            }
        }
    }

    /// Whether a stream has not ended.
    pub(super) fn is_busy(&self) -> bool {
        self.streams.values().any(|stream| stream.ended.is_none())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::tunnel::h2::Config;
    use crate::tunnel::testing::unbounded;

    #[test]
    fn a_tunnel_that_had_many_streams_keeps_room_for_few() {
        let h2 = Connection::client(Config::default());
        let mut state = State::new(h2, unbounded(), 100);
        let asked = Request {
            method: Method::CONNECT,
            authority: "10.0.0.1:80".to_owned(),
            headers: HeaderMap::new(),
            end: false,
        };
        let mut ids = Vec::new();
        for _ in 0..100 {
            let id = state.h2.open("10.0.0.1:80", &HeaderMap::new()).unwrap();
            state.insert(id, Stream::default());
            state.incoming.push_back((id, asked.clone()));
            ids.push(id);
        }
        for id in ids {
            assert_eq!(state.next_incoming().unwrap().0, id);
            state.remove(id);
        }
        assert!(state.streams.capacity() < 8 && state.incoming.capacity() < 8);
    }
}
