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

/// CPU time up to a moment, of the machine and of all that does not belong to the bench.
#[derive(Debug)]
pub(super) struct Clock {
    at: Instant,
    idle: Duration,
    /// Ticks of each process of others.
    others: BTreeMap<u32, u64>,
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
        let (others, idle) = (others(&groups(site)?)?, idle()?);
        Ok(Self { others, idle, side, agents, at: Instant::now() })
    }

    /// What was used from then to now.
    pub(super) fn used(&self, site: &Site) -> Result<Used> {
        let now = Self::read(site, self.side)?;
        let cpus = f64::from(u32::try_from(cpus()?)?);
        let whole = (now.at - self.at).as_secs_f64() * cpus;
        let idle = now.idle.saturating_sub(self.idle).as_secs_f64();
        let machine = (whole - idle).max(0.0);
        let others = of_ticks(since(&self.others, &now.others)).as_secs_f64();
        let foreign = (others / whole).min(1.0);
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

/// The cgroups of all processes that the runs started, by name.
fn groups(site: &Site) -> Result<Vec<String>> {
    let name = |mesh: &Mesh| -> Result<String> {
        let group = mesh.group()?;
        let name = group.file_name().context("a run's cgroup has a name")?;
        Ok(name.to_string_lossy().into_owned())
    };
    site.meshes().map(|(_, mesh)| name(mesh)).collect()
}

/// The kernel's threads that carry packets, and that free what packets and connections took. What they do for
/// other programs is not told apart.
const WORKERS: [&str; 3] = ["ksoftirqd/", "kworker/", "rcu"];

/// Ticks of each process that is neither of `groups`, nor this one, nor one of [`WORKERS`]; they come and go.
///
/// Others are counted themselves: what is left of the machine without us would hold the packets too that CPUs
/// without anything else to do receive, which the kernel counts for nobody.
fn others(groups: &[String]) -> Result<BTreeMap<u32, u64>> {
    let entries = std::fs::read_dir("/proc").context("list /proc")?;
    let found = entries.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
        let (stat, cgroup) = (read("stat")?, read("cgroup")?);
        let (_, name) = stat.split_once('(')?;
        let ours = pid == std::process::id()
            || WORKERS.iter().any(|worker| name.starts_with(worker))
            || is_below(&cgroup, groups);
        if ours { None } else { Some((pid, parse_ticks(&stat)?)) }
    });
    Ok(found.collect())
}

/// Whether a process (cgroups(7), `/proc/PID/cgroup`) is in one of `groups` of the one hierarchy, or below.
fn is_below(cgroup: &str, groups: &[String]) -> bool {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    path.split('/').any(|part| groups.iter().any(|group| group == part))
}

/// What was added from one look to the next; what ended in between is not known.
fn since(before: &BTreeMap<u32, u64>, now: &BTreeMap<u32, u64>) -> u64 {
    let added = |(pid, ticks): (&u32, &u64)| ticks.saturating_sub(*before.get(pid).unwrap_or(&0));
    now.iter().map(added).sum()
}

/// User and system time of a process and of its children that have ended (proc(5), `stat`).
fn parse_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let times = after_name.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
    let times: Vec<u64> = times.collect::<Result<_, _>>().ok()?;
    (times.len() == 4).then(|| times.iter().sum())
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
    }

    #[test]
    fn a_busy_program_is_seen_and_this_one_is_not() {
        let mut shell = std::process::Command::new("sh");
        // It ends by itself, also if this test does not get to it.
        let some = "i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done";
        let mut child = shell.args(["-c", some]).spawn().unwrap();
        let ticks = |groups: &[String]| others(groups).unwrap().get(&child.id()).copied();
        let until = Instant::now() + Duration::from_secs(10);
        while ticks(&[]).unwrap() < 5 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (seen, this) = (ticks(&[]), others(&[]).unwrap().contains_key(&std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen >= Some(5) && !this, "{seen:?}");
    }

    #[test]
    fn processes_of_a_run_are_those_below_its_cgroup() {
        let groups = [String::from("kit-1f")];
        assert!(is_below("1:cpu:/\n0::/a/kit-1f/node1/agent\n", &groups));
        assert!(!is_below("0::/a/kit-1f0\n", &groups));
        assert!(!is_below("1:cpu:/kit-1f\n0::/\n", &groups));
        assert!(!is_below("", &groups));
    }

    #[test]
    fn times_are_those_of_a_process_and_its_children_whatever_the_name() {
        let stat = "17 (kworker/0:1-a) b) S 2 0 0 0 -1 69238880 0 0 0 0 12 30 5 7 20 0 1 0 25 0";
        assert_eq!(parse_ticks(stat), Some(54));
        assert_eq!(parse_ticks("17 (kworker/0:1) S 2"), None);
    }

    #[test]
    fn processes_that_come_and_go_count_with_what_is_known_of_them() {
        let (before, now) =
            (BTreeMap::from([(1, 10), (2, 900)]), BTreeMap::from([(1, 15), (3, 4)]));
        assert_eq!(since(&before, &now), 9);
    }
}
