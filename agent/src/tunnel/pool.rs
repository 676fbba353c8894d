//! The tunnels of one thread, shared by its connections.
//!
//! Streams of one source to one destination share a tunnel, up to the peer's limit; only when all
//! are full is another dialled, by one connection at a time while the rest wait for its outcome. A
//! tunnel whose TLS configuration is no longer the current one (the certificate was renewed) takes
//! no new streams. Each tunnel has one task, owned by the pool.

mod tunnel;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use arcstr::ArcStr;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use self::tunnel::StreamSlot;
use self::tunnel::Tunnel;
pub use self::tunnel::Verdict;
use super::account::Account;
use super::chain::{Chain, Trust};
use super::connect::{self, Asked, ConnectError, OpenError};
use super::driver::{Driver, MoveError, Moving, Passenger, Side, Terms};
use super::exit::Exit;
use super::limits::Limits;
use super::relay::{Leg, Progress};
use super::stream::TunnelStream;
use crate::mesh::{PodUid, SpiffeId};
use crate::sys::socket;

/// Streams with the same key may share a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// As whom we dial.
    pub source: SpiffeId,
    /// From whose network namespace.
    pub pod: PodUid,
    /// Where to: an address and port 15008.
    pub gateway: SocketAddr,
    /// Whom we expect there: SPIFFE URIs, any of them.
    pub expected: Vec<ArcStr>,
    /// A number of its own for a stream that is to share its tunnel with none.
    pub alone: Option<u64>,
}

/// As whom a tunnel is dialled.
#[derive(Debug, Clone)]
pub struct Caller {
    /// With whose certificate. Streams share a tunnel only if it was dialled with the same.
    pub tls: Arc<ClientConfig>,
    /// By what it believes the peer, and what it shows.
    pub trust: Trust,
    /// Of the pod that dials.
    pub account: Rc<Account>,
}

/// A tunnel that may be taken elsewhere.
#[derive(Debug)]
pub struct Departing {
    /// Whose, and where to.
    pub key: PoolKey,
    /// The verified certificate chain of its peer, its own first.
    pub peer: Vec<CertificateDer<'static>>,
    /// On what hangs that the peer was shown: see [`Trust::shown`](super::Trust::shown).
    pub shown: u32,
    /// The way out.
    pub exit: Exit,
}

/// The tunnels of one thread. Clones share them; the last one dropped cuts them.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    limits: Limits,
    slots: RefCell<HashMap<PoolKey, Rc<Slot>>>,
    /// Every tunnel there is, also those that take no more streams.
    all: RefCell<Vec<(PoolKey, Rc<Tunnel>)>>,
    tasks: TaskTracker,
    /// No new streams; tunnels end with their last one.
    drain: CancellationToken,
    /// Tunnels end now.
    abort: CancellationToken,
}

/// The tunnels of one key.
#[derive(Default)]
struct Slot {
    tunnels: RefCell<Vec<Rc<Tunnel>>>,
    dial: RefCell<Option<Rc<Dial>>>,
}

/// A dial under way.
#[derive(Default)]
struct Dial {
    error: RefCell<Option<ConnectError>>,
    over: Notify,
}

/// What a connection can do now.
enum Turn {
    /// Open a stream here.
    Open(StreamSlot),
    /// Wait until the tunnel knows how many streams its peer takes.
    Settle(Rc<Tunnel>),
    /// Wait for another's dial.
    Wait(Rc<Dial>),
    /// Dial: the others wait for the end of this.
    Dial(DialGuard),
}

/// Ends a dial, also one whose connection is dropped midway: those that wait then take over.
struct DialGuard {
    slot: Rc<Slot>,
    dial: Rc<Dial>,
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        self.slot.dial.borrow_mut().take();
        self.dial.over.notify_waiters();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.abort.cancel();
    }
}

