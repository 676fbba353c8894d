//! Connections that end in every way, and of which every byte is compared on arrival.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Subcommand, ValueEnum};
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::listen;

pub mod noise;

use noise::{Arriving, PART, part};

/// Until the other side of a reset has seen it.
const SEEN: Duration = Duration::from_secs(10);

/// A side of it.
#[derive(Debug, Subcommand)]
pub enum Side {
    /// Answers at a port
    Serve {
        #[arg(long, default_value_t = 7200)]
        port: u16,
    },
    /// Opens connections, and fails with the first thing that is not as it should be
    Drive(Options),
}

/// What to drive.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Where `serve` answers.
    to: SocketAddr,
    /// How they end.
    how: How,
    /// How many.
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// How many at a time.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// How much on each, each way.
    #[arg(long, default_value_t = 100_000)]
    bytes: u64,
}

/// How a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// Both sides send at once, and end by themselves.
    Exchange,
    /// The client sends and ends, then the server.
    ClientFirst,
    /// The server sends and ends, then the client.
    ServerFirst,
    /// The client resets when all it sent has arrived; the server must see some end of it.
    ClientResets,
    /// The server resets when all it was sent has arrived; the client must see some end of it.
    ServerResets,
    /// The server tells how many resets it has seen, as such and as ends in order.
    Asked,
}

/// The other side's resets that were seen as such.
static RESETS: AtomicU64 = AtomicU64::new(0);
/// The same that were seen as ends in order.
static ENDS: AtomicU64 = AtomicU64::new(0);

/// Plays a side.
///
/// # Errors
/// The port is taken; something was not as it should be.
pub async fn run(side: &Side) -> Result<()> {
    match side {
        Side::Serve { port } => serve(&listen(*port).await?).await,
        Side::Drive(options) => drive(options).await,
    }
}

async fn serve(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await.context("accept")?;
        tokio::spawn(async move {
            if let Err(error) = answer(&mut stream).await {
                tracing::debug!(%error, "connection broke");
                // So that the client fails, too.
                if let Err(error) = stream.set_zero_linger() {
                    tracing::warn!(%error, "a connection is closed instead of reset");
                }
            }
        });
    }
}

/// The server's part of one connection.
async fn answer(stream: &mut TcpStream) -> io::Result<()> {
    let how = stream.read_u8().await?;
    let how = How::value_variants().get(usize::from(how)).copied();
    let how = how.ok_or_else(|| io::Error::other("asked for something unknown"))?;
    let (number, bytes) = (stream.read_u64().await?, stream.read_u64().await?);
    let (up, down) = (2 * number, 2 * number + 1);
    let reset = how == How::ServerResets;
    let (mut read, mut write) = stream.split();
    match how {
        How::Exchange => {
            tokio::try_join!(send(&mut write, down, bytes), receive(&mut read, up, bytes))?;
        }
        How::ClientFirst => {
            receive(&mut read, up, bytes).await?;
            send(&mut write, down, bytes).await?;
        }
        How::ServerFirst => {
            send(&mut write, down, bytes).await?;
            receive(&mut read, up, bytes).await?;
        }
        How::ClientResets | How::ServerResets => {
            take(&mut read, up, bytes).await?;
            if !reset {
                write.write_u8(1).await?;
                see(read.read(&mut [0]).await)?;
            }
        }
        How::Asked => {
            write.write_u64(RESETS.load(Ordering::Relaxed)).await?;
            write.write_u64(ENDS.load(Ordering::Relaxed)).await?;
        }
    }
    if reset { stream.set_zero_linger() } else { Ok(()) }
}

#[expect(clippy::print_stdout, reason = "it is what the caller reads")]
async fn drive(options: &Options) -> Result<()> {
    let before = asked(options.to).await?;
    futures::stream::iter(0..options.connections)
        .map(|number| async move {
            let one = one(options, u64::from(number)).await;
            one.with_context(|| format!("connection {number}"))
        })
        .buffer_unordered(options.at_once)
        .try_collect::<()>()
        .await?;
    let (resets, ends) = match options.how {
        How::ClientResets => seen(options, before).await?,
        _ => (RESETS.load(Ordering::Relaxed), ENDS.load(Ordering::Relaxed)),
    };
    println!("{resets} seen as resets, {ends} as ends in order");
    Ok(())
}

