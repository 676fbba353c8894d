//! Connections: accepting, TLS, HTTP/1.1, and ending them.
//!
//! | task | owner | ends |
//! |---|---|---|
//! | accept loop, one a listener | the server's tracker | when the server stops |
//! | connection | the server's tracker | when the client goes, or the server stops |

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::server::Api;

/// Connections at once, all listeners together; more wait in the backlog.
const CONNECTIONS: usize = 1024;
/// For the TLS handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed, as for want of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How connections are served.
#[derive(Debug, Clone)]
pub(super) struct Acceptor {
    api: Arc<Api>,
    config: Arc<ServerConfig>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Acceptor {
    /// Serves with this certificate until it is stopped.
    pub(super) fn new(api: Arc<Api>, config: Arc<ServerConfig>, tasks: TaskTracker) -> Self {
        let stop = api.stop.clone();
        Self { api, config, places: Arc::new(Semaphore::new(CONNECTIONS)), stop, tasks }
    }

    /// Accepts connections of a listener until the server stops. Runs inside the server's runtime.
    pub(super) async fn run(self, listener: TcpListener) {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(listener));
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "cannot listen");
                return;
            }
        };
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let this = self.clone();
                    self.tasks.spawn(async move {
                        let stop = this.stop.clone();
                        stop.run_until_cancelled(this.serve(stream)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no nodelay");
        }
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "handshake failed"),
            Err(_) => return tracing::debug!("handshake took too long"),
        };
        let api = self.api;
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let api = Arc::clone(&api);
            async move { Ok::<_, std::convert::Infallible>(api.answer(request.map(Body::new)).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        }
    }
}
