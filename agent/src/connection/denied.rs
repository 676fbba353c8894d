//! How a plaintext client learns that it is kept out.

use std::time::Duration;

use tokio::net::TcpStream;

/// How long a denied client has to say something. A client that is reset before it has written
/// fails in its write, or takes the end for an empty answer; one that is reset after it, in its
/// read, as Istio's users know it (`curl: (56) Recv failure: Connection reset by peer`).
const HEAR_OUT: Duration = Duration::from_millis(250);

/// Resets a denied connection, after the client's first bytes or a short wait. Nothing is taken
/// from the queue; peeking waits for a byte, while readiness may be told too early.
pub(super) async fn reset(stream: TcpStream) {
    let heard = tokio::time::timeout(HEAR_OUT, stream.peek(&mut [0])).await;
    if let Ok(Err(error)) = heard {
        tracing::debug!(%error, "a denied client hung up by itself");
    }
    // SO_LINGER is 0 since the connection was captured: closing resets.
    drop(stream);
}
