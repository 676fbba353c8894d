//! Who may have a certificate for whom. Pure: caller, request and snapshot in, identity out.

use std::sync::Arc;

use arcstr::ArcStr;

use crate::control_plane::caller::{Caller, CallerPod};
use crate::control_plane::model::ObjectKey;
use crate::control_plane::snapshot::Snapshot;
use crate::mesh::SpiffeId;

/// The rules' settings.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Service accounts of node agents.
    pub node_accounts: Arc<[ObjectKey]>,
    /// The only trust domain there are certificates for.
    pub trust_domain: ArcStr,
    /// A pod whose account is none of those may have one for its own identity.
    pub workloads: bool,
}

/// The rule that a request breaks. For the log; the caller is told only that it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Rule 1.
    #[error("{0} is not a trusted node account (known: {1})")]
    NotTrusted(ObjectKey, String),
    /// Rule 2.
    #[error("impersonated identity {0}")]
    Identity(String),
    /// Rule 2.
    #[error("trust domain of {0} is not {1}")]
    TrustDomain(SpiffeId, ArcStr),
    /// Rule 3.
    #[error("token of {0} is not bound to a pod")]
    Unbound(ObjectKey),
    /// Rule 3.
    #[error("caller's pod {0} does not exist")]
    NoCallerPod(ObjectKey),
    /// Rule 3.
    #[error("caller's pod {pod} has uid {found}, its token is bound to {bound}")]
    CallerUid {
        /// The pod.
        pod: ObjectKey,
        /// As Kubernetes has it.
        found: ArcStr,
        /// As the token has it.
        bound: String,
    },
    /// Rule 3.
    #[error("caller's pod {pod} runs as {found}, its token is for {account}")]
    CallerAccount {
        /// The pod.
        pod: ObjectKey,
        /// As Kubernetes has it.
        found: ArcStr,
        /// As the token has it.
        account: ArcStr,
    },
    /// Rule 4.
    #[error("caller's pod {0} is not bound to a node")]
    CallerNode(ObjectKey),
    /// Rule 4.
    #[error("no pod with identity {identity} is on node {node}")]
    NotOnNode {
        /// What was asked for.
        identity: SpiffeId,
        /// The caller's node.
        node: ArcStr,
    },
}

impl Refusal {
    /// Whether a snapshot to come may admit the request: a node often hears of its pods before
    /// we do.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NoCallerPod(_)
                | Self::CallerUid { .. }
                | Self::CallerNode(_)
                | Self::NotOnNode { .. }
        )
    }
}

impl Admission {
    /// Whether this is a node agent's account.
    pub fn is_node(&self, caller: &Caller) -> bool {
        self.node_accounts.contains(&caller.account)
    }

    /// The identity to certify: the caller's own, or the one it `asked` for on behalf of a pod:
    ///
    /// 1. the caller is a trusted node account, or asks for itself where workloads may;
    /// 2. the identity is well-formed and of our trust domain;
    /// 3. the caller's pod exists, is the one its token is bound to, and runs as that account;
    /// 4. a pod with the identity is on the same node.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn judge(
        &self,
        caller: &Caller,
        asked: Option<&str>,
        snapshot: &Snapshot,
    ) -> Result<SpiffeId, Refusal> {
        let own = asked.is_none() && self.workloads;
        if !own && !self.is_node(caller) {
            let known: Vec<_> = self.node_accounts.iter().map(ToString::to_string).collect();
            return Err(Refusal::NotTrusted(caller.account.clone(), known.join(", ")));
        }
        let Some(asked) = asked else {
            let ObjectKey { namespace, name } = &caller.account;
            caller_node(caller, snapshot)?;
            return SpiffeId::new(self.trust_domain.clone(), namespace.clone(), name.clone())
                .map_err(|error| Refusal::Identity(error.to_string()));
        };
        let identity: SpiffeId =
            asked.parse().map_err(|error| Refusal::Identity(format!("{error}")))?;
        if identity.trust_domain().as_str() != self.trust_domain {
            return Err(Refusal::TrustDomain(identity, self.trust_domain.clone()));
        }
        let node = caller_node(caller, snapshot)?;
        if !snapshot.runs(&node, identity.namespace(), identity.service_account()) {
            return Err(Refusal::NotOnNode { identity, node });
        }
        Ok(identity)
    }
}

fn caller_node(caller: &Caller, snapshot: &Snapshot) -> Result<ArcStr, Refusal> {
    let ObjectKey { namespace, name: account } = &caller.account;
    let Some(CallerPod { name, uid }) = &caller.pod else {
        return Err(Refusal::Unbound(caller.account.clone()));
    };
    let pod = ObjectKey { namespace: namespace.clone(), name: name.as_str().into() };
    let Some(facts) = snapshot.pods.get(&pod) else {
        return Err(Refusal::NoCallerPod(pod));
    };
    if facts.uid != *uid {
        return Err(Refusal::CallerUid { pod, found: facts.uid.clone(), bound: uid.clone() });
    }
    if facts.service_account != *account {
        let found = facts.service_account.clone();
        return Err(Refusal::CallerAccount { pod, found, account: account.clone() });
    }
    if facts.node.is_empty() {
        return Err(Refusal::CallerNode(pod));
    }
    Ok(facts.node.clone())
}

#[cfg(test)]
mod tests;
