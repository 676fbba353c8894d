//! Tells a dead peer from a silent one.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use super::limits::Limits;

/// Sends a PING after `first`, then every `ping_interval`, and calls `answered` at each answer.
/// Ends when one is not answered within `ping_timeout`, or the connection is gone.
pub(super) async fn until_dead(
    mut pings: PingPong,
    limits: Limits,
    first: Duration,
    answered: impl Fn(),
) {
    sleep(first).await;
    while let Ok(Ok(_)) = timeout(limits.ping_timeout, pings.ping(Ping::opaque())).await {
        answered();
        sleep(limits.ping_interval).await;
    }
}
