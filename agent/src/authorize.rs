//! May they talk: a pure function of the policies, the destination and the request.
//!
//! A [`Permit`] is the only thing that lets a tunnel be accepted or plaintext be relayed, and only
//! this module makes one. Policies come from three scopes: the destination's namespace, the whole
//! mesh, and those that select the workload. DENY wins over ALLOW; when there is any ALLOW policy,
//! what none of them allows is denied; a policy that is referenced but not known allows nothing.

mod decide;
pub mod explain;
mod matches;
pub mod watch;

use std::net::{IpAddr, SocketAddr};

use crate::mesh::{MatchedRule, Mesh, PolicyKey, SpiffeId};

pub use decide::{DryRun, decide, dry_run};
pub use explain::{Considered, Explanation, Finding, explain};
pub use matches::Subject;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

/// The policy that denies what has no identity. Its content is known, so it is enforced even
/// while it is only referenced: <https://istio.io/latest/docs/reference/config/security/peer_authentication/>.
pub const STATIC_STRICT: &str = "istio_converted_static_strict";

/// What the names of policies made of a `PeerAuthentication` with ports of its own begin with. Each denies
/// some of what has no identity, and nothing else. istiod names some that it never sends: where a namespace
/// or the mesh is STRICT and the workload is not. No object of a user's can have the name.
pub const CONVERTED_PREFIX: &str = "converted_peer_authentication_";

/// One connection that asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The address it came from, as the TCP connection shows it.
    pub source_ip: IpAddr,
    /// The identity it proved; none for plaintext.
    pub source: Option<SpiffeId>,
    /// The pod's address and the app's port.
    pub destination: SocketAddr,
}

/// What the policies say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Let it in.
    Allow(Permit),
    /// Keep it out.
    Deny(Denial),
    /// Policies that should be known are not: the workload references them and they have not
    /// arrived, or their content cannot be read. Nothing known denies it.
    Unknown(Vec<PolicyKey>),
}

/// The right to serve one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    by: Option<MatchedRule>,
}

impl Permit {
    /// The ALLOW policy that let it in; none where no ALLOW policy applies.
    pub fn policy(&self) -> Option<&PolicyKey> {
        self.by.as_ref().map(|by| &by.policy)
    }

    /// The same, with the rule that matched.
    pub fn by(&self) -> Option<&MatchedRule> {
        self.by.as_ref()
    }
}

/// Why a connection is kept out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// A DENY policy matches.
    Explicit(MatchedRule),
    /// There are ALLOW policies, and none matches.
    NotAllowed,
    /// A policy that selects the workload has not arrived.
    UnknownPolicy(PolicyKey),
    /// A policy has arrived whose content cannot be read.
    UnreadablePolicy(PolicyKey),
    /// The control plane has not told of the workload.
    UnknownWorkload,
    /// The control plane has not told of any policy yet.
    NotSynced,
}

impl Denial {
    /// What a [`Decision::Unknown`] comes to when nothing more arrives.
    pub fn unknown(mesh: &Mesh, missing: &[PolicyKey]) -> Self {
        match missing.first() {
            Some(policy) if mesh.unreadable_policy(policy).is_some() => {
                Self::UnreadablePolicy(policy.clone())
            }
            Some(policy) => Self::UnknownPolicy(policy.clone()),
            None => Self::NotAllowed,
        }
    }

    /// The policy that is to blame, and its rule.
    pub fn by(&self) -> Option<MatchedRule> {
        match self {
            Self::Explicit(by) => Some(by.clone()),
            Self::UnknownPolicy(policy) | Self::UnreadablePolicy(policy) => {
                Some(policy.clone().into())
            }
            Self::NotAllowed | Self::UnknownWorkload | Self::NotSynced => None,
        }
    }

    /// The HTTP status that answers a CONNECT: 401 where policy says no, 503 where we do not know.
    pub fn status(&self) -> u16 {
        match self {
            Self::Explicit(_)
            | Self::NotAllowed
            | Self::UnknownPolicy(_)
            | Self::UnreadablePolicy(_) => 401,
            Self::UnknownWorkload | Self::NotSynced => 503,
        }
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Explicit(by) => write!(f, "explicitly denied by: {by}"),
            Self::NotAllowed => f.write_str("allow policies exist, but none allowed"),
            Self::UnknownPolicy(policy) => {
                write!(f, "policy {policy} is referenced but unknown")
            }
            Self::UnreadablePolicy(policy) => {
                write!(f, "policy {policy} is here but cannot be read")
            }
            Self::UnknownWorkload => f.write_str("workload unknown"),
            Self::NotSynced => f.write_str("policies have not been received yet"),
        }
    }
}
