//! Resources that this control plane does not serve, each told so.

use kube::Client;
use tokio::sync::mpsc;

use super::report::{Reporter, Told, Warning};
use super::spawn::spawn;
use super::watch::{Custom, Read, Watch};
use crate::control_plane::conditions;
use crate::control_plane::metrics::Metrics;
use crate::control_plane::model::{Change, Namespace};
use crate::sys::Shutdown;

/// A kind, how it is watched, and what its authors are told.
type Unserved = (&'static str, Custom, &'static str);

const UNSERVED: [Unserved; 3] = [
    (
        "ServiceEntry",
        networking("serviceentries"),
        "this control plane does not serve ServiceEntries: their hosts and addresses are reached as if there \
         were none, outside the mesh; beside istiod they are served",
    ),
    (
        "Gateway",
        networking("gateways"),
        "nobody serves Istio's Gateways here: an ordinary ingress in an enrolled pod is the way in, see \
         deploy/ingress; beside istiod its gateways serve them",
    ),
    (
        "VirtualService",
        networking("virtualservices"),
        "nobody serves VirtualServices here: nothing is routed by them, as the mesh does not look into HTTP; \
         beside istiod its gateways, waypoints and sidecars serve them",
    ),
];

const fn networking(plural: &'static str) -> Custom {
    let versions = &["v1", "v1beta1", "v1alpha3"];
    Custom { group: "networking.istio.io", plural, versions }
}

/// Watches, and tells; tasks of `shutdown` do it.
pub(super) fn watch(client: &Client, reporter: &Reporter, metrics: &Metrics, shutdown: &Shutdown) {
    // Nothing is kept of them: what comes is an empty list now and then.
    let (changes, mut seen) = mpsc::channel(1);
    let same: fn(Change<Namespace>) -> Change<Namespace> = std::convert::identity;
    for (kind, custom, note) in UNSERVED {
        let objects = Watch::new(kind, same, (changes.clone(), metrics.clone()));
        let given = (custom, client.clone(), reporter.clone());
        spawn(shutdown, objects.custom(given, move |_| told(note)));
    }
    spawn(shutdown, async move { while seen.recv().await.is_some() {} });
}

fn told(note: &str) -> Read<Namespace> {
    let warnings = vec![Warning { reason: "NotServed", note: note.to_owned() }];
    Read { record: None, told: Told { conditions: conditions::unserved(note), warnings } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_served_is_told_so() {
        let Read { record, told } = told("not here");
        assert_eq!(record, None);
        let holds: Vec<_> = told.conditions.iter().map(|c| (c.kind, c.holds)).collect();
        assert_eq!(holds, [(conditions::ACCEPTED, false), (conditions::ENFORCED, false)]);
        assert_eq!(told.warnings.len(), 1);
        assert_eq!(told.warnings[0].note, "not here");
    }
}
