//! What a pod asks of resolvers: the mesh answers what it knows, in their place; all else goes to the resolver that the pod
//! has asked, from the pod's own address, and comes back as it is.
//!
//! | task | owner | ends |
//! |---|---|---|
//! | a socket's questions | [`serve`] | with `stop`, when nothing is under way, or [`GRACE`] later |
//! | a question that a resolver is asked | the socket's task | with its answer, or [`PATIENCE`] after it came |
//!
//! While the mesh is not known, resolvers are asked whatever it is: a pod without names is worse off than one with those
//! that it had before.

mod asked;
mod stream;
mod waiting;

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::of_pod::OfPod;
use super::quota::Place;
use crate::capture::{PodCapture, Question, QuestionSocket, Questions};
use crate::dns::{self, Transport};
use crate::mesh::ResourceKind;
use crate::observe::names::{Asked, Names};
use asked::{LIFE, Ways};
use waiting::{Sent, Waiting};

pub(super) use stream::stream;

/// For a resolver's answer: longer than applications wait (resolv.conf(5): 5 s), so that it is they who give up.
const PATIENCE: Duration = Duration::from_secs(6);
/// For what is under way at the end; who waits longer asks again.
const GRACE: Duration = Duration::from_secs(1);
/// Questions of one pod, and one family, that resolvers are asked at a time; others wait. Each has a socket: see
/// [`super::Quota`].
const MOST: usize = 512;
/// Questions taken before others have their turn.
const BATCH: usize = 32;
/// After an error of a socket that should have none.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest datagram.
const LONGEST: usize = 65_535;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST]);
}

/// A pod that asks.
struct Asking {
    context: Rc<Context>,
    of_pod: Rc<OfPod>,
    pod: Arc<PodCapture>,
    ways: Ways,
}

/// Questions that are not answered yet.
#[derive(Default)]
struct Open {
    /// Resolvers are asked.
    under_way: JoinSet<()>,
    waiting: Waiting,
}

/// Answers what a pod asks in datagrams, until `stop`. Must run inside a `LocalSet`.
///
/// # Errors
/// The runtime cannot watch the sockets.
pub async fn serve(
    context: Rc<Context>,
    of_pod: Rc<OfPod>,
    (pod, questions): (Arc<PodCapture>, Questions),
    stop: CancellationToken,
) -> io::Result<()> {
    let sockets = questions.watch(&pod)?;
    let asking = Rc::new(Asking { context, of_pod, pod, ways: Ways::default() });
    let each = sockets.into_iter().map(|socket| answer(asking.clone(), Rc::new(socket), &stop));
    futures::future::join_all(each).await;
    Ok(())
}

