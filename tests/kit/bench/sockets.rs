//! Sockets of a pod as `ss` lists them: the tunnels, and what closed connections leave behind.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::node::RunningPod;

const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// The tunnels that a client's pod has open, by their own address and port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tunnels {
    bytes: BTreeMap<String, u64>,
    /// The congestion control they use.
    pub(super) congestion: BTreeSet<String>,
}

impl Tunnels {
    /// Those of a pod, now.
    ///
    /// # Errors
    /// `ss` fails.
    pub(super) fn of(client: &RunningPod) -> Result<Self> {
        let listed = ss(client, &["-Htin", "state", "established", "dport", "=", ":15008"])?;
        let known = std::fs::read_to_string(AVAILABLE).context("congestion controls")?;
        let known: BTreeSet<&str> = known.split_whitespace().collect();
        Ok(Self::parse(&listed, &known))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes both ways that crossed since `before` in tunnels that are still open.
    pub(super) fn crossed_since(&self, before: &Self) -> u64 {
        let since = |(at, bytes): (&String, &u64)| {
            bytes.saturating_sub(before.bytes.get(at).copied().unwrap_or(0))
        };
        self.bytes.iter().map(since).sum()
    }

    /// A line of addresses for each socket, then an indented one of what the kernel knows of it.
    fn parse(listed: &str, known: &BTreeSet<&str>) -> Self {
        let mut tunnels = Self::default();
        let mut at = "";
        for line in listed.lines() {
            if !line.starts_with(char::is_whitespace) {
                at = line.split_whitespace().nth(2).unwrap_or_default();
                continue;
            }
            let mut bytes = 0;
            for word in line.split_whitespace() {
                let counted = ["bytes_acked:", "bytes_received:"]
                    .iter()
                    .find_map(|key| word.strip_prefix(key));
                bytes += counted.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
                if known.contains(word) {
                    tunnels.congestion.insert(word.to_owned());
                }
            }
            tunnels.bytes.insert(at.to_owned(), bytes);
        }
        tunnels
    }
}

/// Drops what closed connections left in TIME_WAIT, so that no load pays for the ports that the one
/// before it used up.
///
/// # Errors
/// `ss` fails, or the kernel cannot do it (CONFIG_INET_DIAG_DESTROY).
pub(super) fn forget_closed(pod: &RunningPod) -> Result<()> {
    ss(pod, &["-KHtan", "state", "time-wait"])?;
    let left = ss(pod, &["-Htan", "state", "time-wait"])?.lines().count();
    if left > 1000 {
        bail!("{left} closed connections cannot be dropped: CONFIG_INET_DIAG_DESTROY is needed");
    }
    Ok(())
}

fn ss(pod: &RunningPod, arguments: &[&str]) -> Result<String> {
    let enter = format!("--net={}", pod.netns.display());
    command::run("nsenter", [&[enter.as_str(), "--", "ss"], arguments].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
0      0      10.244.1.2:40000 10.244.2.2:15008
\t ts sack bbr wscale:10,10 rto:204 bytes_sent:900 bytes_acked:1001 bytes_received:30 segs_out:3
0      0      10.244.1.2:40002 10.244.2.2:15008
\t cubic wscale:10,10 bytes_received:7 bbr:(bw:0bps)
";

    #[test]
    fn bytes_both_ways_and_the_congestion_control_are_found() {
        let tunnels = Tunnels::parse(LISTED, &["bbr", "cubic", "reno"].into());
        assert_eq!(tunnels.count(), 2);
        assert_eq!(tunnels.congestion.iter().collect::<Vec<_>>(), ["bbr", "cubic"]);
        assert_eq!(tunnels.crossed_since(&Tunnels::default()), 1038);
    }

    #[test]
    fn only_what_crossed_since_counts() {
        let before = Tunnels::parse(LISTED, &BTreeSet::new());
        let later = LISTED.replace("acked:1001", "acked:1501").replace(":40002", ":40004");
        let later = Tunnels::parse(&later, &BTreeSet::new());
        assert_eq!(later.crossed_since(&before), 507);
        assert_eq!(Tunnels::default().crossed_since(&before), 0);
    }
}
