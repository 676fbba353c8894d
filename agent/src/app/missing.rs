//! Policies that the control plane names and does not send: told once.
//!
//! istiod does so with some that it would make of a PeerAuthentication. They are acted on as far as their names tell what
//! would be in them (see [`crate::authorize`]), and whoever operates the mesh should know.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::authorize::CONVERTED_PREFIX;
use crate::mesh::{LocalPod, Mesh, PolicyKey};

/// What is missing, at one look and the next.
#[derive(Debug, Default)]
pub(super) struct Missing {
    seen: BTreeSet<PolicyKey>,
    told: BTreeSet<PolicyKey>,
}

impl Missing {
    /// What is missing of the policies of these pods now and was before, and was not told yet. What is only late comes
    /// between two looks.
    pub(super) fn look(
        &mut self,
        mesh: &Mesh,
        pods: impl Iterator<Item = Arc<LocalPod>>,
    ) -> Vec<PolicyKey> {
        let mut now = BTreeSet::new();
        for workload in pods.filter_map(|pod| mesh.workload_of(&pod)) {
            let named = workload.authorization_policies.iter();
            let converted = named.filter(|key| key.name.starts_with(CONVERTED_PREFIX));
            let absent = converted
                .filter(|key| mesh.policy(key).is_none() && mesh.unreadable_policy(key).is_none());
            now.extend(absent.cloned());
        }
        // What has come in between may be missed again.
        self.told.retain(|key| now.contains(key));
        let lasting = now.iter().filter(|key| self.seen.contains(*key));
        let news: Vec<_> = lasting.filter(|key| !self.told.contains(*key)).cloned().collect();
        self.told.extend(news.iter().cloned());
        self.seen = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::mesh::policy::{Action, PolicyScope};
    use crate::mesh::{Authorization, MeshEvent, PodUid, Store, Workload};

    #[test]
    fn a_policy_that_never_comes_is_told_once() {
        let key =
            PolicyKey { namespace: "shop".into(), name: "converted_peer_authentication_p".into() };
        let other = PolicyKey { namespace: "shop".into(), name: "p".into() };
        let mut workload =
            Workload::pod("c", "shop", "web", "web", IpAddr::from([10, 0, 0, 1])).unwrap();
        workload.authorization_policies = vec![key.clone(), other].into();
        let pod = Arc::new(LocalPod {
            uid: PodUid("u".into()),
            namespace: "shop".into(),
            name: "web".into(),
            account: workload.identity.account().clone(),
            ip4: Some([10, 0, 0, 1].into()),
            ip6: None,
            exclusions: Default::default(),
        });
        let (mut store, reader) = Store::new();
        store.apply([MeshEvent::Workload(workload.into())]);
        let mut missing = Missing::default();
        let mut look = || missing.look(&reader.load(), std::iter::once(Arc::clone(&pod)));
        assert_eq!(look(), [], "it may be on its way");
        assert_eq!(look(), std::slice::from_ref(&key));
        assert_eq!(look(), []);
        let policy = Authorization {
            key: key.clone(),
            scope: PolicyScope::WorkloadSelector,
            action: Action::Deny,
            groups: Vec::new(),
            dry_run: false,
        };
        store.apply([MeshEvent::Policy(policy.into())]);
        assert_eq!(look(), []);
        store.apply([MeshEvent::RemovePolicy(key.clone())]);
        assert_eq!(look(), []);
        assert_eq!(look(), [key], "it went again");
    }
}
