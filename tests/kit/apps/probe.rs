//! What a kubelet does to see if a container is ready. It runs as a process of its own, in the
//! kubelet's cgroup, because agents tell probes from other traffic by that cgroup.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;

use super::client;

/// What to probe and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The address probed
    #[arg(long)]
    pub to: SocketAddr,
    /// Ask for this path over HTTP (a TCP connection is enough if not given)
    #[arg(long)]
    pub http: Option<String>,
    /// Milliseconds between probes
    #[arg(long, default_value_t = 1000)]
    pub period_ms: u64,
    /// Milliseconds until a probe has failed
    #[arg(long, default_value_t = 1000)]
    pub timeout_ms: u64,
}

/// Probes for ever, a line on stdout each: `ok`, or `failed` and why.
///
/// # Errors
/// Nobody reads the lines any more.
pub async fn run(options: &Options) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(options.period_ms));
    loop {
        ticks.tick().await;
        let line = match once(options).await {
            Ok(()) => String::from("ok\n"),
            Err(error) => format!("failed {error:#}\n").replace("\n ", " "),
        };
        let mut out = std::io::stdout();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).context("the kubelet is gone")?;
    }
}

async fn once(options: &Options) -> Result<()> {
    let limit = Duration::from_millis(options.timeout_ms);
    let Some(path) = &options.http else {
        let connected = tokio::time::timeout(limit, TcpStream::connect(options.to)).await;
        connected.context("no answer in time")?.context("connect")?;
        return Ok(());
    };
    let answer = client::get_at(options.to, path, limit).await?;
    if !(200..400).contains(&answer.status) {
        bail!("status {}", answer.status);
    }
    Ok(())
}
