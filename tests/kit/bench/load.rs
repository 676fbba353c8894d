//! The load generator: a server that answers, sinks and pours, and a client that drives one of its
//! ports for a while. Whatever costs the machine less is used for each, threads that block or tasks on
//! an event loop: what a load spends on itself would hide what is measured.
//!
//! Every byte is accounted for by both ends; what fails is counted, never retried.

mod at_once;
mod bulk;
mod connection;
mod report;
mod request;
mod serve;
mod tasks;
mod until;
mod worker;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use tokio::sync::oneshot;

pub use report::Report;

/// Where the server's echo listens; sink and source are the next two.
pub const PORT: u16 = 7000;
const SINK: u16 = 1;
const SOURCE: u16 = 2;

/// Longest time for a connection to be made, and for a byte to come or go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Either side of a load.
#[derive(Debug, Clone, Subcommand)]
pub enum Side {
    /// Echo at the port, sink at the next, source at the one after
    Serve {
        #[arg(long, default_value_t = PORT)]
        port: u16,
    },
    /// Drives a server and prints what came of it as one line of JSON
    Drive(Drive),
    /// For each line that comes, prints after how many microseconds the server answered
    Until {
        #[arg(long)]
        to: SocketAddr,
    },
}

/// What to drive, and within which bounds.
#[derive(Debug, Clone, Args)]
pub struct Drive {
    /// The server's first port
    #[arg(long)]
    to: SocketAddr,
    /// Connections at a time, 1 to 1000
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Seconds to go on, up to 60
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[command(subcommand)]
    kind: Kind,
}

/// The kinds of load.
#[derive(Debug, Clone, Copy, Subcommand)]
enum Kind {
    /// As many bytes as fit, to the server
    Up,
    /// As many bytes as fit, from the server
    Down,
    /// A request of so many bytes and the same back, again and again
    Request {
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16384))]
        bytes: u16,
    },
    /// Connect, one byte there and back, close, again and again
    Connect,
    /// The same, without a bound to how many: ports run out, or do not
    Churn,
    /// All connections in the same moment, one byte there and back on each
    AtOnce {
        /// Then says `held` and keeps them open until its input ends
        #[arg(long)]
        hold: bool,
    },
}

/// Plays one side until it is done; a server never is.
///
/// # Errors
/// A port is taken, or threads cannot be made. What fails on connections is in the report.
pub async fn run(side: Side) -> Result<()> {
    match side {
        Side::Serve { port } => {
            serve::start(port)?;
            std::future::pending().await
        }
        Side::Until { to } => tokio::task::spawn_blocking(move || until::run(to)).await?,
        Side::Drive(drive) => {
            let (done, result) = oneshot::channel();
            // Not a task of the runtime: a signal must be able to end the program under it.
            std::thread::spawn(move || {
                let unheard = done.send(drive.run()).is_err();
                tracing::trace!(unheard, "driven");
            });
            let report = result.await.context("the driver panicked")??;
            print(&serde_json::to_string(&report)?)
        }
    }
}

impl Drive {
    fn run(&self) -> Result<Report> {
        anyhow::ensure!(
            self.seconds > 0.0 && self.seconds <= 60.0,
            "--seconds is above 0 and at most 60"
        );
        let duration = Duration::from_secs_f64(self.seconds);
        match self.kind {
            Kind::Up => bulk::up(self.port(SINK), self.connections, duration),
            Kind::Down => bulk::down(self.port(SOURCE), self.connections, duration),
            Kind::Request { bytes } => {
                request::requests(self.to, self.connections, duration, usize::from(bytes))
            }
            Kind::Connect => request::connects(self.to, self.connections, duration),
            Kind::Churn => request::churn(self.to, self.connections, duration),
            Kind::AtOnce { hold } => at_once::run(self.to, self.connections, hold),
        }
    }

    fn port(&self, by: u16) -> SocketAddr {
        SocketAddr::new(self.to.ip(), self.to.port() + by)
    }
}

fn print(line: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("print")
}
