//! What runs in pods: one program that plays every app of the tutorials, and of the benchmarks.

pub mod bookinfo;
pub mod client;
pub mod exact;
pub mod httpbin;
pub mod probe;
pub mod pulse;
pub mod tcp;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;

use crate::bench::load;

/// The apps of the pocket cluster.
#[derive(Debug, Parser)]
#[command(name = "kit-app", version)]
pub struct Args {
    #[command(subcommand)]
    app: App,
}

#[derive(Debug, Subcommand)]
enum App {
    /// One of the services of bookinfo
    Bookinfo {
        service: bookinfo::Service,
        #[arg(long, default_value_t = 9080)]
        port: u16,
    },
    /// Answers with what it was asked: /get, /headers, /ip, /status/CODE
    Httpbin {
        #[arg(long = "port", default_values_t = [80])]
        ports: Vec<u16>,
    },
    /// Echo at the port, sink at the next, source at the one after
    Tcp {
        #[arg(long, default_value_t = 7000)]
        port: u16,
    },
    /// Does nothing until it is told to end
    Pause,
    /// Probes an address again and again, one line a probe: ok | failed WHY
    Probe(probe::Options),
    /// Sends bytes to an echo at a steady pace and wants each back
    Pulse(pulse::Options),
    /// Connections of which every byte is compared
    #[command(subcommand)]
    Exact(exact::Side),
    /// A side of the bench's load
    #[command(subcommand)]
    Load(load::Side),
}

/// Runs the app until SIGTERM.
///
/// # Errors
/// A port is taken, or a load that could not be driven.
pub async fn run(args: Args) -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = serve(args.app) => ended,
        _ = terminate.recv() => Ok(()),
    }
}

async fn serve(app: App) -> Result<()> {
    match app {
        App::Bookinfo { service, port } => bookinfo::serve(service, port).await,
        App::Httpbin { ports } => httpbin::serve(&ports).await,
        App::Tcp { port } => tcp::serve(port).await,
        App::Pause => std::future::pending().await,
        App::Probe(options) => probe::run(&options).await,
        App::Pulse(options) => pulse::run(&options).await,
        App::Exact(side) => exact::run(&side).await,
        App::Load(side) => load::run(side).await,
    }
}

/// Listens on all addresses of both families, of IPv4 alone where there is no IPv6.
async fn listen(port: u16) -> Result<TcpListener> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match TcpListener::bind(any).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .await
            .with_context(|| format!("listen on port {port}")),
    }
}

/// How long an app waits for another.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
