//! Resources that this control plane does not serve, each told so: ServiceEntries.

use kube::Client;
use tokio::sync::mpsc;

use super::report::{Reporter, Told, Warning};
use super::spawn::spawn;
use super::watch::{Custom, Read, Watch};
use crate::control_plane::conditions;
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::{Change, Namespace};
use crate::sys::Shutdown;

const CUSTOM: Custom = Custom {
    group: "networking.istio.io",
    plural: "serviceentries",
    versions: &["v1", "v1beta1", "v1alpha3"],
};
const NOTE: &str = "this control plane does not serve ServiceEntries: their hosts and addresses are reached as if there \
                    were none, outside the mesh; beside istiod they are served";

/// Watches, and tells; tasks of `shutdown` do it.
pub(super) fn watch(client: Client, reporter: &Reporter, metrics: &Metrics, shutdown: &Shutdown) {
    // Nothing is kept of them: what comes is an empty list now and then.
    let (changes, mut seen) = mpsc::channel(1);
    let same: fn(Change<Namespace>) -> Change<Namespace> = std::convert::identity;
    let entries = Watch::new("ServiceEntry", same, (changes, metrics.clone()));
    spawn(shutdown, entries.custom((CUSTOM, client, reporter.clone()), |_| told()));
    spawn(shutdown, async move { while seen.recv().await.is_some() {} });
}

fn told() -> Read<Namespace> {
    let warnings = vec![Warning { reason: "NotServed", note: NOTE.to_owned() }];
    Read { record: None, told: Told { conditions: conditions::unserved(NOTE), warnings } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_entry_is_told_that_it_is_not_served() {
        let Read { record, told } = told();
        assert_eq!(record, None);
        let holds: Vec<_> = told.conditions.iter().map(|c| (c.kind, c.holds)).collect();
        assert_eq!(holds, [(conditions::ACCEPTED, false), (conditions::ENFORCED, false)]);
        assert_eq!(told.warnings.len(), 1);
    }
}
