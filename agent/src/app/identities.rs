//! Certificates of this node's pods: whose they are is known at once, of which trust domain is for the mesh to tell.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::identify::certs::Certificates;
use crate::mesh::{Account, MeshReader, TrustDomain};

/// The accounts whose certificates are kept.
#[derive(Clone)]
pub(super) struct Identities {
    certificates: Certificates,
    mesh: MeshReader,
    wanted: Arc<Mutex<Wanted>>,
}

#[derive(Debug, Default)]
struct Wanted {
    /// None before the mesh has told.
    trust_domain: Option<TrustDomain>,
    accounts: HashSet<Account>,
}

impl Identities {
    /// None wanted yet.
    pub(super) fn new(certificates: Certificates, mesh: MeshReader) -> Self {
        Self { certificates, mesh, wanted: Arc::default() }
    }

    /// Asks for an account's certificate ahead of its first connection, as soon as its trust domain is known.
    pub(super) fn want(&self, account: &Account) {
        let mut wanted = self.wanted.lock();
        if let Some(trust_domain) = &wanted.trust_domain {
            self.certificates.prefetch(&account.identity(trust_domain));
        }
        wanted.accounts.insert(account.clone());
    }

    /// Lets go of an account whose last pod left the node.
    pub(super) fn forget(&self, account: &Account) {
        let mut wanted = self.wanted.lock();
        wanted.accounts.remove(account);
        if let Some(trust_domain) = &wanted.trust_domain {
            self.certificates.forget(&account.identity(trust_domain));
        }
    }

    /// Follows what the mesh tells of where this node is, until `stop`.
    pub(super) async fn follow(self, stop: CancellationToken) {
        let mut changes = self.mesh.changes();
        let mut told = None;
        loop {
            changes.mark_unchanged();
            let home = self.mesh.load().home().ok().cloned();
            if let Some(home) = home
                && told.as_ref() != Some(&home)
            {
                info!(cluster = %home.cluster_id, network = %home.network,
                    trust_domain = %home.trust_domain, "it is known where this node is in the mesh");
                self.settle(&home.trust_domain);
                told = Some(home);
            }
            match stop.run_until_cancelled(changes.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    }

    /// From now on all are of this trust domain.
    fn settle(&self, trust_domain: &TrustDomain) {
        let mut wanted = self.wanted.lock();
        let before = wanted.trust_domain.replace(trust_domain.clone());
        if before.as_ref() == Some(trust_domain) {
            return;
        }
        for account in &wanted.accounts {
            if let Some(before) = &before {
                self.certificates.forget(&account.identity(before));
            }
            self.certificates.prefetch(&account.identity(trust_domain));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::ca::CaError;
    use crate::identify::certs::CertificateSource;
    use crate::identify::clock::SystemClock;
    use crate::identify::revocation::Revocations;
    use crate::identify::svid::Issued;
    use crate::mesh::{MeshEvent, SpiffeId, Store, Workload};

    struct Nobody;

    impl CertificateSource for Nobody {
        async fn issue(&self, _: &SpiffeId) -> Result<Issued, CaError> {
            std::future::pending().await
        }
    }

    fn pod(trust_domain: &str) -> MeshEvent {
        let address = [10, 0, 0, 1].into();
        let mut pod = Workload::pod("c", "shop", "web", "web", address).unwrap();
        pod.identity = SpiffeId::new(trust_domain, "shop", "web").unwrap();
        MeshEvent::Workload(Arc::new(pod))
    }

    #[tokio::test]
    async fn certificates_are_asked_for_in_the_trust_domain_that_the_mesh_tells() {
        let (mut store, mesh) = Store::new();
        let clock = Arc::new(SystemClock);
        let (certificates, _renewal) =
            Certificates::new(Nobody, clock, Revocations::default(), std::time::Duration::ZERO);
        let identities = Identities::new(certificates.clone(), mesh);
        let stop = CancellationToken::new();
        let following = tokio::spawn(identities.clone().follow(stop.clone()));
        let known = || -> Vec<_> {
            certificates.states().iter().map(|state| state.identity.to_string()).collect()
        };
        identities.want(&Account::new("shop", "web").unwrap());
        tokio::task::yield_now().await;
        assert!(known().is_empty(), "{:?}", known());
        for domain in ["corp", "corp.example"] {
            store.apply([pod(domain)]);
            while known() != [format!("spiffe://{domain}/ns/shop/sa/web")] {
                tokio::task::yield_now().await;
            }
        }
        identities.want(&Account::new("shop", "db").unwrap());
        assert_eq!(known().len(), 2);
        identities.forget(&Account::new("shop", "web").unwrap());
        assert_eq!(known(), ["spiffe://corp.example/ns/shop/sa/db"]);
        stop.cancel();
        following.await.unwrap();
    }
}
