//! Bytes there and back at a steady pace, each checked: whatever happens to the way between client
//! and echo, none may be lost, doubled or changed.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a byte, or a connection, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to call and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// An echo
    #[arg(long)]
    pub to: SocketAddr,
    /// Connections at a time
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Seconds to run
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Milliseconds between a connection's bytes
    #[arg(long, default_value_t = 10)]
    pub pause_ms: u64,
    /// A new connection for each byte
    #[arg(long)]
    pub fresh: bool,
    /// Print how long a byte took there and back, in microseconds: the longest, and those of which one in a thousand
    /// and one in a hundred took longer. Of a connection that stays, the first is left out: it waits for the way
    /// behind to be made.
    #[arg(long)]
    pub longest: bool,
}

/// Runs to the end and prints how many bytes came back, or how long they took.
///
/// # Errors
/// The first byte or connection that failed.
pub async fn run(options: &Options) -> Result<()> {
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut connections = JoinSet::new();
    let pause = Duration::from_millis(options.pause_ms);
    for number in 0..options.connections {
        // Many that wake together would wait for each other, not for what is between them and the echo.
        let after = pause.mul_f64(number as f64 / options.connections as f64);
        connections.spawn(pulse(options.clone(), until, after));
    }
    let mut took = Vec::new();
    while let Some(ended) = connections.join_next().await {
        took.extend(ended??);
    }
    if !options.longest {
        return writeln!(std::io::stdout(), "{}", took.len()).context("print the count");
    }
    took.sort_unstable();
    let longest = took.last().context("no byte came back")?;
    let but_one_of = |many: usize| took[took.len() - 1 - took.len() / many];
    let [rare, seldom] = [1000, 100].map(but_one_of);
    writeln!(std::io::stdout(), "{longest} {rare} {seldom}").context("print the times")
}

/// How long each byte took, in microseconds, the first of them sent `after` so long.
async fn pulse(options: Options, until: Instant, after: Duration) -> Result<Vec<u64>> {
    let mut stream = open(options.to).await?;
    let mut took = Vec::new();
    if options.longest && !options.fresh {
        there_and_back(&mut stream, 0).await?;
    }
    sleep(after).await;
    while Instant::now() < until {
        let begun = Instant::now();
        there_and_back(&mut stream, took.len() as u64).await?;
        took.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        sleep(Duration::from_millis(options.pause_ms)).await;
        if options.fresh {
            drop(stream);
            stream = open(options.to).await?;
        }
    }
    Ok(took)
}

async fn open(to: SocketAddr) -> Result<TcpStream> {
    let opened = timeout(PATIENCE, TcpStream::connect(to)).await;
    let stream = opened.context("no connection in time")?;
    let stream = stream.with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The low byte of the count goes out and must come back.
async fn there_and_back(stream: &mut TcpStream, count: u64) -> Result<()> {
    let [sent, ..] = count.to_le_bytes();
    stream.write_all(&[sent]).await.with_context(|| format!("send byte {count}"))?;
    let received = timeout(PATIENCE, stream.read_u8()).await;
    let received = received.with_context(|| format!("byte {count} does not come back"))?;
    let received = received.with_context(|| format!("receive byte {count}"))?;
    ensure!(received == sent, "byte {count}: sent {sent}, received {received}");
    Ok(())
}
