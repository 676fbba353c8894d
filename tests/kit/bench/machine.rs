//! The machine: what it is, and how much of it is used by us and by others.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::site::{Side, Site, name_of};
use crate::netns;

const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What figures depend on besides the mesh.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) cpus: usize,
    pub(super) model: String,
    pub(super) kernel: String,
    /// What new sockets of the pods use; the agents' in-pod legs may choose another.
    pub(super) congestion_control: String,
    /// The build profile of the programs that were measured.
    pub(super) profile: &'static str,
}

pub(super) fn describe(site: &Site) -> Result<Machine> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel")?;
    Ok(Machine {
        cpus: cpus()?,
        model: model.unwrap_or("unknown").trim_start_matches([' ', '\t', ':']).to_owned(),
        kernel: kernel.trim().to_owned(),
        congestion_control: congestion(site)?,
        profile: if cfg!(debug_assertions) { "debug" } else { "optimised" },
    })
}

/// Of all pods: one word, or several where they differ.
fn congestion(site: &Site) -> Result<String> {
    let mut found = Vec::new();
    for side in [Side::Plain, Side::Mesh] {
        let pair = site.pair(side);
        for pod in [&pair.client, &pair.server] {
            let read = netns::within(&name_of(pod)?, || std::fs::read_to_string(CONGESTION))?;
            found.push(read.context("the congestion control")?.trim().to_owned());
        }
    }
    found.dedup();
    Ok(found.join(", "))
}

/// CPU time up to a moment, of the machine and of all that belongs to the bench.
#[derive(Debug)]
pub(super) struct Clock {
    at: Instant,
    idle: Duration,
    own: Duration,
    agents: f64,
}

/// CPU time between two moments, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Used {
    /// Of the whole machine.
    pub(super) machine: f64,
    /// Of both agents.
    pub(super) agents: f64,
    /// Part of the machine that others used: 0 to 1.
    pub(super) foreign: f64,
}

impl Clock {
    /// Now.
    pub(super) fn read(site: &Site) -> Result<Self> {
        let mut agents = 0.0;
        for agent in &site.cluster.agents {
            agents += agent.process.usage()?.cpu_seconds;
        }
        let group = own_group(site)?;
        Ok(Self { own: own(&group)?, idle: idle()?, agents, at: Instant::now() })
    }

    /// What was used from then to now.
    pub(super) fn used(&self, site: &Site) -> Result<Used> {
        let now = Self::read(site)?;
        let cpus = f64::from(u32::try_from(cpus()?)?);
        let whole = (now.at - self.at).as_secs_f64() * cpus;
        let idle = now.idle.saturating_sub(self.idle).as_secs_f64();
        let machine = (whole - idle).max(0.0);
        let own = now.own.saturating_sub(self.own).as_secs_f64();
        let foreign = ((machine - own) / whole).clamp(0.0, 1.0);
        Ok(Used { machine, agents: now.agents - self.agents, foreign })
    }
}

/// The cgroup of every process that the run started.
fn own_group(site: &Site) -> Result<PathBuf> {
    let node = site.cluster.nodes.first().context("no node")?;
    Ok(node.config.cgroup.parent().context("a node below the run's cgroup")?.to_owned())
}

/// Time of the run's processes, of this one, and of the kernel's threads that carry packets.
fn own(group: &Path) -> Result<Duration> {
    let stat = std::fs::read_to_string(group.join("cpu.stat")).context("the run's CPU time")?;
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let used = Duration::from_micros(used.context("no usage_usec")?.trim().parse()?);
    let mut ticks = ticks("self")?;
    for pid in packet_threads()? {
        ticks += self::ticks(&pid)?;
    }
    Ok(used + of_ticks(ticks))
}

/// `ksoftirqd/<cpu>`: found once, they live as long as the machine.
fn packet_threads() -> Result<Vec<String>> {
    static FOUND: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let entries = std::fs::read_dir("/proc").context("list /proc")?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is = |pid: &String| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.starts_with("ksoftirqd/"))
    };
    Ok(FOUND.get_or_init(|| names.filter(is).collect()).clone())
}

/// User and system time of a process (proc(5), `stat`).
fn ticks(pid: &str) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("a process's time")?;
    let (_, after_name) = stat.rsplit_once(')').context("an odd stat")?;
    let fields = after_name.split_whitespace().skip(11).take(2);
    let times: Result<Vec<u64>, _> = fields.map(str::parse).collect();
    Ok(times.context("an odd stat")?.iter().sum())
}

/// Idle time of all CPUs, waiting for disks included.
fn idle() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    parse_idle(&stat).map(of_ticks).context("an odd /proc/stat")
}

fn parse_idle(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().skip(3);
    let idle: u64 = fields.next()?.parse().ok()?;
    let waiting: u64 = fields.next()?.parse().ok()?;
    Some(idle + waiting)
}

/// USER_HZ is 100 on every architecture that Linux runs Rust on.
fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 10)
}

/// CPUs of the machine, not of this process's share of it: `/proc/stat` counts them all.
fn cpus() -> Result<usize> {
    let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let numbered = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    Ok(stat.lines().filter(numbered).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_the_fourth_and_fifth_field() {
        let stat = "cpu  512207 22917 91419 387440 2011 0 777 242 0 0\ncpu0 1 2\n";
        assert_eq!(parse_idle(stat), Some(389_451));
        assert_eq!(parse_idle("intr 1"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(cpus().unwrap() > 0);
        assert!(idle().unwrap() > Duration::ZERO);
        ticks("self").unwrap();
    }
}
