//! The agent's listeners inside a pod, and the loops that accept from them.
//!
//! They are bound to loopback with a port of the kernel's choice: the kernel hands connections over whatever
//! the bound address is, so no port of the pod is taken, and nothing can reach them by address but by mistake.
//! Such a mistake (the local address is the listener's own) is dropped, or it would loop.
//!
//! | task | owner | ends |
//! |---|---|---|
//! | accept loops | [`PodListeners::run`] | with `stop`, after the accept queue is empty |

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sotto_abi::{MARK_AGENT, MARK_LOOP};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Captured, PodCapture, Role};
use crate::sys::socket::{self, BACKLOG, ListenOptions};

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

/// A pod's listeners: one for each role and family.
#[derive(Debug)]
pub struct PodListeners {
    /// For what the pod opens, of IPv4: there in any case.
    outbound: TcpListener,
    others: Vec<(Role, TcpListener)>,
}

/// Pauses after a failed accept: the process may be out of descriptors.
const ACCEPT_BACKOFF: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_secs(1);

impl PodListeners {
    /// Listens in the pod's network namespace. IPv6 may be absent.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses an IPv4 listener.
    pub fn bind(pod: &PodCapture) -> Result<Self, ListenError> {
        let bind = || -> Result<Self, ListenError> {
            let v4 = |role| listen(role, (Ipv4Addr::LOCALHOST, 0).into());
            let outbound = v4(Role::Outbound)?;
            let mut others =
                vec![(Role::Plaintext, v4(Role::Plaintext)?), (Role::Hbone, v4(Role::Hbone)?)];
            for role in Role::ALL {
                match listen(role, (Ipv6Addr::LOCALHOST, 0).into()) {
                    Err(ListenError::Listen { source, .. }) if is_family_absent(&source) => {}
                    other => others.push((role, other?)),
                }
            }
            Ok(Self { outbound, others })
        };
        pod.netns.enter(bind).map_err(ListenError::Enter)?
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
        let (pod, on) = (&pod, Rc::new(on));
        let outbound = std::iter::once((Role::Outbound, self.outbound));
        let loops = outbound.chain(self.others).map(|(role, listener)| {
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

/// Listens in the calling thread's network namespace.
fn listen(role: Role, address: SocketAddr) -> Result<TcpListener, ListenError> {
    let options = ListenOptions {
        // What the pod opens arrives marked; answers of any kind must carry the same mark, or they leave the
        // pod in the clear. What comes from outside must not take the loop.
        mark: Some(if role == Role::Outbound { MARK_LOOP } else { MARK_AGENT }),
        transparent: true,
        // Whatever cuts it short, an app sees a reset, never what looks like an orderly end. A tunnel's peer is no
        // app: it may have an alert to read.
        reset_on_close: role != Role::Hbone,
        inside: role == Role::Outbound,
        ..ListenOptions::default()
    };
    socket::listen(address, options).map_err(|source| ListenError::Listen { address, source })
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
