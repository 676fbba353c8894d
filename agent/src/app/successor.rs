//! What an agent has to know before it takes a node over from another: until then that one serves better.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::interval;
use tracing::warn;

use crate::config::AgentConfig;
use crate::enroll::remembered;
use crate::error::chain;
use crate::identify::certs::Certificates;
use crate::mesh::{LocalPod, MeshReader};
use crate::observe::ready::Readiness;
use crate::xds::{StatusReader, XdsStatus};

/// How often it is told why it takes so long.
const TELL: Duration = Duration::from_secs(1);
/// What is told is about this.
const SUCCESSION: &str = "succession";

/// Waits until the agent knows the mesh and has the certificates of the pods that are captured. Its readiness page says what
/// is missing.
pub(super) async fn may_serve(
    config: &AgentConfig,
    (discovery, mesh, certificates): (StatusReader, &MeshReader, &Certificates),
    readiness: &Readiness,
) {
    let _pending = readiness.pending("what it takes to follow the agent in charge of this node");
    let mut status = discovery.clone();
    // Their writer lives as long as the agent.
    let synced = async move { drop(status.wait_for(XdsStatus::synced).await) };
    telling(readiness, synced, || discovery.borrow().last_error.clone()).await;
    let unknown = || mesh.load().home().err().map(ToString::to_string);
    if let Some(unknown) = unknown() {
        warn!(error = %unknown, "not taking over before it is known where this node is in the mesh");
    }
    let home = mesh.once(|mesh| mesh.home().ok().cloned());
    let Some(home) = telling(readiness, home, unknown).await else { return };
    let file = remembered::file_in(&config.state_dir);
    loop {
        let pods = remembered::read(&file);
        let identity = |pod: &Arc<LocalPod>| pod.account.identity(&home.trust_domain);
        let identities: HashSet<_> = pods.iter().map(identity).collect();
        identities.iter().for_each(|identity| certificates.prefetch(identity));
        let all = join_all(identities.iter().map(|identity| certificates.svid(identity)));
        let all = telling(readiness, all, || denied(certificates)).await;
        let missing = all.iter().filter(|svid| svid.is_err()).count();
        if missing == 0 || missing < all.len() {
            return;
        }
        warn!(missing, "not taking over: the authority certifies no pod of this node");
    }
}

fn denied(certificates: &Certificates) -> Option<String> {
    let (_, denied) = certificates.denied(1);
    let (identity, why) = denied.first()?;
    Some(format!("no certificate for {identity}: {}", chain(&**why)))
}

/// Waits for something, and tells meanwhile why it is not there.
async fn telling<T>(
    readiness: &Readiness,
    work: impl Future<Output = T>,
    why: impl Fn() -> Option<String>,
) -> T {
    let (mut work, mut tell) = (pin!(work), interval(TELL));
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                readiness.remark(SUCCESSION, None);
                return done;
            }
            _ = tell.tick() => readiness.remark(SUCCESSION, why()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_is_told_until_it_is_there() {
        let readiness = Readiness::new();
        let told = readiness.clone();
        let work = async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            told.remarks()
        };
        let meanwhile = telling(&readiness, work, || Some("nobody answers".to_owned())).await;
        assert_eq!(meanwhile, ["nobody answers"]);
        assert!(readiness.remarks().is_empty());
    }
}
