//! A connection to the echo, and what is said on it.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::PATIENCE;
use super::worker;

/// How a connection waits: whichever costs less, so that a load measures what is between its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Its thread blocks: fewest system calls, and no other connection waits meanwhile.
    Thread,
    /// Its task does: no other thread has to wake up for what one event loop finds for many.
    Task,
}

impl Wait {
    /// That of so many connections at a time.
    pub(super) const fn of(connections: u16) -> Self {
        if connections == 1 { Self::Thread } else { Self::Task }
    }
}

/// A connection that waits its way, and never longer than [`PATIENCE`] to be made.
#[derive(Debug)]
pub(super) enum Connection {
    Thread(std::net::TcpStream),
    Task(tokio::net::TcpStream),
}

impl Connection {
    async fn open(to: SocketAddr, wait: Wait) -> io::Result<Self> {
        if wait == Wait::Thread {
            return worker::open(to).map(Self::Thread);
        }
        let stream = timeout(PATIENCE, tokio::net::TcpStream::connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(Self::Task(stream))
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Thread(stream) => stream.write_all(bytes),
            Self::Task(stream) => stream.write_all(bytes).await,
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Thread(stream) => stream.read(buffer),
            Self::Task(stream) => stream.read(buffer).await,
        }
    }
}

/// A message and the room for its answer.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    answer: Vec<u8>,
}

impl Message {
    pub(super) fn new(bytes: usize) -> Self {
        // A byte more than is awaited: a short read tells an event loop that there is no more, where
        // a full one would be followed by another that finds nothing.
        Self { bytes: vec![0x5a; bytes], answer: vec![0; bytes + 1] }
    }

    /// Sends it, another than the last one, and reads as many bytes back; they must be the same.
    pub(super) async fn exchange(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.bytes[0] = self.bytes[0].wrapping_add(1);
        connection.write_all(&self.bytes).await?;
        let mut received = 0;
        while received < self.bytes.len() {
            match connection.read(&mut self.answer[received..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => received += count,
            }
        }
        if self.answer[..received] != self.bytes {
            return Err(io::Error::other("other bytes came back"));
        }
        Ok(())
    }
}

/// A new connection that has had its answer to `message`.
pub(super) async fn first(
    to: SocketAddr,
    wait: Wait,
    message: &mut Message,
) -> io::Result<Connection> {
    let mut connection = Connection::open(to, wait).await?;
    let exchange = message.exchange(&mut connection);
    match wait {
        // The socket's own bound: a thread that blocks is asked nothing.
        Wait::Thread => exchange.await?,
        Wait::Task => timeout(PATIENCE, exchange).await??,
    }
    Ok(connection)
}

/// The same with a message of one byte.
pub(super) async fn once(to: SocketAddr, wait: Wait) -> io::Result<Connection> {
    first(to, wait, &mut Message::new(1)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_shorter_longer_or_another_is_an_error() {
        for wait in [Wait::Thread, Wait::Task] {
            for (answer, right) in [("[", true), ("[[", false), ("x", false), ("", false)] {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let to = listener.local_addr().unwrap();
                let server = std::thread::spawn(move || {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut asked = [0];
                    stream.read_exact(&mut asked).unwrap();
                    stream.write_all(answer.as_bytes()).unwrap();
                    asked
                });
                let runtime = super::super::tasks::event_loop().unwrap();
                let done = runtime.block_on(once(to, wait));
                assert_eq!(done.is_ok(), right, "{wait:?} {answer:?}: {done:?}");
                assert_eq!(server.join().unwrap(), *b"[");
            }
        }
    }
}
