//! Answers that are sent as they are written: never more of them is in memory than a few pieces.

use std::io::{self, Write};

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// A piece of an answer, in bytes, and how many may wait for the client to read. Who reads nothing is sent away, and the
/// writing ends.
const PIECE: usize = 64 << 10;
const PIECES: usize = 2;

/// JSON of what `make` makes, which is called and written outside the runtime's threads. What fails midway breaks the
/// answer off: the client is never told that it has all.
pub(super) async fn json<T: Serialize + 'static>(
    make: impl FnOnce() -> T + Send + 'static,
) -> Response {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
    let writing = tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { piece: BytesMut::new(), sender };
        serde_json::to_writer_pretty(&mut pieces, &make())?;
        pieces.flush()
    });
    let ended = async move {
        match writing.await {
            Ok(written) => written,
            Err(error) => Err(io::Error::other(error)),
        }
    };
    let Some(first) = pieces.recv().await else {
        // Whatever it is, it is more than nothing.
        let why = ended.await.err().map_or_else(String::new, |error| error.to_string());
        return (StatusCode::INTERNAL_SERVER_ERROR, why).into_response();
    };
    let rest = stream::once(async { first }).chain(ReceiverStream::new(pieces)).map(Ok);
    let end = stream::once(ended).filter_map(async |ended| ended.err().map(Err));
    let body = Body::from_stream(rest.chain(end));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Sends what is written, a piece at a time.
struct Pieces {
    piece: BytesMut,
    sender: mpsc::Sender<Bytes>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece.reserve(PIECE + bytes.len());
        }
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece).freeze();
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt as _;
    use serde::ser::{Error as _, Serializer};

    use super::*;

    /// So many entries, of which the last may fail; and how many were made.
    struct Many(usize, bool, Arc<AtomicUsize>);

    impl Serialize for Many {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.0 == 0 && self.1 {
                return Err(S::Error::custom("it broke"));
            }
            serializer.collect_seq((0..self.0).map(|number| {
                self.2.fetch_add(1, Ordering::SeqCst);
                Entry { breaks: self.1 && number + 1 == self.0 }
            }))
        }
    }

    struct Entry {
        breaks: bool,
    }

    impl Serialize for Entry {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.breaks {
                Err(S::Error::custom("it broke"))
            } else {
                serializer.serialize_str(&"x".repeat(1 << 10))
            }
        }
    }

    #[tokio::test]
    async fn it_is_written_no_faster_than_it_is_read_and_ends_with_its_reader() {
        let made = Arc::new(AtomicUsize::new(0));
        let many = Many(10_000, false, made.clone());
        let mut body = json(move || many).await.into_body();
        let first = body.frame().await.unwrap().unwrap();
        assert!(first.into_data().unwrap().starts_with(b"[\n"));
        // What is read, what waits, what is being sent, and what the stream holds.
        let most = (PIECES + 3) * (PIECE / 1024 + 1);
        assert!(made.load(Ordering::SeqCst) <= most, "{made:?}");
        drop(body);
        while Arc::strong_count(&made) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(made.load(Ordering::SeqCst) <= most, "{made:?}");
    }

    #[tokio::test]
    async fn all_of_it_arrives() {
        let many = Many(1000, false, Arc::default());
        let body = json(move || many).await.into_body().collect().await.unwrap().to_bytes();
        let entries: Vec<String> = serde_json::from_slice(&body).unwrap();
        assert_eq!((entries.len(), entries[999].len()), (1000, 1 << 10));
    }

    #[tokio::test]
    async fn what_breaks_is_never_taken_for_whole() {
        let many = Many(1000, true, Arc::default());
        let answer = json(move || many).await;
        assert!(answer.status().is_success(), "it was too late to tell");
        answer.into_body().collect().await.unwrap_err();
        let none = Many(0, true, Arc::default());
        assert_eq!(json(move || none).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