/// Counts how the other side's reset arrived.
fn see(read: io::Result<usize>) -> io::Result<()> {
    let count = match read {
        Ok(0) => &ENDS,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => &RESETS,
        Ok(_) => return Err(io::Error::other("bytes instead of an end")),
        Err(error) => return Err(error),
    };
    count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// How the server saw all our resets.
async fn seen(options: &Options, before: (u64, u64)) -> Result<(u64, u64)> {
    let deadline = Instant::now() + SEEN;
    loop {
        let now = asked(options.to).await?;
        let (resets, ends) = (now.0 - before.0, now.1 - before.1);
        if resets + ends >= u64::from(options.connections) {
            return Ok((resets, ends));
        }
        ensure!(Instant::now() < deadline, "the server saw {resets} resets and {ends} ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many resets the server has seen, as such and as ends in order.
async fn asked(to: SocketAddr) -> Result<(u64, u64)> {
    let mut stream = begin(to, How::Asked, 0, 0).await?;
    Ok((stream.read_u64().await?, stream.read_u64().await?))
}

async fn begin(to: SocketAddr, how: How, number: u64, bytes: u64) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to).await.context("connect")?;
    stream.set_nodelay(true)?;
    let how = How::value_variants().iter().position(|known| *known == how);
    let how = u8::try_from(how.context("a way without a number")?)?;
    let head = [&[how][..], &number.to_be_bytes(), &bytes.to_be_bytes()].concat();
    stream.write_all(&head).await?;
    Ok(stream)
}

/// The client's part of one connection.
async fn one(options: &Options, number: u64) -> Result<()> {
    let Options { to, how, bytes, .. } = *options;
    let mut stream = begin(to, how, number, bytes).await?;
    let (up, down) = (2 * number, 2 * number + 1);
    let (mut read, mut write) = stream.split();
    match how {
        How::Exchange => {
            tokio::try_join!(send(&mut write, up, bytes), receive(&mut read, down, bytes))?;
        }
        How::ClientFirst => {
            send(&mut write, up, bytes).await?;
            receive(&mut read, down, bytes).await?;
        }
        How::ServerFirst => {
            receive(&mut read, down, bytes).await?;
            send(&mut write, up, bytes).await?;
        }
        How::ClientResets => {
            give(&mut write, up, bytes).await?;
            ensure!(read.read_u8().await? == 1, "the server says something else");
            stream.set_zero_linger()?;
        }
        How::ServerResets => {
            give(&mut write, up, bytes).await?;
            see(read.read(&mut [0]).await)?;
        }
        How::Asked => bail!("it is asked by itself"),
    }
    Ok(())
}

async fn give(write: &mut WriteHalf<'_>, flow: u64, bytes: u64) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).map_or(PART, |left| left.min(PART));
        write.write_all(part(flow, at, length)).await?;
        at += length as u64;
    }
    Ok(())
}

async fn send(write: &mut WriteHalf<'_>, flow: u64, bytes: u64) -> io::Result<()> {
    give(write, flow, bytes).await?;
    write.shutdown().await
}

/// Takes so many bytes.
async fn take(read: &mut ReadHalf<'_>, flow: u64, bytes: u64) -> io::Result<()> {
    let (mut arriving, mut buffer) = (Arriving::new(flow), vec![0; PART]);
    while arriving.at < bytes {
        let most = usize::try_from(bytes - arriving.at).map_or(PART, |left| left.min(PART));
        match read.read(&mut buffer[..most]).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => arriving.take(&buffer[..count])?,
        }
    }
    Ok(())
}

/// Takes so many bytes, and then the end.
async fn receive(read: &mut ReadHalf<'_>, flow: u64, bytes: u64) -> io::Result<()> {
    take(read, flow, bytes).await?;
    match read.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than was sent arrived")),
    }
}
