//! What this node can do for the agent: shown by doing it, with a pod that lives for a moment.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::bpf::{Kernel, KernelConfig, remove_all};
use super::kubelet::{Kubelet, Search};
use super::{PodCapture, PodListeners, StandInRanges};
use crate::mesh::local::Exclusions;
use crate::mesh::{Account, LocalPod, PodUid};
use crate::sys::cgroup::{self, Cgroup};
use crate::sys::{Host, Netns, host, privileges, sysctl};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// What was found.
    pub detail: String,
    /// What it means.
    pub verdict: Verdict,
}

/// What a finding means for the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As needed.
    Good,
    /// It cannot be told from here.
    Unseen,
    /// The agent works, with less.
    Limited,
    /// The agent cannot work.
    Missing,
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report(pub Vec<Finding>);

/// The file system that pins are in.
const PINS: &str = "/sys/fs/bpf";
/// The kubelet's cgroup of the trial.
const KUBELET: &str = "kubelet.service";
/// The first release with `bpf_set_retval` in connect hooks.
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// Looks at this node, whose `/proc` is `proc`, for the kubelet only in the cgroup `kubelet` if one is given.
/// Changes nothing that outlasts the call.
pub fn check(cgroup_root: Option<&Path>, proc: &Path, kubelet: Option<PathBuf>) -> Report {
    let mut findings = vec![kernel_version(), user(), capabilities(), ipv6(), pins(proc)];
    let root = match cgroup_root {
        Some(path) => Ok(path.to_owned()),
        None => Host::find().cgroup_root(),
    };
    match root {
        Ok(root) => {
            findings.push(finding("cgroup v2", Ok(root.display().to_string())));
            findings.push(trial(&root));
            findings.push(whose_probes(proc, root, kubelet));
        }
        Err(error) => findings.push(finding("cgroup v2", Err(error.to_string()))),
    }
    Report(findings)
}

impl Report {
    /// Whether the agent can work here.
    pub fn is_usable(&self) -> bool {
        self.0.iter().all(|finding| finding.verdict != Verdict::Missing)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { subject, detail, verdict } in &self.0 {
            let verdict = match verdict {
                Verdict::Good => "ok",
                Verdict::Unseen => "-",
                Verdict::Limited => "limited",
                Verdict::Missing => "MISSING",
            };
            writeln!(f, "{verdict:8} {subject:14} {detail}")?;
        }
        Ok(())
    }
}

fn finding(subject: &'static str, result: Result<String, String>) -> Finding {
    let (detail, verdict) = match result {
        Ok(detail) => (detail, Verdict::Good),
        Err(detail) => (detail, Verdict::Missing),
    };
    Finding { subject, detail, verdict }
}

fn kernel_version() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let (major, minor) = OLDEST_KERNEL;
    let result = match version(&release) {
        Some(found) if found >= OLDEST_KERNEL => Ok(release),
        _ => Err(format!("{release:?} is older than {major}.{minor}")),
    };
    finding("kernel", result)
}

/// Major and minor number of a release such as `6.8.0-31-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn user() -> Finding {
    let root = privileges::is_root();
    finding("user", if root { Ok("root".into()) } else { Err("run this as root".into()) })
}

fn capabilities() -> Finding {
    let missing: Vec<_> = privileges::AGENT
        .iter()
        .filter(|capability| !privileges::has(**capability).unwrap_or(false))
        .map(|capability| format!("{capability:?}"))
        .collect();
    let result = if missing.is_empty() { Ok("all".into()) } else { Err(missing.join(", ")) };
    finding("capabilities", result)
}

fn ipv6() -> Finding {
    if sysctl::read("net.ipv6.conf.all.disable_ipv6").is_ok() {
        return finding("ipv6", Ok("present".into()));
    }
    let detail = "absent: only IPv4 is captured".into();
    Finding { subject: "ipv6", detail, verdict: Verdict::Limited }
}

fn pins(proc: &Path) -> Finding {
    let lasting = host::ensure_lasting_pins(Path::new(PINS), proc);
    finding("pins", lasting.map(|()| PINS.to_owned()).map_err(|error| error.to_string()))
}

