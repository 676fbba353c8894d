//! The crate's ends of tunnels, over TCP and mutual TLS.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::bytes::{Arriving, PART, part};
use crate::pki::{LOCALHOST, Pki};

/// What the crate's end advertises, and how it sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Set {
    pub(super) window: u32,
    pub(super) frame: u32,
    /// Bytes it sends in one frame at most.
    pub(super) piece: usize,
}

impl Default for Set {
    fn default() -> Self {
        Self { window: 1 << 20, frame: 1 << 20, piece: PART }
    }
}

/// What a connection of the crate's is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    /// Advertise this initial window.
    Window(u32),
    /// Shut down, gracefully.
    Leave,
}

/// The crate's client.
pub(super) struct Client {
    pub(super) sender: SendRequest<Bytes>,
    commands: mpsc::Sender<Command>,
    /// Windows it changed.
    pub(super) changes: Rc<Cell<usize>>,
    pub(super) ended: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub(super) async fn dial(pki: &Pki, gateway: SocketAddr, set: Set) -> Self {
        let tcp = TcpStream::connect(gateway).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let connector = TlsConnector::from(Arc::clone(&pki.client));
        let tls = connector.connect(ServerName::from(LOCALHOST), tcp).await.unwrap();
        let mut builder = client::Builder::new();
        builder.initial_window_size(set.window).max_frame_size(set.frame);
        builder.initial_connection_window_size(16 << 20);
        // It takes few small frames by itself.
        builder.data_frame_budget(usize::MAX / 2);
        let (sender, mut connection) = builder.handshake(tls).await.unwrap();
        let (commands, mut told) = mpsc::channel(64);
        let changes = Rc::new(Cell::new(0));
        let changed = Rc::clone(&changes);
        let ended = spawn_local(async move {
            loop {
                tokio::select! {
                    Some(command) = told.recv() => match command {
                        Command::Window(size) => count(connection.set_initial_window_size(size), &changed),
                        Command::Leave => unreachable!("a client leaves when its sender is dropped"),
                    },
                    ended = &mut connection => return ended,
                }
            }
        });
        Self { sender, commands, changes, ended }
    }

    /// Has it do something.
    pub(super) fn tell(&self, command: Command) {
        self.commands.try_send(command).unwrap();
    }

    /// Opens a tunnel that is answered with 200.
    pub(super) async fn open(&self, authority: &str) -> (SendStream<Bytes>, RecvStream) {
        let mut sender = self.sender.clone().ready().await.unwrap();
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority.parse().unwrap();
        let (response, send) = sender.send_request(request, false).unwrap();
        drop(sender);
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        (send, response.into_body())
    }
}

/// The crate's server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) connections: Rc<Cell<usize>>,
    /// Windows they changed.
    pub(super) changes: Rc<Cell<usize>>,
    commands: broadcast::Sender<Command>,
}

impl Server {
    /// Gives each request to `handle`.
    pub(super) async fn start<F: Future<Output = ()> + 'static>(
        pki: &Pki,
        set: Set,
        handle: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + 'static,
    ) -> Self {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let (commands, _) = broadcast::channel(16);
        let address = listener.local_addr().unwrap();
        let (connections, changes) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let this = Self {
            address,
            connections: Rc::clone(&connections),
            changes: Rc::clone(&changes),
            commands: commands.clone(),
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&pki.server));
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.set_nodelay(true).unwrap();
                connections.set(connections.get() + 1);
                let told = (commands.subscribe(), Rc::clone(&changes));
                spawn_local(serve(acceptor.clone(), tcp, set, told, handle.clone()));
            }
        });
        this
    }

    /// Has the present connections do something.
    pub(super) fn tell(&self, command: Command) {
        self.commands.send(command).unwrap();
    }
}

async fn serve<F: Future<Output = ()> + 'static>(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    set: Set,
    (mut told, changes): (broadcast::Receiver<Command>, Rc<Cell<usize>>),
    handle: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
) {
    let tls = acceptor.accept(tcp).await.unwrap();
    let mut builder = server::Builder::new();
    builder.initial_window_size(set.window).max_frame_size(set.frame);
    builder.initial_connection_window_size(16 << 20).max_concurrent_streams(100);
    builder.data_frame_budget(usize::MAX / 2);
    let mut connection = builder.handshake(tls).await.unwrap();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    assert_eq!(request.method(), Method::CONNECT);
                    spawn_local(handle(request, respond));
                }
                // Our end closes as it likes.
                Some(Err(_)) | None => return,
            },
            Ok(command) = told.recv() => match command {
                Command::Window(size) => count(connection.set_initial_window_size(size), &changes),
                Command::Leave => connection.graceful_shutdown(),
            },
        }
    }
}

/// Counts a change that was made: while one is not acknowledged, the crate takes no other.
fn count(changed: Result<(), h2::Error>, changes: &Cell<usize>) {
    if changed.is_ok() {
        changes.set(changes.get() + 1);
    }
}

/// Answers 200.
pub(super) fn answer(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    respond.send_response(Response::new(()), false).unwrap()
}

/// Sends `total` bytes of flow `seed` in frames of at most `piece`.
pub(super) async fn send(into: &mut SendStream<Bytes>, seed: u64, (total, piece): (u64, usize)) {
    let mut at = 0;
    while at < total {
        let wanted = usize::try_from(total - at).map_or(piece, |left| left.min(piece));
        into.reserve_capacity(wanted);
        let room = poll_fn(|cx| into.poll_capacity(cx)).await.unwrap().unwrap();
        let length = room.min(wanted);
        into.send_data(Bytes::from_static(part(seed, at, length)), false).unwrap();
        at += length as u64;
        // One frame a piece: what is queued behind another is not joined to it.
        tokio::task::yield_now().await;
    }
}

/// Receives `total` bytes of flow `seed`, and nothing else up to the end.
pub(super) async fn receive(body: &mut RecvStream, seed: u64, total: u64) {
    let mut arriving = Arriving::new(seed);
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        arriving.take(&part).unwrap();
    }
    assert_eq!(arriving.at, total, "flow {seed} ends early or late");
}

/// Sends one flow and receives another, both to their ends.
pub(super) async fn exchange(
    mut into: SendStream<Bytes>,
    mut body: RecvStream,
    (out, back): (u64, u64),
    (total, piece): (u64, usize),
) {
    let sending = async {
        send(&mut into, out, (total, piece)).await;
        into.send_data(Bytes::new(), true).unwrap();
    };
    tokio::join!(sending, receive(&mut body, back, total));
}
