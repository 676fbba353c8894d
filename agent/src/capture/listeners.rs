//! The agent's listeners inside a pod, and the loops that accept from them.
//!
//! They are bound to loopback with a port of the kernel's choice: the kernel hands connections over whatever
//! the bound address is, so no port of the pod is taken, and nothing can reach them by address but by mistake.
//! Such a mistake (the local address is the listener's own) is dropped, or it would loop.
//!
//! | task | owner | ends |
//! |---|---|---|
//! | accept loops | [`ThreadListeners::run`] | with `stop`, after the accept queue is empty |

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sotto_abi::{MARK_AGENT, MARK_LOOP, MAX_THREADS};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Captured, PodCapture, Role};
use crate::sys::socket::{self, ListenOptions};

/// Why a pod has no listeners.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The namespace is gone, or may not be entered.
    #[error("failed to enter the pod's network namespace")]
    Enter(#[source] io::Error),
    /// The kernel refuses a listener.
    #[error("failed to listen on {address} in the pod")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// All listeners of a pod: for each thread, one for each role and family.
#[derive(Debug)]
pub struct PodListeners {
    threads: Vec<Option<ThreadListeners>>,
}

/// A pod's listeners for one thread: one for each role and family.
#[derive(Debug)]
pub struct ThreadListeners {
    listeners: Vec<(Role, TcpListener)>,
}

/// Pauses after a failed accept: the process may be out of descriptors.
const ACCEPT_BACKOFF: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_secs(1);

impl PodListeners {
    /// Listens in the pod's network namespace, for at most [`MAX_THREADS`] threads. IPv6 may be absent.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses an IPv4 listener.
    pub fn bind(pod: &PodCapture, threads: usize) -> Result<Self, ListenError> {
        let bind = || -> Result<Self, ListenError> {
            let mut all: Vec<_> =
                (0..threads.clamp(1, MAX_THREADS as usize)).map(|_| Vec::new()).collect();
            for role in Role::ALL {
                bind_all(role, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &mut all)?;
                match bind_all(role, SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), &mut all) {
                    Err(ListenError::Listen { source, .. }) if is_family_absent(&source) => {}
                    other => other?,
                }
            }
            let threads = all.into_iter().map(|listeners| Some(ThreadListeners { listeners }));
            Ok(Self { threads: threads.collect() })
        };
        pod.netns.enter(bind).map_err(ListenError::Enter)?
    }

    /// Takes a thread's share; `None` if there is no such thread or it is taken.
    pub fn take_thread(&mut self, index: usize) -> Option<ThreadListeners> {
        self.threads.get_mut(index)?.take()
    }

    /// How many threads there are listeners for.
    pub(super) fn threads(&self) -> u32 {
        u32::try_from(self.threads.len()).unwrap_or(MAX_THREADS).min(MAX_THREADS)
    }

    /// Every listener, with its thread's number and its role; those whose share is taken are left out.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, Role, &TcpListener)> {
        let threads = (0..MAX_THREADS).zip(&self.threads);
        threads.flat_map(|(index, thread)| {
            let listeners = thread.iter().flat_map(|thread| &thread.listeners);
            listeners.map(move |(role, one)| (index, *role, one))
        })
    }
}

impl ThreadListeners {
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
        let (pod, on) = (&pod, Rc::new(on));
        let loops = self.listeners.into_iter().map(|(role, listener)| {
            let (on, stop) = (Rc::clone(&on), &stop);
            async move {
                let own = listener.local_addr()?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let hand_over = |stream: TcpStream, client: SocketAddr| {
                    if let Some(captured) = captured(stream, client, own, role, pod) {
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

/// Binds one listener for each thread.
fn bind_all(
    role: Role,
    address: SocketAddr,
    all: &mut [Vec<(Role, TcpListener)>],
) -> Result<(), ListenError> {
    let options = ListenOptions {
        // What the pod opens arrives marked; answers of any kind must carry the same mark, or they leave the
        // pod in the clear. What comes from outside must not take the loop.
        mark: Some(if role == Role::Outbound { MARK_LOOP } else { MARK_AGENT }),
        transparent: true,
        ..ListenOptions::default()
    };
    for listeners in all {
        let listener = socket::listen(address, options)
            .map_err(|source| ListenError::Listen { address, source })?;
        listeners.push((role, listener));
    }
    Ok(())
}

fn is_family_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// `None` for a connection to the listener's own address, which no redirection made.
fn captured(
    stream: TcpStream,
    client: SocketAddr,
    own: SocketAddr,
    role: Role,
    pod: &Arc<PodCapture>,
) -> Option<Captured> {
    // Fails only if the peer is gone already.
    let local = stream.local_addr().ok()?;
    if local == own {
        tracing::debug!(%client, ?role, "dropped a connection to a listener's own address");
        return None;
    }
    Some(Captured {
        stream,
        role,
        pod: Arc::clone(pod),
        client: canonical(client),
        original_destination: canonical(local),
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
/// listener would reset them. Asks the socket itself, as the runtime may not have heard of them yet.
fn drain(
    listener: tokio::net::TcpListener,
    hand_over: impl Fn(TcpStream, SocketAddr),
) -> io::Result<()> {
    let listener = listener.into_std()?;
    loop {
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
}
