//! Flows of bytes of which each tells its flow and its place, compared one by one on arrival: stronger
//! than a checksum, and as quick as memory even without optimisation.

pub(crate) use kit::apps::exact::noise::{Arriving, PART, part};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends `total` bytes of flow `seed`; the end is left open.
pub(crate) async fn send(into: &mut (impl AsyncWrite + Unpin), seed: u64, total: u64) {
    let mut at = 0;
    while at < total {
        let length = usize::try_from(total - at).map_or(PART, |left| left.min(PART));
        into.write_all(part(seed, at, length)).await.unwrap();
        at += length as u64;
    }
}

/// Receives `total` bytes of flow `seed`, and nothing else up to the end.
pub(crate) async fn receive(from: &mut (impl AsyncRead + Unpin), seed: u64, total: u64) {
    let (mut arriving, mut buffer) = (Arriving::new(seed), vec![0; PART]);
    loop {
        let read = from.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        arriving.take(&buffer[..read]).unwrap();
    }
    assert_eq!(arriving.at, total, "flow {seed} ends early or late");
}

/// Sends one flow and receives another, both to their ends.
pub(crate) async fn exchange(mut app: TcpStream, (up, down): (u64, u64), total: u64) {
    let (mut read, mut write) = app.split();
    let sending = async {
        send(&mut write, up, total).await;
        write.shutdown().await.unwrap();
    };
    tokio::join!(sending, receive(&mut read, down, total));
}