/// Answers what comes to one socket.
async fn answer(asking: Rc<Asking>, socket: Rc<QuestionSocket>, stop: &CancellationToken) {
    let mut open = Open::default();
    let mut stops = false;
    let mut each_life = interval(LIFE);
    each_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut over = pin!(async {
        stop.cancelled().await;
        sleep(GRACE).await;
    });
    while !stops || !open.under_way.is_empty() {
        tokio::select! {
            () = &mut over => return,
            () = stop.cancelled(), if !stops => stops = true,
            Some(ended) = open.under_way.join_next() => {
                super::log_panic(ended);
                asking.go_on(&socket, &mut open);
            }
            _ = each_life.tick(), if !asking.ways.is_empty() => asking.ways.close_old(),
            ready = socket.ready() => {
                let taken = ready.and_then(|()| asking.take(&socket, &mut open));
                if let Err(error) = taken {
                    let pod = &asking.pod.pod.name;
                    tracing::warn!(%error, %pod, "failed to take what a pod asks of its resolver");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Asking {
    /// Takes what there is, answers what is the mesh's, and has the rest answered.
    fn take(self: &Rc<Self>, socket: &Rc<QuestionSocket>, open: &mut Open) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..BATCH {
                let question = match socket.take(buffer) {
                    Ok(Some(question)) => question,
                    Ok(None) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                let bytes = buffer.get(..question.length).unwrap_or_default();
                let (asked, answer) = self.of_mesh(bytes, Transport::Datagram);
                if let Some(answer) = answer {
                    tell(socket, &question, &answer);
                    continue;
                }
                let sent = Sent { question, asked, bytes: bytes.to_vec(), begun: Instant::now() };
                if open.under_way.len() < MOST {
                    self.send(socket, sent, &mut open.under_way);
                } else if let Some(sent) = open.waiting.push(sent) {
                    self.fail(socket, &sent);
                }
            }
            Ok(())
        })
    }

    /// Has resolvers asked what waits, as far as there is room.
    fn go_on(self: &Rc<Self>, socket: &Rc<QuestionSocket>, open: &mut Open) {
        while open.under_way.len() < MOST
            && let Some(sent) = open.waiting.pop()
        {
            if sent.begun.elapsed() < PATIENCE {
                self.send(socket, sent, &mut open.under_way);
            } else {
                self.counts().failed(sent.asked);
            }
        }
    }

    fn send(self: &Rc<Self>, socket: &Rc<QuestionSocket>, sent: Sent, under_way: &mut JoinSet<()>) {
        match self.of_pod.quota.take() {
            Ok(place) => {
                under_way.spawn_local(self.clone().forward(socket.clone(), sent, place));
            }
            Err(_full) => self.fail(socket, &sent),
        }
    }

    /// The mesh's answer, if it has one; and what is counted of the question.
    fn of_mesh(&self, bytes: &[u8], transport: Transport) -> (Asked, Option<Vec<u8>>) {
        let question = dns::Question::parse(bytes);
        let is_v4 = question.as_ref().map(dns::Question::is_v4);
        let asked = Asked::new(is_v4, transport == Transport::Stream);
        self.counts().asked(asked);
        (asked, question.and_then(|question| self.known(&question, transport)))
    }

    fn known(&self, question: &dns::Question, transport: Transport) -> Option<Vec<u8>> {
        let mesh = self.context.mesh.load();
        let home = mesh.home().ok().filter(|_| mesh.kind_synced(ResourceKind::Address))?;
        let domain = &self.context.cluster_domain;
        let client = dns::Client { pod: &self.pod.pod, network: &home.network, domain };
        let (name, is_v4) = (question.name(), question.is_v4());
        let answer = dns::lookup(&mesh, &client, name, is_v4, &mut rand::rng())?;
        tracing::debug!(pod = %self.pod.pod.name, name, ?answer, "a name of the mesh");
        question.answer(&answer, transport)
    }

    fn counts(&self) -> &Names {
        self.context.metrics.names()
    }

    /// Nobody can be asked.
    fn fail(&self, socket: &QuestionSocket, sent: &Sent) {
        self.counts().failed(sent.asked);
        if let Some(failure) = dns::failure(&sent.bytes) {
            tell(socket, &sent.question, &failure);
        }
    }

    /// Has the resolver answer. As long as it is silent, so are we; where it cannot be asked at all, that is said.
    async fn forward(self: Rc<Self>, socket: Rc<QuestionSocket>, sent: Sent, place: Place) {
        self.counts().forwarded(sent.asked);
        let resolver = sent.question.resolver;
        let asking = self.ways.ask(&self.pod.netns, resolver, &sent.bytes, place);
        match timeout_at(sent.begun + PATIENCE, asking).await {
            Ok(Ok(answer)) => {
                tell(&socket, &sent.question, &answer);
                self.counts().answered(sent.asked, sent.begun.elapsed());
            }
            Ok(Err(error)) => {
                let pod = &self.pod.pod.name;
                tracing::debug!(%error, %pod, %resolver, "a pod's resolver cannot be asked");
                self.fail(&socket, &sent);
            }
            Err(_silent) => self.counts().failed(sent.asked),
        }
    }
}

/// Answers. Whoever does not take it asks again.
fn tell(socket: &QuestionSocket, question: &Question, answer: &[u8]) {
    if let Err(error) = socket.answer(question, answer) {
        tracing::debug!(%error, "an answer to a pod's question was lost");
    }
}
