//! The apps that run in the pocket cluster's pods.

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    kit::apps::run(kit::apps::Args::parse()).await
}
