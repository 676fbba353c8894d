//! Keeps the kubelet's probes exempt, and nobody else's: looks for it every second, and tells what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::pods::SharedKernel;
use crate::capture::kubelet::{Kubelet, Search};
use crate::error::chain;
use crate::observe::ready::Readiness;

/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Whose probes are exempt, for those who ask.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes(Arc<Mutex<Option<Verdict>>>);

/// Whose they are, or why they are nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Exempt(PathBuf),
    Absent,
    Several(Vec<PathBuf>),
    HoldsPods(PathBuf),
    Unknown(String),
}

/// Looks after the exemption until `stop`. It outlives the agent, as all that is in the kernel does.
pub(super) async fn attend(
    mut search: Search,
    kernel: SharedKernel,
    probes: Probes,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let mut due = interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        let of_kernel = kernel.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let verdict = look(&mut search, &of_kernel);
            (search, verdict)
        });
        match looked.await {
            Ok((back, verdict)) => {
                search = back;
                probes.tell(verdict, &readiness);
            }
            Err(error) => {
                warn!(%error, "the search for the kubelet panicked; its probes stay as they are");
                return;
            }
        }
    }
}

/// Finds the kubelet and makes the kernel follow. What cannot be told exempts nobody.
fn look(search: &mut Search, kernel: &SharedKernel) -> Verdict {
    let found = search.look(Instant::now());
    let path = if let Ok(Kubelet::In(path)) = &found { Some(path.as_path()) } else { None };
    let exempt = kernel.lock().exempt_probes(path);
    match (found, exempt) {
        (Err(error), _) => Verdict::Unknown(chain(&error)),
        (_, Err(error)) => Verdict::Unknown(chain(&error)),
        (Ok(Kubelet::In(path)), Ok(true)) => Verdict::Exempt(path),
        (Ok(Kubelet::In(path)), Ok(false)) => Verdict::HoldsPods(path),
        (Ok(Kubelet::Absent), Ok(_)) => Verdict::Absent,
        (Ok(Kubelet::Several(paths)), Ok(_)) => Verdict::Several(paths),
    }
}

// === impl Probes ===

impl Probes {
    /// The state of the exemption: one of all is 1.
    pub(super) fn states(&self) -> Vec<(&'static str, u64)> {
        let now = self.0.lock().as_ref().map(Verdict::name);
        let of = |name| (name, u64::from(now == Some(name)));
        Verdict::NAMES.into_iter().map(of).collect()
    }

    /// Says what is new, loudly if nobody is exempt.
    fn tell(&self, verdict: Verdict, readiness: &Readiness) {
        let mut told = self.0.lock();
        if told.as_ref() == Some(&verdict) {
            return;
        }
        let trouble = verdict.trouble();
        match (&verdict, &trouble) {
            (Verdict::Exempt(path), _) => {
                info!(cgroup = %path.display(), "the kubelet's probes of enrolled pods are exempt");
            }
            (_, Some(trouble)) => warn!("{trouble}"),
            (_, None) => {}
        }
        readiness.remark("kubelet", trouble);
        *told = Some(verdict);
    }
}

impl Verdict {
    const NAMES: [&str; 5] = ["exempt", "absent", "several", "holds_pods", "unknown"];

    fn name(&self) -> &'static str {
        match self {
            Self::Exempt(_) => "exempt",
            Self::Absent => "absent",
            Self::Several(_) => "several",
            Self::HoldsPods(_) => "holds_pods",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Why nobody is exempt, and what to do.
    fn trouble(&self) -> Option<String> {
        let why = match self {
            Self::Exempt(_) => return None,
            Self::Absent => "no process of the node itself is one".to_owned(),
            Self::Several(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                format!("several could be it, in {}", paths.join(", "))
            }
            Self::HoldsPods(path) => format!("its cgroup {} holds pods too", path.display()),
            Self::Unknown(error) => error.clone(),
        };
        Some(format!(
            "the kubelet is not known ({why}): its probes are captured like any connection, and \
             fail where policy wants mutual TLS; --kubelet-cgroup names it"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kubelet_that_is_known_is_no_trouble() {
        let path = PathBuf::from("/a");
        for (verdict, name) in [
            (Verdict::Exempt(path.clone()), "exempt"),
            (Verdict::Absent, "absent"),
            (Verdict::Several(vec![path.clone(), "/b".into()]), "several"),
            (Verdict::HoldsPods(path), "holds_pods"),
            (Verdict::Unknown("it burns".into()), "unknown"),
        ] {
            let (probes, readiness) = (Probes::default(), Readiness::new());
            assert_eq!(probes.states().iter().map(|(_, on)| on).sum::<u64>(), 0);
            probes.tell(verdict.clone(), &readiness);
            let on = probes.states().into_iter().filter(|(_, on)| *on == 1);
            assert_eq!(on.map(|(name, _)| name).collect::<Vec<_>>(), [name]);
            assert_eq!(readiness.remarks().is_empty(), verdict.trouble().is_none(), "{name}");
            assert!(readiness.is_ready(), "{name}");
        }
    }

    #[test]
    fn a_kubelet_that_is_back_is_remarked_on_no_longer() {
        let (probes, readiness) = (Probes::default(), Readiness::new());
        probes.tell(Verdict::Absent, &readiness);
        assert_eq!(readiness.remarks().len(), 1);
        probes.tell(Verdict::Exempt("/a".into()), &readiness);
        assert!(readiness.remarks().is_empty());
    }
}
