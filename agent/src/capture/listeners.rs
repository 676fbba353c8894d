//! The agent's listeners inside a pod, and the loops that accept from them.
//!
//! They are bound to addresses of the range that pods connect to, which stand for nothing, all at the port of HBONE,
//! on which no application of an enrolled pod can be reached anyway: so no port of the pod is taken. The kernel hands
//! connections over whatever the bound address is. What is addressed to something that stands for nothing is dropped.
//!
//! | task | owner | ends |
//! |---|---|---|
//! | accept loops | [`PodListeners::run`] | with `stop`, after the accept queue is empty |

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sotto_abi::{DNS_PORT, Prefixes};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::places::{ListenError, at_some_place, is_family_absent, prefixes_of};
use super::{Captured, PodCapture, Questions, Role};
use crate::sys::socket::{self, BACKLOG, ListenOptions};

/// A pod's listeners: one for each role and family.
#[derive(Debug)]
pub struct PodListeners {
    /// For what the pod opens, of IPv4: there in any case.
    outbound: TcpListener,
    others: Vec<(Role, TcpListener)>,
    /// None where the pod's resolvers are asked directly.
    questions: Option<Questions>,
    cookie: u64,
}

/// Pauses after a failed accept: the process may be out of descriptors.
const ACCEPT_BACKOFF: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_secs(1);

impl PodListeners {
    /// Listens in the pod's network namespace. IPv6 may be absent.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses an IPv4 listener.
    pub fn bind(pod: &PodCapture) -> Result<Self, ListenError> {
        let cookie = pod.netns.cookie().map_err(ListenError::Cookie)?;
        let prefixes = prefixes_of(pod);
        let bind = || -> Result<Self, ListenError> {
            let v4 = |role| listen(role, &prefixes, true);
            let outbound = v4(Role::Outbound)?;
            let mut others =
                vec![(Role::Plaintext, v4(Role::Plaintext)?), (Role::Hbone, v4(Role::Hbone)?)];
            for role in Role::ALL {
                match listen(role, &prefixes, false) {
                    Err(ListenError::Listen { source, .. }) if is_family_absent(&source) => {}
                    other => others.push((role, other?)),
                }
            }
            Ok(Self { outbound, others, questions: None, cookie })
        };
        pod.netns.enter(bind).map_err(ListenError::Enter)?
    }

    /// Takes what the pod asks of resolvers, too.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn with_questions(mut self, pod: &PodCapture) -> Result<Self, ListenError> {
        let questions = Questions::bind(pod, &prefixes_of(pod), self.cookie)?;
        self.questions = Some(questions);
        Ok(self)
    }

    /// The sockets for what the pod asks of resolvers.
    pub(super) fn questions(&self) -> Option<&Questions> {
        self.questions.as_ref()
    }

    /// The same, to serve them.
    pub fn take_questions(&mut self) -> Option<Questions> {
        self.questions.take()
    }

    /// Every listener, with its role.
    pub(super) fn all(&self) -> impl Iterator<Item = (Role, &TcpListener)> {
        let others = self.others.iter().map(|(role, listener)| (*role, listener));
        std::iter::once((Role::Outbound, &self.outbound)).chain(others)
    }

    /// One whose life tells that the agent's lasts.
    pub(super) fn token(&self) -> &TcpListener {
        &self.outbound
    }

    /// Accepts until `stop`, then empties the accept queues and closes. Must run inside a `LocalSet` or on a
    /// current-thread runtime; `on` should start a task for the connection and return.
    ///
    /// # Errors
    /// The runtime cannot watch the sockets, or the last accepts fail. Until `stop`, failed accepts are retried.
    pub async fn run(
        self,
        pod: Arc<PodCapture>,
        on: impl Fn(Captured),
        stop: CancellationToken,
    ) -> io::Result<()> {
        let (pod, on, cookie) = (&pod, Rc::new(on), self.cookie);
        let outbound = std::iter::once((Role::Outbound, self.outbound));
        let loops = outbound.chain(self.others).map(|(role, listener)| {
            let (on, stop) = (Rc::clone(&on), &stop);
            async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let hand_over = |stream: TcpStream, client: SocketAddr| {
                    if let Some(captured) = captured(stream, client, role, (pod, cookie)) {
                        on(captured);
                    }
                };
                accept_until(&listener, stop, &hand_over).await;
                drain(listener, hand_over)
            }
        });
        futures::future::join_all(loops).await.into_iter().collect()
    }
}

/// Listens in the calling thread's network namespace, where other listeners may be left of another agent.
fn listen(role: Role, prefixes: &Prefixes, is_v4: bool) -> Result<TcpListener, ListenError> {
    let options = ListenOptions {
        // Whatever cuts it short, an app sees a reset, never what looks like an orderly end. A tunnel's peer is no
        // app: it may have an alert to read.
        reset_on_close: role != Role::Hbone,
        inside: role == Role::Outbound,
        ..ListenOptions::default()
    };
    at_some_place(prefixes, is_v4, |address| socket::listen(address, options))
}

/// `None` for a connection to what stands for nothing, which no redirection made.
fn captured(
    stream: TcpStream,
    client: SocketAddr,
    role: Role,
    (pod, cookie): (&Arc<PodCapture>, u64),
) -> Option<Captured> {
    // Fails only if the peer is gone already.
    let local = canonical(stream.local_addr().ok()?);
    let resolver = match role {
        Role::Outbound => pod.stand_ins.resolver(cookie, local.ip()),
        Role::Plaintext | Role::Hbone => None,
    };
    let real = match role {
        Role::Outbound => resolver.or_else(|| pod.stand_ins.real(local.ip())),
        Role::Plaintext | Role::Hbone => Some(local.ip()),
    };
    let original_destination = real.map(|ip| SocketAddr::new(ip, local.port()));
    let Some(original_destination) = original_destination else {
        tracing::debug!(%client, %local, "dropped a connection to an address that stands for nothing");
        return None;
    };
    Some(Captured {
        stream,
        role,
        asks: resolver.is_some() && local.port() == DNS_PORT,
        pod: Arc::clone(pod),
        client: canonical(client),
        original_destination,
    })
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn accept_until(
    listener: &tokio::net::TcpListener,
    stop: &CancellationToken,
    hand_over: impl Fn(TcpStream, SocketAddr),
) {
    let mut pause = ACCEPT_BACKOFF.start;
    loop {
        let accepted = tokio::select! {
            biased; // a stop must not wait for a lull
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                pause = ACCEPT_BACKOFF.start;
                hand_over(stream, client);
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(ACCEPT_BACKOFF.end);
            }
        }
    }
}

/// Hands over what is left in the accept queue: the kernel completed these handshakes for us, and closing the
/// listener would reset them. Asks the socket itself, as the runtime may not have heard of them yet. What comes
/// faster than it goes is not waited for.
fn drain(
    listener: tokio::net::TcpListener,
    hand_over: impl Fn(TcpStream, SocketAddr),
) -> io::Result<()> {
    let listener = listener.into_std()?;
    for _ in 0..=BACKLOG {
        match listener.accept() {
            Ok((stream, client)) => {
                stream.set_nonblocking(true)?;
                hand_over(TcpStream::from_std(stream)?, client);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
