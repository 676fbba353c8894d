//! The apps that run in the pocket cluster's pods, and the plugin of its network.

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if kit::cni::primary::is_called() {
        return kit::cni::primary::run();
    }
    kit::apps::run(kit::apps::Args::parse()).await
}
