//! What policy resources mean, as the nodes enforce them. Pure: records in, `Authorization` out.

pub mod access;
pub mod destination;
pub mod peer;
pub mod shape;
pub mod spec;

use sotto_proto::security::{StringMatch, string_match::MatchType};

use super::model::ObjectKey;

/// Name of the policy, in the root namespace, of every workload that takes mutual TLS only.
pub const STATIC_STRICT: &str = "istio_converted_static_strict";
/// What the name of a policy made from a PeerAuthentication starts with.
pub const CONVERTED_PREFIX: &str = "converted_peer_authentication_";

/// A policy's resource name.
pub fn policy_name(key: &ObjectKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

fn matching(kind: MatchType) -> StringMatch {
    StringMatch { match_type: Some(kind) }
}
