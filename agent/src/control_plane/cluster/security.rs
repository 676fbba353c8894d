//! The resources of Istio's kinds, from whichever version of their API the cluster has.
//!
//! Whatever is there is read: of a policy that cannot be, the record is what closes its scope. So
//! what is sent depends on the objects alone, never on what a replica has seen of them before.

use kube::api::DynamicObject;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::reduce::key;
use super::report::Told;
use super::scope::{self, selector};
use super::watch::Read;
use crate::control_plane::conditions::{self, ACCEPTED, PeerNote, ZTUNNEL_ACCEPTED};
use crate::control_plane::convert::access::{self, ValueError};
use crate::control_plane::convert::shape::{self, NoObject};
use crate::control_plane::convert::spec::{
    ActionName, AuthorizationPolicySpec, PeerAuthenticationSpec,
};
use crate::control_plane::model::{AuthorizationPolicy, Mode, PeerAuthentication, Rules, Selector};

const DRY_RUN: &str = "istio.io/dry-run";
/// What a PeerAuthentication's `spec` may hold besides its selector.
const PEER_FIELDS: [&str; 2] = ["mtls", "portLevelMtls"];

/// Why a resource cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpecError {
    /// A field or name that there is not.
    #[error("spec: {0}")]
    Shape(String),
    /// A list, or something else, where an object should be.
    #[error(transparent)]
    List(#[from] NoObject),
    /// A value that means nothing.
    #[error("spec.{0}")]
    Value(#[from] ValueError),
    /// A port that there is not.
    #[error("spec.portLevelMtls: 0 is no port")]
    Port,
    /// Labels that no workload has.
    #[error(
        "spec.selector: labels are matched as they stand: a name is not empty, `*` is no wildcard"
    )]
    Selector,
    /// A selector and targets.
    #[error("spec: a policy is for a selector or for targets, not for both")]
    Both,
}

/// Reads a PeerAuthentication; one that cannot be read is STRICT wherever it may count.
pub(super) fn peer_authentication(object: &DynamicObject, root: &str) -> Read<PeerAuthentication> {
    let selector = match selector(object) {
        // A field that there is not may be the selector's name, misspelt.
        Selector::All if scope::has_other_fields(object, &PEER_FIELDS) => Selector::Unreadable,
        selector => selector,
    };
    let created = object.metadata.creation_timestamp.as_ref();
    let mut record = PeerAuthentication {
        key: key(&object.metadata),
        created: created.map_or(i64::MAX, |time| time.0.as_millisecond()),
        selector,
        mode: Mode::Strict,
        ports: std::collections::BTreeMap::new(),
    };
    let told = match read_peer(object, &mut record) {
        Ok(told) => told,
        Err(error) => {
            let whom = scope::sentence(&record.key.namespace, &record.selector, root);
            let closed = format!("mutual TLS is required of every connection to {whom}");
            Told::invalid(conditions::closed(ACCEPTED, &error.to_string(), &closed))
        }
    };
    Read { record: Some(record), told }
}

/// Puts into `record` what an object says; on an error it is as it was.
fn read_peer(object: &DynamicObject, record: &mut PeerAuthentication) -> Result<Told, SpecError> {
    let spec: PeerAuthenticationSpec = policy_spec(object)?;
    if record.selector == Selector::Unreadable {
        return Err(SpecError::Selector);
    }
    let ports = spec.port_level_mtls.unwrap_or_default();
    if ports.contains_key(&0) {
        return Err(SpecError::Port);
    }
    record.mode = spec.mtls.map_or(Mode::Unset, Mode::from);
    record.ports = ports.into_iter().map(|(port, mtls)| (port, mtls.into())).collect();
    let mut notes = Vec::new();
    let disable = |mode: &Mode| *mode == Mode::Disable;
    if disable(&record.mode) || record.ports.values().any(disable) {
        notes.push(PeerNote::Disable);
    }
    if !record.ports.is_empty() && record.selector == Selector::All {
        notes.push(PeerNote::PortsWithoutSelector);
    }
    let messages = notes.iter().map(|note| note.message().to_owned()).collect();
    Ok(Told::with_notes(conditions::peer_authentication(&notes), messages))
}

/// Reads and converts an AuthorizationPolicy; one that cannot be read denies whatever it governs,
/// unless it plainly is not for the nodes to enforce.
pub(super) fn authorization_policy(
    object: &DynamicObject,
    root: &str,
) -> Read<AuthorizationPolicy> {
    let (key, selector) = (key(&object.metadata), selector(object));
    let dry_run =
        object.metadata.annotations.iter().flatten().any(|(k, v)| k == DRY_RUN && v == "true");
    let (rules, told) = match read_access(object, &selector, dry_run) {
        Ok((rules, told)) => (rules, told),
        Err(error) if dry_run || is_elsewhere(object) => {
            let conditions = conditions::invalid(ZTUNNEL_ACCEPTED, &error.to_string());
            (None, Told::invalid(conditions))
        }
        Err(error) => {
            let whom = scope::sentence(&key.namespace, &selector, root);
            let closed = format!("every connection to {whom} is denied");
            let conditions = conditions::closed(ZTUNNEL_ACCEPTED, &error.to_string(), &closed);
            (Some(Rules::closed()), Told::invalid(conditions))
        }
    };
    Read { record: Some(AuthorizationPolicy { key, selector, rules }), told }
}

fn read_access(
    object: &DynamicObject,
    selector: &Selector,
    dry_run: bool,
) -> Result<(Option<Rules>, Told), SpecError> {
    let spec: AuthorizationPolicySpec = policy_spec(object)?;
    if *selector == Selector::Unreadable {
        return Err(SpecError::Selector);
    }
    if spec.targeted() && spec.selector.is_some() {
        return Err(SpecError::Both);
    }
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let converted = access::convert(&spec, namespace, dry_run)?;
    let notes = converted.notes.iter().map(ToString::to_string).collect();
    let told = Told::with_notes(conditions::authorization_policy(&converted), notes);
    Ok((converted.rules, told))
}

/// Whether a policy of which something cannot be read is plainly for a waypoint, or of an action that
/// nodes do not have: whatever the rest says, it neither allows nor denies a connection.
fn is_elsewhere(object: &DynamicObject) -> bool {
    let spec = &object.data["spec"];
    let action = ActionName::deserialize(&spec["action"]);
    if matches!(action, Ok(ActionName::Audit | ActionName::Custom)) {
        return true;
    }
    let named = |target: &Value| target["kind"].is_string() && target["name"].is_string();
    let targets = spec["targetRefs"].as_array();
    let targeted = named(&spec["targetRef"])
        || targets.is_some_and(|targets| !targets.is_empty() && targets.iter().all(named));
    targeted && spec["selector"].is_null()
}

/// As [`spec`], and no list stands for an object: read as one, its items would be fields.
fn policy_spec<S: DeserializeOwned + Default>(object: &DynamicObject) -> Result<S, SpecError> {
    if let Some(spec) = object.data.get("spec") {
        shape::objects(spec)?;
    }
    spec(object)
}

pub(super) fn spec<S: DeserializeOwned + Default>(object: &DynamicObject) -> Result<S, SpecError> {
    match object.data.get("spec") {
        None | Some(Value::Null) => Ok(S::default()),
        Some(spec) => S::deserialize(spec).map_err(|error| SpecError::Shape(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
