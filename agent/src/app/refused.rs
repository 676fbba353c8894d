//! An authority that gives this node no certificates: then its pods reach nobody in the mesh, and nobody reaches them.

use tracing::warn;

use crate::error::chain;
use crate::identify::certs::Certificates;
use crate::observe::ready::{Pending, Readiness};

/// So often in a row an identity must be denied: an authority may not know yet of a pod that has just come.
const SURE: u32 = 6;

/// Looks for it, and tells the readiness page and the log.
#[derive(Debug)]
pub(super) struct Refused {
    readiness: Readiness,
    /// Why the agent is not ready.
    pending: Option<Pending>,
}

impl Refused {
    pub(super) fn new(readiness: Readiness) -> Self {
        Self { readiness, pending: None }
    }

    /// To be called every now and then. An agent that has certificates serves those pods: what it lacks is remarked on.
    pub(super) fn look(&mut self, certificates: &Certificates) {
        let (usable, denied) = certificates.denied(SURE);
        let told = denied.first().map(|(identity, why)| {
            let others = denied.len() - 1;
            let others = if others > 0 { format!(" (and {others} more)") } else { String::new() };
            format!("no certificate for {identity}{others}: {}", chain(&**why))
        });
        self.readiness.remark("certificates", told.clone());
        match told {
            Some(told) if usable == 0 && self.pending.is_none() => {
                warn!("not ready: {told}");
                self.pending =
                    Some(self.readiness.pending("a certificate of any pod of this node"));
            }
            Some(_) if usable == 0 => {}
            Some(_) | None => self.pending = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use parking_lot::Mutex;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::identify::ca::CaError;
    use crate::identify::certs::CertificateSource;
    use crate::identify::clock::SystemClock;
    use crate::identify::revocation::Revocations;
    use crate::identify::svid::Issued;
    use crate::identify::testing::{DAY, TestCa};
    use crate::mesh::SpiffeId;

    /// An authority that does not trust the agent's account, but for whom it knows.
    #[derive(Clone)]
    struct Ca {
        root: Arc<TestCa>,
        knows: Arc<Mutex<Vec<String>>>,
    }

    impl CertificateSource for Ca {
        async fn issue(&self, identity: &SpiffeId) -> Result<Issued, CaError> {
            if self.knows.lock().contains(&identity.to_string()) {
                return Ok(self.root.issue(&[&identity.to_string()], SystemTime::now(), DAY));
            }
            Err(CaError::Unauthenticated {
                identity: identity.clone(),
                cluster: "Kubernetes".into(),
                message: "request impersonation authentication failure".into(),
            })
        }
    }

    fn identity(account: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "shop", account).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_whose_account_the_authority_refuses_is_not_ready_and_says_why() {
        let ca = Ca { root: Arc::new(TestCa::new()), knows: Arc::default() };
        let clock = Arc::new(SystemClock);
        let taken_back = Revocations::default();
        let spread = Duration::from_secs(30);
        let (certificates, renewal) = Certificates::new(ca.clone(), clock, taken_back, spread);
        let stop = CancellationToken::new();
        let renewing = tokio::spawn(renewal.run(stop.clone()));
        let readiness = Readiness::new();
        let mut refused = Refused::new(readiness.clone());
        let mut look = async |after: u64| {
            tokio::time::sleep(Duration::from_secs(after)).await;
            refused.look(&certificates);
            (readiness.is_ready(), readiness.remarks().join(" "))
        };
        assert_eq!(look(0).await, (true, String::new()), "it has no pods");
        certificates.prefetch(&identity("web"));
        assert_eq!(
            look(1).await,
            (true, String::new()),
            "the pod may be too new for the authority"
        );
        let (ready, why) = look(60).await;
        assert!(!ready);
        let expected = "no certificate for spiffe://cluster.local/ns/shop/sa/web: failed to get a certificate: \
            the CA refuses";
        assert!(why.starts_with(expected) && why.contains("trusted node accounts"), "{why}");
        certificates.prefetch(&identity("db"));
        ca.knows.lock().push(identity("db").to_string());
        let (ready, why) = look(60).await;
        assert!(ready && why.contains("/sa/web:"), "one pod can be served: {why}");
        ca.knows.lock().push(identity("web").to_string());
        assert_eq!(look(200).await, (true, String::new()));
        stop.cancel();
        renewing.await.unwrap();
    }
}