/// An error and what caused it, on one line.
fn reasons(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Whose probes will be exempt.
fn whose_probes(proc: &Path, root: PathBuf, given: Option<PathBuf>) -> Finding {
    let found = Search::new(proc.to_owned(), root, given).look(Instant::now());
    let why = match found {
        Ok(Kubelet::In(path)) => {
            return finding("kubelet", Ok(path.display().to_string()));
        }
        Ok(Kubelet::Absent) => "no process of the node itself is one".to_owned(),
        Ok(Kubelet::Several(paths)) => {
            let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            format!("several could be it, in {}", paths.join(", "))
        }
        Err(error) => reasons(&error),
    };
    let detail = format!("{why}: its probes would be captured (--kubelet-cgroup names it)");
    Finding { subject: "kubelet", detail, verdict: Verdict::Limited }
}

/// Loads, attaches and enrols, in a cgroup and a network namespace of its own; in a container, which can make no cgroups, in
/// the container's.
fn trial(root: &Path) -> Finding {
    let name = format!("sotto-check-{}", std::process::id());
    let place = root.join(&name);
    let pins = Path::new(PINS).join(&name);
    let made = std::fs::create_dir(&place);
    let result = match made {
        Ok(()) => {
            let tried = tried(&place, &pins, Some(&place.join(KUBELET)));
            let remove = |path: &Path| std::fs::remove_dir(path).map_err(|e| e.to_string());
            let left = remove(&place.join(KUBELET)).and_then(|()| remove(&place));
            tried.and(left)
        }
        Err(error) => match own_cgroup() {
            Some(own) => tried(&own, &pins, None),
            None => {
                let detail = format!("not tried: no cgroup below {}: {error}", root.display());
                return Finding { subject: "capture", detail, verdict: Verdict::Limited };
            }
        },
    };
    let done = "programs verified and attached, a pod enrolled and released";
    finding("capture", result.map(|()| done.to_owned()))
}

/// A cgroup that this process is in, and the programs may be attached to: they look at enrolled pods alone.
fn own_cgroup() -> Option<PathBuf> {
    let own = || Some(cgroup::own().ok()?.path);
    Host::find().container_cgroup().or_else(own)
}

fn tried(place: &Path, pins: &Path, kubelet: Option<&Path>) -> Result<(), String> {
    let tried = try_capture(place, pins, kubelet).map_err(|error| reasons(&*error));
    let removed = remove_all(pins).map_err(|errors| format!("{errors:?}"));
    tried.and(removed)
}

fn try_capture(
    cgroup_root: &Path,
    pin_dir: &Path,
    kubelet: Option<&Path>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if let Some(kubelet) = kubelet {
        std::fs::create_dir(kubelet)?;
    }
    let mut kernel = Kernel::install(KernelConfig {
        pin_dir: pin_dir.to_owned(),
        cgroup_root: cgroup_root.to_owned(),
        agent_cgroup_id: Cgroup::open(cgroup_root)?.id,
        fail_open: false,
        proxy_unknown: false,
        ranges: StandInRanges::default(),
    })?;
    kernel.exempt_probes(kubelet)?;
    let pod = PodCapture {
        pod: Arc::new(LocalPod {
            uid: PodUid("check".into()),
            namespace: "check".into(),
            name: "check".into(),
            account: Account::new("check", "check")?,
            // The one address that a namespace without devices has.
            ip4: Some(Ipv4Addr::LOCALHOST),
            ip6: None,
            exclusions: Exclusions::default(),
        }),
        netns: Netns::create()?,
        stand_ins: kernel.stand_ins(),
    };
    let listeners = PodListeners::bind(&pod)?;
    kernel.capture(&pod, &listeners)?;
    kernel.release(&pod.pod.uid)?;
    kernel.finish_release(&pod)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert_eq!(version("6.8.0-31-generic"), Some((6, 8)));
        assert_eq!(version("5.18.0"), Some((5, 18)));
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version(""), None);
        assert!(version("5.15.0-1") < Some(OLDEST_KERNEL));
        assert!(version("10.0") > Some(OLDEST_KERNEL));
    }
}