impl Pool {
    /// A pool without tunnels; its tasks run on the current `LocalSet`.
    pub fn new(limits: Limits) -> Self {
        let inner = Inner {
            limits,
            slots: RefCell::default(),
            all: RefCell::default(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Opens a stream in a tunnel of `key`; `tcp` is polled only if a tunnel must be dialled.
    ///
    /// # Errors
    /// The tunnel cannot be dialled, or its peer refuses the stream.
    ///
    /// # Cancel safety
    /// A stream half opened is reset; a dial under way is left to the next that waits for it.
    pub async fn connect(
        &self,
        key: &PoolKey,
        tcp: impl Future<Output = io::Result<TcpStream>>,
        caller: Caller,
        request: &impl Asked,
    ) -> Result<TunnelStream, ConnectError> {
        self.connect_with(key, tcp, caller, request, &mut None).await
    }

    /// The same, and the first bytes of `app` go before the answer has come, if `Limits::early_data`
    /// lets them. To be followed by [`relay_aboard`](super::relay_aboard).
    ///
    /// # Errors
    /// As of [`Pool::connect`]; `app` has been reset.
    ///
    /// # Cancel safety
    /// Resets `app`, and a stream half opened.
    pub fn connect_aboard(
        &self,
        key: &PoolKey,
        tcp: impl Future<Output = io::Result<TcpStream>>,
        caller: Caller,
        request: &impl Asked,
        (app, progress): (TcpStream, &Rc<Progress>),
    ) -> impl Future<Output = Result<TunnelStream, ConnectError>> {
        let leg = Leg::new(app);
        async move {
            if self.inner.limits.early_data == 0 {
                let mut nobody = None;
                let connect = pin!(self.connect_with(key, tcp, caller, request, &mut nobody));
                let stream = self.patiently(Some(&leg.tcp), connect).await??;
                stream.attach(leg, progress);
                return Ok(stream);
            }
            // Lent, as each future on the way would hold room for its own.
            let mut passenger = Some(Passenger::new(leg, progress));
            self.connect_with(key, tcp, caller, request, &mut passenger).await
        }
    }

    async fn connect_with(
        &self,
        key: &PoolKey,
        tcp: impl Future<Output = io::Result<TcpStream>>,
        caller: Caller,
        request: &impl Asked,
        passenger: &mut Option<Passenger>,
    ) -> Result<TunnelStream, ConnectError> {
        let limits = &self.inner.limits;
        // Many connections to a peer that takes few streams a tunnel wait for one dial each.
        let patience = limits.dial_timeout + limits.handshake_timeout + limits.response_timeout;
        let connect = self.connect_patiently(key, tcp, caller, request, passenger);
        timeout(patience, connect).await.unwrap_or(Err(ConnectError::Timeout {
            gateway: key.gateway,
            step: "opening a stream",
            after: patience,
        }))
    }

    /// Takes no new streams and waits until the last of the old ones has ended. Bound it by a
    /// deadline, then [`Pool::abort`].
    pub async fn drain(&self) {
        self.inner.drain.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Ends the tunnels of a pod that left, each with its last stream.
    pub fn forget(&self, pod: &PodUid) {
        let slots = self.inner.slots.borrow();
        let of_pod = slots.iter().filter(|(key, _)| key.pod == *pod);
        of_pod
            .for_each(|(_, slot)| slot.tunnels.borrow().iter().for_each(|tunnel| tunnel.retire()));
    }

    /// Ends the tunnels of a key, each with its last stream.
    pub fn retire(&self, key: &PoolKey) {
        let slots = self.inner.slots.borrow();
        let tunnels = slots.get(key).into_iter().flat_map(|slot| slot.tunnels.borrow().clone());
        tunnels.for_each(|tunnel| tunnel.retire());
    }

    /// Looks at every tunnel, also at those that take no more streams: `judge` is asked as whom and with whom it is, and
    /// with which chain its peer has shown who it is.
    pub fn review(&self, judge: impl Fn(&PoolKey, &Chain) -> Verdict) {
        let all = self.inner.all.borrow();
        for (key, tunnel) in all.iter().filter(|(_, tunnel)| !tunnel.is_cut()) {
            match judge(key, tunnel.peer()) {
                Verdict::Keep => {}
                Verdict::Drain => tunnel.retire(),
                Verdict::Cut => tunnel.cut(),
            }
        }
    }

    /// Cuts every tunnel.
    pub fn abort(&self) {
        self.inner.drain.cancel();
        self.inner.abort.cancel();
    }

    /// All that may be taken elsewhere.
    pub fn departing(&self) -> Vec<Departing> {
        let all = self.inner.all.borrow();
        let may_leave = all.iter().filter(|(key, tunnel)| key.alone.is_none() && !tunnel.is_cut());
        may_leave
            .map(|(key, tunnel)| Departing {
                key: key.clone(),
                peer: tunnel.peer().certificates().to_vec(),
                shown: tunnel.peer().shown(),
                exit: tunnel.exit(),
            })
            .collect()
    }

    /// Goes on with a tunnel that another process took, as if `caller` had dialled it. It takes no more streams; told are
    /// those that it has, in their order.
    ///
    /// # Errors
    /// It is none that this version can go on with; nothing was done to its connections.
    pub fn thaw(
        &self,
        key: PoolKey,
        moving: Moving,
        peer: Vec<CertificateDer<'static>>,
        caller: Caller,
    ) -> Result<Vec<TunnelStream>, MoveError> {
        let (terms, abort) = self.terms(&caller);
        let peer = Chain::new(peer, terms.trust);
        let (driver, streams) = Driver::thaw(moving, Side::Client, &self.inner.limits, terms)?;
        let tunnel = Tunnel::new(driver.link().clone(), caller.tls, peer, abort);
        self.serve(key, driver, Rc::new(tunnel));
        Ok(streams.into_iter().map(TunnelStream::new).collect())
    }

    /// Of a tunnel that may have to end before the others.
    fn terms(&self, caller: &Caller) -> (Terms, CancellationToken) {
        let abort = self.inner.abort.child_token();
        let terms = Terms {
            account: Rc::clone(&caller.account),
            trust: caller.trust,
            drain: self.inner.drain.clone(),
            abort: abort.clone(),
        };
        (terms, abort)
    }

    /// Runs a tunnel's task.
    fn serve(&self, key: PoolKey, driver: Driver, tunnel: Rc<Tunnel>) {
        let inner = Rc::downgrade(&self.inner);
        self.inner.all.borrow_mut().push((key.clone(), Rc::clone(&tunnel)));
        self.inner.tasks.spawn_local(async move {
            let broken = driver.run().await;
            tracing::debug!(gateway = %key.gateway, error = %broken, "tunnel ended");
            if let Some(inner) = inner.upgrade() {
                inner.prune(&key);
                inner.all.borrow_mut().retain(|(_, other)| !Rc::ptr_eq(other, &tunnel));
            }
        });
    }

    /// Tunnels there are now, also those that take no more streams.
    pub fn tunnels(&self) -> usize {
        self.inner.tasks.len()
    }

    async fn connect_patiently(
        &self,
        key: &PoolKey,
        tcp: impl Future<Output = io::Result<TcpStream>>,
        caller: Caller,
        request: &impl Asked,
        passenger: &mut Option<Passenger>,
    ) -> Result<TunnelStream, ConnectError> {
        let guard = loop {
            match self.turn(key, &caller.tls)? {
                Turn::Open(slot) => match self.open(key, slot, request, passenger).await {
                    Ok(stream) => return Ok(stream),
                    // The tunnel is retired, so that this ends at the latest with a dial.
                    Err(OpenError::Stale(_)) => {}
                    Err(OpenError::Failed(error)) => return Err(error),
                },
                Turn::Settle(tunnel) => {
                    self.patiently(tcp_of(passenger), pin!(tunnel.settled())).await?
                }
                Turn::Wait(dial) => {
                    self.patiently(tcp_of(passenger), pin!(dial.finished())).await??
                }
                Turn::Dial(guard) => break guard,
            }
        };
        let dialled = pin!(self.dial(key, tcp, caller, guard));
        let slot = self.patiently(tcp_of(passenger), dialled).await??;
        match self.open(key, slot, request, passenger).await {
            Ok(stream) => Ok(stream),
            Err(OpenError::Stale(error) | OpenError::Failed(error)) => Err(error),
        }
    }

    /// Waits as long as the application does.
    async fn patiently<T>(
        &self,
        app: Option<&TcpStream>,
        work: impl Future<Output = T> + Unpin,
    ) -> Result<T, ConnectError> {
        let Some(app) = app else { return Ok(work.await) };
        // Boxed, as few have to wait.
        let gave_up = Box::pin(socket::gave_up(app, self.inner.limits.ended_patience));
        tokio::select! {
            // What is done is done, also for one that has gone.
            biased;
            done = work => Ok(done),
            error = gave_up => Err(ConnectError::App { source: Arc::new(error) }),
        }
    }

    fn turn(&self, key: &PoolKey, tls: &Arc<ClientConfig>) -> Result<Turn, ConnectError> {
        if self.inner.drain.is_cancelled() {
            return Err(ConnectError::Stopped);
        }
        let mut slots = self.inner.slots.borrow_mut();
        let slot = match slots.get(key) {
            Some(slot) => slot,
            None => slots.entry(key.clone()).or_default(),
        };
        let max = self.inner.limits.max_opened_streams;
        let mut unsettled = None;
        slot.tunnels.borrow_mut().retain(|tunnel| tunnel.is_current(tls));
        for tunnel in &*slot.tunnels.borrow() {
            if let Some(stream) = tunnel.reserve(max) {
                return Ok(Turn::Open(stream));
            }
            if !tunnel.is_settled() {
                unsettled = Some(Rc::clone(tunnel));
            }
        }
        if let Some(tunnel) = unsettled {
            return Ok(Turn::Settle(tunnel));
        }
        let mut dial = slot.dial.borrow_mut();
        if let Some(dial) = &*dial {
            return Ok(Turn::Wait(Rc::clone(dial)));
        }
        let ours = Rc::new(Dial::default());
        *dial = Some(Rc::clone(&ours));
        Ok(Turn::Dial(DialGuard { slot: Rc::clone(slot), dial: ours }))
    }

    /// Dials, and keeps the first stream of the new tunnel for the caller.
    async fn dial(
        &self,
        key: &PoolKey,
        tcp: impl Future<Output = io::Result<TcpStream>>,
        caller: Caller,
        guard: DialGuard,
    ) -> Result<StreamSlot, ConnectError> {
        let limits = &self.inner.limits;
        // The rare path is boxed: a connection's future need not have room for a handshake.
        let dialled =
            Box::pin(connect::dial(key.gateway, tcp, Arc::clone(&caller.tls), limits)).await;
        let mut dialled = match dialled {
            Ok(dialled) => dialled,
            Err(error) => {
                *guard.dial.error.borrow_mut() = Some(error.clone());
                drop(guard);
                self.inner.prune(key);
                return Err(error);
            }
        };
        let (terms, abort) = self.terms(&caller);
        let peer = Chain::new(std::mem::take(&mut dialled.established.peer), terms.trust);
        let driver = Driver::new(dialled.tcp, dialled.established, Side::Client, limits, terms);
        let tunnel = Rc::new(Tunnel::new(driver.link().clone(), caller.tls, peer, abort));
        guard.slot.tunnels.borrow_mut().push(Rc::clone(&tunnel));
        let stream = tunnel.first();
        self.serve(key.clone(), driver, tunnel);
        Ok(stream)
    }

    async fn open(
        &self,
        key: &PoolKey,
        slot: StreamSlot,
        request: &impl Asked,
        passenger: &mut Option<Passenger>,
    ) -> Result<TunnelStream, OpenError> {
        if slot.is_retired() {
            return Err(OpenError::Stale(ConnectError::Stopped));
        }
        let limits = &self.inner.limits;
        match connect::open(key.gateway, slot.link(), request, limits, passenger).await {
            Ok((handle, answer)) => Ok(TunnelStream::new(handle).dialled(answer, slot)),
            Err(error) => {
                if matches!(error, OpenError::Stale(_)) {
                    slot.retire();
                }
                Err(error)
            }
        }
    }
}

fn tcp_of(passenger: &Option<Passenger>) -> Option<&TcpStream> {
    passenger.as_ref().map(Passenger::tcp)
}

impl Inner {
    /// Forgets tunnels that are gone, and a key without any.
    fn prune(&self, key: &PoolKey) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get(key) else { return };
        slot.tunnels.borrow_mut().retain(|tunnel| !tunnel.is_retired());
        let unused = slot.tunnels.borrow().is_empty() && slot.dial.borrow().is_none();
        if unused {
            slots.remove(key);
        }
    }
}

impl Dial {
    /// Waits for its end; its error is ours too.
    async fn finished(&self) -> Result<(), ConnectError> {
        self.over.notified().await;
        self.error.borrow().clone().map_or(Ok(()), Err)
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("tunnels", &self.tunnels()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
