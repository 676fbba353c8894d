//! Judging over time: wait a little for what is not known yet, and judge again on every change.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::mesh::policy::Action;
use crate::mesh::{LocalPod, Mesh, MeshReader, ResourceKind, Workload};

use super::{Decision, Denial, Permit, Request, decide, dry_run};

/// Judges a request; waits at most `wait` for the workload, the first policies and policies that
/// are referenced but have not arrived.
///
/// # Errors
/// The denial, or what is still unknown after the wait.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn permit(
    reader: &MeshReader,
    pod: &LocalPod,
    request: &Request,
    wait: Duration,
) -> Result<Permit, Denial> {
    let deadline = Instant::now() + wait;
    let mut waiting = None;
    loop {
        // Before loading, so that a change between the two wakes us.
        if let Some(changes) = &mut waiting {
            watch::Receiver::mark_unchanged(changes);
        }
        // The snapshot is not held while waiting: its memory would outlive it by as long.
        let denial = {
            let mesh = reader.load();
            let workload = mesh.workload_of(pod);
            match judge(&mesh, workload, request) {
                Verdict::Final(result) => {
                    report_dry_runs(&mesh, workload, request);
                    return result;
                }
                Verdict::Wanting(denial) => denial,
            }
        };
        match &mut waiting {
            // Most never wait. Judged again: something may have come before we listened.
            None => waiting = Some(reader.changes_for(&pod.namespace, &pod.name)),
            Some(changes) => {
                if !changed_before(changes, deadline).await {
                    return Err(denial);
                }
            }
        }
    }
}

/// Judges an open connection again on every change; returns when it is no longer allowed.
///
/// A workload that the control plane withdraws is judged as it last was. A policy that is newly
/// referenced may arrive up to `wait` later before the connection is denied for it.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn revoked(
    reader: &MeshReader,
    pod: &LocalPod,
    request: &Request,
    wait: Duration,
) -> Denial {
    let mut changes = reader.changes_for(&pod.namespace, &pod.name);
    let mut last = Judged::default();
    let mut wanting_since: Option<Instant> = None;
    loop {
        changes.mark_unchanged();
        // No snapshot is held while waiting, as above.
        let wanting = match last.again(&reader.load(), pod, request) {
            Some(Verdict::Final(Err(denial))) => return denial,
            Some(Verdict::Final(Ok(_))) => {
                wanting_since = None;
                None
            }
            Some(Verdict::Wanting(denial)) => Some(denial),
            None => None,
        };
        if let Some(denial) = wanting {
            let since = *wanting_since.get_or_insert_with(Instant::now);
            // Boxed: open connections are many, and this wait is rare.
            if !Box::pin(changed_before(&mut changes, since + wait)).await {
                return denial;
            }
        } else if changes.changed().await.is_err() {
            // Nothing will change any more.
            std::future::pending::<()>().await;
        }
    }
}

/// What an open connection was last judged by, short of what was still wanting.
#[derive(Default)]
struct Judged {
    by: Option<(Arc<Workload>, u64)>,
}

impl Judged {
    /// The verdict now; none where nothing changed that it came from.
    fn again(&mut self, mesh: &Mesh, pod: &LocalPod, request: &Request) -> Option<Verdict> {
        let known = || self.by.as_ref().map(|(workload, _)| workload);
        let workload = mesh.workload_of(pod).or_else(known).cloned();
        if let (Some(new), Some((old, version))) = (&workload, &self.by)
            && Arc::ptr_eq(new, old)
            && mesh.policy_version() == *version
        {
            return None;
        }
        let verdict = judge(mesh, workload.as_ref(), request);
        if let Verdict::Final(_) = verdict {
            self.by = workload.map(|workload| (workload, mesh.policy_version()));
        }
        Some(verdict)
    }
}

/// What can be said now.
enum Verdict {
    /// No arrival can change it, short of a change of mind.
    Final(Result<Permit, Denial>),
    /// Something that should be there is not; this is the denial if it does not come.
    Wanting(Denial),
}

fn judge(mesh: &Mesh, workload: Option<&Arc<Workload>>, request: &Request) -> Verdict {
    let Some(workload) = workload else { return Verdict::Wanting(Denial::UnknownWorkload) };
    match decide(mesh, workload, request) {
        Decision::Deny(denial @ Denial::Explicit(_)) => Verdict::Final(Err(denial)),
        _ if !mesh.kind_synced(ResourceKind::Authorization) => Verdict::Wanting(Denial::NotSynced),
        Decision::Deny(denial) => Verdict::Final(Err(denial)),
        Decision::Allow(permit) => Verdict::Final(Ok(permit)),
        Decision::Unknown(missing) => Verdict::Wanting(Denial::unknown(mesh, &missing)),
    }
}

/// Whether anything that matters changed before the deadline.
async fn changed_before(changes: &mut watch::Receiver<()>, deadline: Instant) -> bool {
    matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(())))
}

fn report_dry_runs(mesh: &Mesh, workload: Option<&Arc<Workload>>, request: &Request) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let matched = workload.map(|workload| dry_run(mesh, workload, request)).unwrap_or_default();
    for matched in matched {
        let action = match matched.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        tracing::debug!(policy = %matched.policy, "dry-run: {action} policy match");
    }
}

#[cfg(test)]
mod tests;
