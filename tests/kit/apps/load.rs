//! Drives a `tcp` app and measures: throughput, latency, connections per second.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What to drive and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The `tcp` app's first port
    #[arg(long)]
    pub to: SocketAddr,
    /// Connections at a time
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Seconds to run
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    #[command(subcommand)]
    pub what: What,
}

/// The kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum What {
    /// As many bytes as fit
    Stream {
        #[arg(long, value_enum, default_value_t = Direction::Up)]
        direction: Direction,
    },
    /// One byte there and back, again and again
    Echo,
    /// Connect, one byte there and back, close
    Connect,
    /// Open connections and hold them idle
    Hold,
}

/// Which way bytes go, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// To the server
    Up,
    /// From the server
    Down,
}

/// Runs the load and prints its figures as one line of JSON.
///
/// # Errors
/// A connection failed: the figures would be of something else.
pub async fn run(options: &Options) -> Result<()> {
    use std::io::Write;
    let report = drive(options).await?;
    writeln!(std::io::stdout(), "{report}").context("print the report")
}

async fn drive(options: &Options) -> Result<Value> {
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(options.seconds);
    let mut workers = JoinSet::new();
    for _ in 0..options.connections {
        let (to, what) = (options.to, options.what);
        workers.spawn(async move {
            match what {
                What::Stream { direction: Direction::Up } => upload(next(to, 1), until).await,
                What::Stream { direction: Direction::Down } => download(next(to, 2), until).await,
                What::Echo => echo(to, until).await,
                What::Connect => connect(to, until).await,
                What::Hold => hold(to, until).await,
            }
        });
    }
    let mut total = Tally::default();
    while let Some(done) = workers.join_next().await {
        total.add(done??);
    }
    Ok(total.report(started.elapsed()))
}

#[derive(Debug, Default)]
struct Tally {
    bytes: u64,
    micros: Vec<f64>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.micros.extend(other.micros);
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn report(mut self, elapsed: Duration) -> Value {
        self.micros.sort_by(f64::total_cmp);
        let seconds = elapsed.as_secs_f64();
        json!({
            "seconds": seconds,
            "bytes": self.bytes,
            "gbit_per_second": self.bytes as f64 * 8.0 / seconds / 1e9,
            "operations": self.micros.len(),
            "operations_per_second": self.micros.len() as f64 / seconds,
            "p50_us": self.quantile(1, 2),
            "p99_us": self.quantile(99, 100),
        })
    }

    fn quantile(&self, part: usize, whole: usize) -> Option<f64> {
        let last = self.micros.len().checked_sub(1)?;
        self.micros.get(last * part / whole).copied()
    }
}

fn next(to: SocketAddr, by: u16) -> SocketAddr {
    SocketAddr::new(to.ip(), to.port() + by)
}

async fn open(to: SocketAddr) -> Result<TcpStream> {
    let opened = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(to)).await;
    let stream =
        opened.context("no connection in time")?.with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Counts a byte when the sink has it: waits for the sink's word at the end.
async fn upload(to: SocketAddr, until: Instant) -> Result<Tally> {
    let mut stream = open(to).await?;
    let block = vec![0x5a; 256 << 10];
    let mut tally = Tally::default();
    while Instant::now() < until {
        stream.write_all(&block).await.context("send")?;
        tally.bytes += block.len() as u64;
    }
    stream.shutdown().await.context("end the stream")?;
    stream.read_u8().await.context("the sink's word")?;
    Ok(tally)
}

async fn download(to: SocketAddr, until: Instant) -> Result<Tally> {
    let mut stream = open(to).await?;
    let mut block = vec![0; 256 << 10];
    let mut tally = Tally::default();
    while Instant::now() < until {
        let count = stream.read(&mut block).await.context("receive")?;
        anyhow::ensure!(count > 0, "the source ended");
        tally.bytes += count as u64;
    }
    Ok(tally)
}

async fn echo(to: SocketAddr, until: Instant) -> Result<Tally> {
    let mut stream = open(to).await?;
    let mut tally = Tally::default();
    while Instant::now() < until {
        tally.micros.push(there_and_back(&mut stream).await?);
    }
    Ok(tally)
}

async fn connect(to: SocketAddr, until: Instant) -> Result<Tally> {
    let mut tally = Tally::default();
    while Instant::now() < until {
        let started = Instant::now();
        let mut stream = open(to).await?;
        there_and_back(&mut stream).await?;
        tally.micros.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(tally)
}

async fn hold(to: SocketAddr, until: Instant) -> Result<Tally> {
    let mut stream = open(to).await?;
    let mut tally = Tally::default();
    tally.micros.push(there_and_back(&mut stream).await?);
    tokio::time::sleep_until(until.into()).await;
    Ok(tally)
}

async fn there_and_back(stream: &mut TcpStream) -> Result<f64> {
    let started = Instant::now();
    stream.write_all(b"x").await.context("send")?;
    stream.read_u8().await.context("receive")?;
    Ok(started.elapsed().as_secs_f64() * 1e6)
}
