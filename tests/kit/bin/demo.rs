//! From nothing to pods' plaintext turned into mutual TLS, shown step by step.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    kit::demo::run(kit::demo::Args::parse()).await
}
