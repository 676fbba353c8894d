//! Plain TCP and the mesh, side by side in one run.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    Box::pin(kit::bench::run(kit::bench::Args::parse())).await
}
