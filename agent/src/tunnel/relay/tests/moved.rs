//! Paths whose parts leave their tasks again and again, and are gone on with by others: by bytes, as between processes.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use rustls_pki_types::CertificateDer;
use sotto_proto::handover::Tunnel;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::*;
use crate::tunnel::testing::terms;
use crate::tunnel::tls::Frozen;
use crate::tunnel::{Exit, Moving, Server, accept};

/// Between two moves.
const STAY: Duration = Duration::from_micros(300);

/// The same as another process would have it.
fn arrived(moving: Moving) -> Moving {
    let tunnel = Tunnel::decode(&*moving.tunnel.encode_to_vec()).unwrap();
    let session = Frozen::from_bytes(Zeroizing::new(moving.session.as_bytes().to_vec()));
    Moving { tunnel, session, ..moving }
}

/// A relay, and the next one whenever its stream has moved.
fn carried(
    first: impl Future<Output = Result<(), RelayError>> + 'static,
    mut next: mpsc::Receiver<TunnelStream>,
) -> Outcome {
    spawn_local(async move {
        let mut ended = first.await;
        while let Err(RelayError::Moved) = ended {
            // The tunnel may have ended on its way.
            let Some(stream) = next.recv().await else { return Ok(()) };
            ended = relay_aboard(stream).await;
        }
        ended
    })
}

/// A tunnel in between, both ends of which move.
pub(super) async fn tunnelled(limits: Limits, moves: &Rc<Cell<usize>>) -> Path {
    let (pki, moves) = (Pki::new(), Rc::clone(moves));
    let (near_tcp, far_tcp) = tcp_pair().await;
    let key = key(near_tcp.peer_addr().unwrap());
    let pool = Pool::new(limits.clone());
    let (taken, far) = oneshot::channel();
    let (of_server, server_tls) = (limits.clone(), Arc::clone(&pki.server));
    let serving = spawn_local(async move {
        let terms = terms(CancellationToken::new());
        let mut server = accept::accept(far_tcp, server_tls, &of_server, terms).await.unwrap();
        let (peer, exit) = (server.peer_certificates().to_vec(), server.exit().unwrap());
        let incoming = server.next().await.unwrap();
        assert!(taken.send(incoming.accept(&permit(), HeaderMap::new()).unwrap()).is_ok());
        serve(server);
        (peer, exit)
    });
    let dial = std::future::ready(Ok(near_tcp));
    let (tls, request) = (pki.client, request());
    let near = pool.connect(&key, dial, caller(Arc::clone(&tls)), &request).await.unwrap();
    let (far, (peer, exit)) = (far.await.unwrap(), serving.await.unwrap());
    let ((client, client_side), (server, server_side)) = (tcp_pair().await, tcp_pair().await);
    let (progress, counted) = (Rc::default(), Rc::default());
    let (to_near, next_near) = mpsc::channel(1);
    let (to_far, next_far) = mpsc::channel(1);
    let relays = vec![
        carried(relay(client_side, near, &progress), next_near),
        carried(relay(server_side, far, &counted), next_far),
    ];
    spawn_local(move_server((exit, peer), limits.clone(), to_far, Rc::clone(&moves)));
    spawn_local(move_client(pool, limits, tls, to_near, moves));
    Path { client, server, relays, progress, far: counted }
}

/// Lets a tunnel's task run.
fn serve(mut server: Server) {
    spawn_local(async move { while server.next().await.is_some() {} });
}

async fn move_server(
    (mut exit, peer): (Exit, Vec<CertificateDer<'static>>),
    limits: Limits,
    streams: mpsc::Sender<TunnelStream>,
    moves: Rc<Cell<usize>>,
) {
    while let Some(moving) = exit.leave().await {
        let terms = terms(CancellationToken::new());
        let thawed = Server::thaw(arrived(*moving), peer.clone(), &limits, terms);
        let (server, mut open) = thawed.unwrap();
        exit = server.exit().unwrap();
        serve(server);
        moves.set(moves.get() + 1);
        let Some(stream) = open.pop() else { return };
        if streams.send(stream).await.is_err() {
            return;
        }
        sleep(STAY).await;
    }
}

async fn move_client(
    mut pool: Pool,
    limits: Limits,
    tls: Arc<rustls::ClientConfig>,
    streams: mpsc::Sender<TunnelStream>,
    moves: Rc<Cell<usize>>,
) {
    while let Some(departing) = pool.departing().pop() {
        let Some(moving) = departing.exit.leave().await else { break };
        let next = Pool::new(limits.clone());
        let caller = caller(Arc::clone(&tls));
        let thawed = next.thaw(departing.key, arrived(*moving), departing.peer, caller);
        let mut open = thawed.unwrap();
        pool = next;
        moves.set(moves.get() + 1);
        let Some(stream) = open.pop() else { break };
        if streams.send(stream).await.is_err() {
            break;
        }
        sleep(STAY).await;
    }
    // The tunnel lives as long as its pool.
    std::future::pending::<()>().await;
    drop(pool);
}

/// One plain relay in between, which moves.
pub(super) async fn plain(moves: &Rc<Cell<usize>>) -> Path {
    let ((client, client_side), (server, server_side)) = (tcp_pair().await, tcp_pair().await);
    let progress = Rc::new(Progress::default());
    let (far, counted, moves) = (Rc::clone(&progress), Rc::clone(&progress), Rc::clone(moves));
    let relay = spawn_local(async move {
        let (mut ends, mut brake) = ((client_side, server_side), Rc::new(Brake::default()));
        loop {
            let relay =
                relay_tcp(ends.0, ends.1, Passage::Outbound, (&counted, &brake), &unbounded());
            let puller = Rc::clone(&brake);
            // At once, the first time.
            let stay = if moves.get() > 0 { STAY } else { Duration::ZERO };
            let pulled = spawn_local(async move {
                if !stay.is_zero() {
                    sleep(stay).await;
                }
                puller.pull().await
            });
            let ended = relay.await;
            let Err(RelayError::Moved) = ended else { return ended };
            let MovingPlain { ends: moved, ways } = pulled.await.unwrap().unwrap();
            moves.set(moves.get() + 1);
            let [first, second] = moved.map(|end| TcpStream::from_std(end).unwrap());
            (ends, brake) = ((first, second), Rc::new(Brake::at(ways)));
        }
    });
    Path { client, server, relays: vec![relay], progress, far }
}
