//! Serves plain HTTP on the agent's and the control plane's own ports, which any pod may reach: few connections at a
//! time, fewer from one source, one request each, and not for long.
//!
//! | bound | by |
//! |---|---|
//! | connections of all, and of one source | [`Door`]; the oldest of the source with the most gives way |
//! | a request's head | [`HEAD`], and hyper's limits |
//! | a connection from its first byte to the last of the answer | [`Door::patience`] |

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sys::crowd::{Crowd, Entered};

pub mod metrics;

/// How long a client may take for the head of its request.
const HEAD: Duration = Duration::from_secs(3);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);
/// A request's head, at most, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Who may come in, and for how long.
#[derive(Debug, Clone)]
pub struct Door {
    crowd: Arc<Crowd>,
    patience: Duration,
}

impl Door {
    /// Of a port that every pod may reach.
    pub fn public() -> Self {
        Self { crowd: Crowd::new(64, 8), patience: Duration::from_secs(10) }
    }

    /// Of a port that only who administrates the node reaches; its answers may be long, and all come from one address.
    pub fn private() -> Self {
        Self { crowd: Crowd::new(64, 64), patience: Duration::from_secs(120) }
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// None: what cannot be accepted is tried again.
    pub async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    let entered =
                        self.crowd.enter(client.ip().to_canonical(), CancellationToken::new());
                    let (router, stop) = (router.clone(), stop.clone());
                    tasks.spawn(answer(stream, router, self.patience, entered, stop));
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to accept");
                    sleep(PAUSE).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

/// Answers one request.
async fn answer(
    stream: TcpStream,
    router: Router,
    patience: Duration,
    entered: Entered,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let served = timeout(patience, connection);
    tokio::select! {
        served = served => match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a client of our own ports failed"),
            Err(_) => tracing::debug!(?patience, "a client of our own ports is too slow"),
        },
        () = entered.given_up() => tracing::debug!("too many clients of our own ports"),
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// A door before a page.
    async fn open(door: Door, page: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(move || async move { page }));
        tokio::spawn(door.serve(listener, router, CancellationToken::new()));
        address
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn one_request_is_answered_and_the_connection_closed() {
        let address = open(Door::public(), "hello").await;
        let text = ask(address).await;
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nhello"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn who_holds_connections_open_loses_the_oldest_and_others_are_answered() {
        let address = open(Door::public(), "hello").await;
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address).await.ends_with("hello"));
        // Closed, though it never said a word.
        assert_eq!(held[0].read(&mut [0]).await.unwrap_or(0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_go_on_is_closed_in_time() {
        let address = open(Door::public(), "hello").await;
        let mut mute = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(&REQUEST[..9]).await.unwrap();
        for stream in [&mut mute, &mut half] {
            let closed = timeout(Duration::from_secs(11), stream.read(&mut [0; 512])).await;
            // A word about the timeout may come first.
            assert!(closed.is_ok());
        }
    }

    #[tokio::test]
    async fn who_does_not_read_is_closed_in_time() {
        let page: &'static str = Box::leak("x".repeat(64 << 20).into_boxed_str());
        let door = Door { patience: Duration::from_millis(300), ..Door::public() };
        let crowd = Arc::clone(&door.crowd);
        let address = open(door, page).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(REQUEST).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        assert_eq!(Arc::strong_count(&crowd), 3);
        // The connection's place is free again, though the client still holds its end.
        timeout(Duration::from_secs(10), async {
            while Arc::strong_count(&crowd) > 2 {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
    }
}
