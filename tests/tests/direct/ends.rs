//! Our ends of tunnels, each stream with an application behind it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use socket2::SockRef;
use sotto::authorize::{Decision, Permit, Request, decide};
use sotto::mesh::{Mesh, PodUid, SpiffeId, Workload};
use sotto::tunnel::accept::{Incoming, accept};
use sotto::tunnel::{
    Account, Budget, Caller, ConnectError, ConnectRequest, Limits, Pool, PoolKey, Progress,
    RelayError, Share, Terms, Trust, TunnelStream, relay,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::sync::CancellationToken;

use crate::pki::{LOCALHOST, Pki};

/// How a relay ended.
pub(crate) type Outcome = JoinHandle<Result<(), RelayError>>;

/// What `authorize` gives where no policy is.
pub(crate) fn permit() -> Permit {
    let workload = Workload::pod("c", "ns", "pod", "sa", LOCALHOST).unwrap();
    let destination = SocketAddr::new(LOCALHOST, 80);
    let request = Request { source_ip: LOCALHOST, source: None, destination };
    match decide(&Mesh::default(), &workload, &request) {
        Decision::Allow(permit) => permit,
        other => panic!("no policy denies: {other:?}"),
    }
}

/// Of a pod that may hold what it likes.
pub(crate) fn unbounded() -> Rc<Account> {
    Account::new(Share::new(&Budget::new(usize::MAX)))
}

/// Connections made from one listener: thousands of them share its port.
pub(crate) struct Pairs {
    listener: tokio::sync::Mutex<TcpListener>,
    /// What the kernel is asked to hold for each direction of each end, in bytes.
    buffers: Option<usize>,
}

impl Pairs {
    pub(crate) async fn new() -> Rc<Self> {
        Self::buffered(None).await
    }

    /// Their readers may stop, and the kernel is to hold as little as it can.
    pub(crate) async fn narrow() -> Rc<Self> {
        Self::buffered(Some(1)).await
    }

    /// The same with buffers of this size; the kernel has a least one.
    pub(crate) async fn buffered(buffers: Option<usize>) -> Rc<Self> {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        if let Some(size) = buffers {
            SockRef::from(&listener).set_recv_buffer_size(size).unwrap();
        }
        Rc::new(Self { listener: tokio::sync::Mutex::new(listener), buffers })
    }

    /// Two ends of a connection.
    pub(crate) async fn make(&self) -> (TcpStream, TcpStream) {
        // One at a time: whom it accepts is whom it connected.
        let listener = self.listener.lock().await;
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (near, far) = (near.unwrap(), far.unwrap().0);
        if let Some(size) = self.buffers {
            for end in [&near, &far] {
                SockRef::from(end).set_recv_buffer_size(size).unwrap();
                SockRef::from(end).set_send_buffer_size(size).unwrap();
            }
        }
        (near, far)
    }
}

/// Our accepting end.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    /// Tunnels accepted so far.
    pub(crate) accepted: Rc<Cell<usize>>,
    /// Tunnels that have not ended, handshakes included.
    pub(crate) live: Rc<Cell<usize>>,
    stop: Rc<Cell<CancellationToken>>,
}

/// Whose gateway it is.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) pki: Pki,
    pub(crate) account: Rc<Account>,
}

