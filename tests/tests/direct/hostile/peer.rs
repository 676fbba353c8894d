//! One end of a connection that writes what it likes.

use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client};

use super::frames::{GOAWAY, RST_STREAM};
use crate::pki::{LOCALHOST, Pki};

/// Bytes written at once.
const BATCH: usize = 16 << 10;

/// What a peer was told before the connection was closed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// The code of the last GOAWAY.
    pub(super) go_away: Option<u32>,
    /// The codes of all RST_STREAM, without repetition.
    pub(super) resets: Vec<u32>,
    /// Steps that were written.
    pub(super) steps: u32,
}

impl End {
    /// The last GOAWAY had one of `codes`, long before the peer gave up.
    pub(super) fn is_told(&self, codes: &[u32], what: &str) {
        assert!(self.go_away.is_some_and(|code| codes.contains(&code)), "{what}: {self:?}");
        assert!(self.steps < super::FAR_TOO_MANY, "{what}: {self:?}");
    }
}

/// Cuts what arrives into frames.
#[derive(Debug, Default)]
pub(super) struct Reader(Vec<u8>);

impl Reader {
    /// Kinds and payloads of the whole frames so far.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.0.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some((head, rest)) = self.0.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some(payload) = rest.get(..length) else { break };
            frames.push((head[3], payload.to_vec()));
            self.0.drain(..9 + length);
        }
        frames
    }
}

/// A session as a client of the mesh.
pub(super) async fn dial(pki: &Pki, to: std::net::SocketAddr) -> client::TlsStream<TcpStream> {
    let tcp = TcpStream::connect(to).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(&pki.client));
    connector.connect(ServerName::from(LOCALHOST), tcp).await.unwrap()
}

/// Writes `first`, then what `step` gives for 0, 1, 2... until it gives nothing; reads all the while,
/// up to the close, which must come.
pub(super) async fn abuse(
    tls: impl AsyncRead + AsyncWrite,
    first: Vec<u8>,
    mut step: impl FnMut(u32) -> Option<Vec<u8>>,
) -> End {
    let (mut read, mut write) = split(tls);
    let steps = std::cell::Cell::new(0);
    let writing = async {
        let mut batch = first;
        let mut more = true;
        while more {
            while more && batch.len() < BATCH {
                match step(steps.get()) {
                    Some(bytes) => batch.extend_from_slice(&bytes),
                    None => more = false,
                }
                steps.set(steps.get() + u32::from(more));
            }
            if write.write_all(&batch).await.is_err() || write.flush().await.is_err() {
                break;
            }
            batch.clear();
            // What it has to say comes to the other end, and is judged, before more is said.
            tokio::task::yield_now().await;
        }
        // The other end is to close.
        std::future::pending::<()>().await;
    };
    let reading = async {
        let (mut end, mut reader, mut buffer) = (End::default(), Reader::default(), [0; 4096]);
        // A reset of the connection closes it as well.
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            for (kind, payload) in reader.take(&buffer[..count]) {
                let code = |at| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                match kind {
                    GOAWAY => end.go_away = Some(code(4)),
                    RST_STREAM if !end.resets.contains(&code(0)) => end.resets.push(code(0)),
                    _ => {}
                }
            }
        }
        end
    };
    let end = tokio::select! {
        end = reading => end,
        () = writing => unreachable!("it waits for the close"),
    };
    End { steps: steps.get(), ..end }
}
