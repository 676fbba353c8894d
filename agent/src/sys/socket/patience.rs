//! How long a peer waits: whoever has reset its connection does no more; whoever has only said all it had may.

use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// How long a dial may take: as long as Linux itself keeps trying (six retries of a SYN, 127 s: `net.ipv4.tcp_syn_retries`),
/// and a little, so that the kernel's own end comes first.
pub const DIAL: Duration = Duration::from_secs(130);

/// Waits until `peer` waits no more: it has reset the connection, or has ended its side `after_end` ago. That it ended its
/// side is no more than that: it may have closed, or wait for an answer.
///
/// # Cancel safety
/// Cancel safe; nothing is taken from the stream.
pub async fn gave_up(peer: &TcpStream, after_end: Duration) -> io::Error {
    let reset = async {
        match peer.ready(Interest::ERROR).await {
            Ok(_) => peer.take_error().ok().flatten(),
            Err(error) => Some(error),
        }
    };
    let ended = async {
        // The one readiness besides an end that is waited for with it is never there: nobody sends urgent data, and who does
        // is told nothing by it.
        loop {
            match peer.ready(Interest::PRIORITY).await {
                Ok(ready) if ready.is_read_closed() => break,
                Ok(_) => tokio::time::sleep(after_end).await,
                Err(_) => break,
            }
        }
        tokio::time::sleep(after_end).await;
    };
    // Both are cancel-safe.
    tokio::select! {
        error = reset => error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        () = ended => io::Error::new(io::ErrorKind::ConnectionAborted, "closed before it was connected"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(50);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (peer, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_reset_is_the_end_of_patience_also_behind_bytes() {
        let (mut peer, ours) = pair().await;
        peer.write_all(b"GET /").await.unwrap();
        peer.set_zero_linger().unwrap();
        drop(peer);
        let error = timeout(Duration::from_secs(10), gave_up(&ours, LONG)).await.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn whoever_has_said_all_waits_a_little_longer() {
        let (mut peer, ours) = pair().await;
        peer.write_all(b"GET /").await.unwrap();
        peer.shutdown().await.unwrap();
        assert!(timeout(SHORT, gave_up(&ours, LONG)).await.is_err());
        let error = timeout(Duration::from_secs(10), gave_up(&ours, SHORT)).await.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn whoever_says_something_or_nothing_waits() {
        let (mut peer, ours) = pair().await;
        assert!(timeout(SHORT, gave_up(&ours, Duration::ZERO)).await.is_err());
        peer.write_all(b"GET /").await.unwrap();
        assert!(timeout(SHORT, gave_up(&ours, Duration::ZERO)).await.is_err());
    }
}