impl Gateway {
    /// Answers each CONNECT with 200 and gives `app` the application's end and the authority.
    pub(crate) async fn start<F: Future<Output = ()> + 'static>(
        pki: &Pki,
        limits: Limits,
        app: impl Fn(String, TcpStream) -> F + Clone + 'static,
    ) -> Self {
        Self::start_over(Pairs::new().await, pki, limits, app).await
    }

    /// The same with applications' connections of this kind.
    pub(crate) async fn start_over<F: Future<Output = ()> + 'static>(
        pairs: Rc<Pairs>,
        pki: &Pki,
        limits: Limits,
        app: impl Fn(String, TcpStream) -> F + Clone + 'static,
    ) -> Self {
        Self::start_with(pki, limits, move |incoming: Incoming| {
            let (app, pairs) = (app.clone(), Rc::clone(&pairs));
            spawn_local(async move {
                let authority = incoming.authority().to_owned();
                let (near, far) = pairs.make().await;
                let Ok(stream) = incoming.accept(&permit(), HeaderMap::new()) else { return };
                spawn_local(relay(far, stream, &Rc::new(Progress::default())));
                app(authority, near).await;
            });
        })
        .await
    }

    /// Gives each CONNECT to `handle`.
    pub(crate) async fn start_with(
        pki: &Pki,
        limits: Limits,
        handle: impl Fn(Incoming) + Clone + 'static,
    ) -> Self {
        Self::start_of(&Pod { pki: pki.clone(), account: unbounded() }, limits, handle).await
    }

    /// The same of a pod that has an account.
    pub(crate) async fn start_of(
        pod: &Pod,
        limits: Limits,
        handle: impl Fn(Incoming) + Clone + 'static,
    ) -> Self {
        let (pki, account) = (&pod.pki, Rc::clone(&pod.account));
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            accepted: Rc::default(),
            live: Rc::default(),
            stop: Rc::new(Cell::new(CancellationToken::new())),
        };
        let (accepted, live) = (Rc::clone(&this.accepted), Rc::clone(&this.live));
        let (stop, tls) = (Rc::clone(&this.stop), Arc::clone(&pki.server));
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                accepted.set(accepted.get() + 1);
                live.set(live.get() + 1);
                let token = stop.take();
                stop.set(token.clone());
                let (limits, handle, tls) = (limits.clone(), handle.clone(), Arc::clone(&tls));
                let (live, abort) = (Rc::clone(&live), CancellationToken::new());
                let terms = Terms {
                    account: Rc::clone(&account),
                    trust: Trust::default(),
                    drain: token,
                    abort,
                };
                spawn_local(async move {
                    if let Ok(mut server) = accept(tcp, tls, &limits, terms).await {
                        while let Some(incoming) = server.next().await {
                            handle(incoming);
                        }
                    }
                    live.set(live.get() - 1);
                });
            }
        });
        this
    }

    /// The present tunnels say GOAWAY; the next ones are served.
    pub(crate) fn go_away(&self) {
        self.stop.replace(CancellationToken::new()).cancel();
    }
}

/// Our dialling end.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) pool: Pool,
    pki: Pki,
    gateway: SocketAddr,
    pairs: Rc<Pairs>,
}

impl Dialler {
    pub(crate) async fn new(pki: &Pki, limits: Limits, gateway: SocketAddr) -> Self {
        Self::new_over(Pairs::new().await, pki, limits, gateway)
    }

    /// The same with applications' connections of this kind.
    pub(crate) fn new_over(
        pairs: Rc<Pairs>,
        pki: &Pki,
        limits: Limits,
        gateway: SocketAddr,
    ) -> Self {
        Self { pool: Pool::new(limits), pki: pki.clone(), gateway, pairs }
    }

    /// A stream without an application.
    pub(crate) async fn connect(&self, authority: &str) -> Result<TunnelStream, ConnectError> {
        let key = PoolKey {
            source: SpiffeId::new("cluster.local", "ns", "sa").unwrap(),
            pod: PodUid("uid".into()),
            gateway: self.gateway,
            expected: Vec::new(),
            alone: None,
        };
        let request = ConnectRequest { authority: authority.to_owned(), headers: HeaderMap::new() };
        let dial = TcpStream::connect(self.gateway);
        let caller = Caller {
            tls: Arc::clone(&self.pki.client),
            trust: Trust::default(),
            account: unbounded(),
        };
        self.pool.connect(&key, dial, caller, &request).await
    }

    /// A stream; the application's end of it, and how its relay ends.
    pub(crate) async fn open(&self, authority: &str) -> (TcpStream, Outcome) {
        let stream = self.connect(authority).await.unwrap();
        let (near, far) = self.pairs.make().await;
        let outcome = spawn_local(relay(far, stream, &Rc::new(Progress::default())));
        (near, outcome)
    }
}

/// Waits for what comes soon: before a PING would wake a tunnel that sleeps too deep.
pub(crate) async fn until(what: &str, met: impl Fn() -> bool) {
    for _ in 0..500 {
        if met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
