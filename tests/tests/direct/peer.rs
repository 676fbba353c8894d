//! One end of a connection that writes what it likes.

use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client};

use crate::frames::{Frame, GOAWAY, RST_STREAM};
use crate::pki::{LOCALHOST, Pki};

/// Frames or records written before a peer gives up making trouble.
pub(crate) const FAR_TOO_MANY: u32 = 200_000;
/// Bytes written at once.
const BATCH: usize = 16 << 10;

/// What a peer was told before the connection was closed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// The code of the last GOAWAY.
    pub(crate) go_away: Option<u32>,
    /// The codes of all RST_STREAM, without repetition.
    pub(crate) resets: Vec<u32>,
    /// Steps that were written.
    pub(crate) steps: u32,
}

impl End {
    /// The last GOAWAY had one of `codes`, long before the peer gave up.
    pub(crate) fn is_told(&self, codes: &[u32], what: &str) {
        assert!(self.go_away.is_some_and(|code| codes.contains(&code)), "{what}: {self:?}");
        assert!(self.steps < FAR_TOO_MANY, "{what}: {self:?}");
    }
}

/// Cuts what arrives into frames.
#[derive(Debug, Default)]
pub(crate) struct Reader(Vec<u8>);

impl Reader {
    /// The whole frames so far.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.0.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut rest = &self.0[..];
        while let Some(([l0, l1, l2, kind, flags, id @ ..], after)) = rest.split_first_chunk::<9>()
        {
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            let (stream, payload) = (u32::from_be_bytes(*id), payload.to_vec());
            frames.push(Frame { kind: *kind, flags: *flags, stream, payload });
            rest = after;
        }
        self.0.drain(..self.0.len() - rest.len());
        frames
    }
}

/// A session as a client of the mesh.
pub(crate) async fn dial(pki: &Pki, to: std::net::SocketAddr) -> client::TlsStream<TcpStream> {
    let tcp = TcpStream::connect(to).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(&pki.client));
    connector.connect(ServerName::from(LOCALHOST), tcp).await.unwrap()
}

/// Writes `first`, then what `step` gives for 0, 1, 2... until it gives nothing; reads all the while,
/// up to the close, which must come.
pub(crate) async fn abuse(
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
            for Frame { kind, payload, .. } in reader.take(&buffer[..count]) {
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
