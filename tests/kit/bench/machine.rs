//! The machine: what it is, and how much of it is used by us and by others.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::site::{Mesh, Side, Site, name_of};
use crate::netns;

const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What figures depend on besides the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) cpus: usize,
    pub(super) model: String,
    pub(super) kernel: String,
    /// What new sockets of the pods use; the agents' in-pod legs may choose another.
    pub(super) congestion_control: String,
    /// What the tunnels use, by side.
    pub(super) tunnels: BTreeMap<String, String>,
    /// The build profile of the programs that were measured.
    pub(super) profile: String,
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
        tunnels: site.meshes().map(|(side, _)| of_tunnels(site, side)).collect::<Result<_>>()?,
        profile: profile()?,
    })
}

fn of_tunnels(site: &Site, side: Side) -> Result<(String, String)> {
    let used: Vec<String> = site.tunnels(side)?.congestion.into_iter().collect();
    Ok((side.word().to_owned(), used.join(", ")))
}

/// Cargo's folder of this program: that of the agents as well.
fn profile() -> Result<String> {
    let this = std::env::current_exe().context("find the running program")?;
    let folder = this.parent().and_then(Path::file_name).context("a program in no folder")?;
    Ok(folder.to_string_lossy().into_owned())
}

/// Of all pods: one word, or several where they differ.
fn congestion(site: &Site) -> Result<String> {
    let mut found = Vec::new();
    for side in site.sides() {
        let pair = site.pair(side)?;
        for pod in [&pair.client, &pair.server] {
            let read = netns::within(&name_of(pod)?, || std::fs::read_to_string(CONGESTION))?;
            found.push(read.context("the congestion control")?.trim().to_owned());
        }
    }
    found.sort();
    found.dedup();
    Ok(found.join(", "))
}

/// CPU time up to a moment, of the machine and of all that belongs to the bench.
#[derive(Debug)]
pub(super) struct Clock {
    at: Instant,
    idle: Duration,
    own: Duration,
    side: Side,
    agents: f64,
}

/// CPU time between two moments, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Used {
    /// Of the whole machine.
    pub(super) machine: f64,
    /// Of both agents of the side that was driven.
    pub(super) agents: f64,
    /// Part of the machine that others used: 0 to 1.
    pub(super) foreign: f64,
}

impl Clock {
    /// Now, to drive one side.
    pub(super) fn read(site: &Site, side: Side) -> Result<Self> {
        let agents = site.mesh_of(side).map_or(Ok(0.0), agents_seconds)?;
        Ok(Self { own: own(site)?, idle: idle()?, side, agents, at: Instant::now() })
    }

    /// What was used from then to now.
    pub(super) fn used(&self, site: &Site) -> Result<Used> {
        let now = Self::read(site, self.side)?;
        let cpus = f64::from(u32::try_from(cpus()?)?);
        let whole = (now.at - self.at).as_secs_f64() * cpus;
        let idle = now.idle.saturating_sub(self.idle).as_secs_f64();
        let machine = (whole - idle).max(0.0);
        let own = now.own.saturating_sub(self.own).as_secs_f64();
        let foreign = ((machine - own) / whole).clamp(0.0, 1.0);
        Ok(Used { machine, agents: now.agents - self.agents, foreign })
    }
}

/// CPU time of all agents of a mesh, in seconds: to the microsecond, unlike that of `/proc`.
pub(super) fn agents_seconds(mesh: &Mesh) -> Result<f64> {
    let groups = mesh.cluster.nodes.iter().map(|node| node.config.cgroup.join("agent"));
    let used = groups.map(|group| Ok(of_group(&group)?.as_secs_f64()));
    used.sum()
}

/// CPU time of a cgroup and all below.
fn of_group(group: &Path) -> Result<Duration> {
    let stat = std::fs::read_to_string(group.join("cpu.stat")).context("a cgroup's CPU time")?;
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(Duration::from_micros(used.context("no usage_usec")?.trim().parse()?))
}

/// Time of the runs' processes, of this one, and of the kernel's threads that carry packets.
fn own(site: &Site) -> Result<Duration> {
    let mut used = Duration::ZERO;
    for (_, mesh) in site.meshes() {
        used += of_group(&mesh.group()?)?;
    }
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
