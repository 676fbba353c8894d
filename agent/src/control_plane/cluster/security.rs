//! The resources of Istio's kinds, from whichever version of their API the cluster has.

use kube::api::DynamicObject;
use serde::de::DeserializeOwned;

use super::reduce::key;
use super::report::Told;
use crate::control_plane::conditions::{self, PeerNote};
use crate::control_plane::convert::access::{self, ValueError};
use crate::control_plane::convert::spec::{
    AuthorizationPolicySpec, PeerAuthenticationSpec, Selector,
};
use crate::control_plane::model::{AuthorizationPolicy, Labels, Mode, PeerAuthentication};

const DRY_RUN: &str = "istio.io/dry-run";

/// Why a resource is not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpecError {
    /// A field or name that there is not.
    #[error("spec: {0}")]
    Shape(String),
    /// A value that means nothing.
    #[error("spec.{0}")]
    Value(#[from] ValueError),
    /// A port that there is not.
    #[error("spec.portLevelMtls: 0 is no port")]
    Port,
}

/// A parsed resource, and what its author is told of it.
#[derive(Debug)]
pub(super) struct Parsed<R> {
    pub(super) record: R,
    pub(super) told: Told,
}

/// Parses a PeerAuthentication.
pub(super) fn peer_authentication(
    object: &DynamicObject,
) -> Result<Parsed<PeerAuthentication>, SpecError> {
    let spec: PeerAuthenticationSpec = spec(object)?;
    let mode = spec.mtls.map_or(Mode::Unset, Mode::from);
    let ports = spec.port_level_mtls.unwrap_or_default();
    if ports.contains_key(&0) {
        return Err(SpecError::Port);
    }
    let selector = labels(spec.selector);
    let mut notes = Vec::new();
    let ports: std::collections::BTreeMap<u16, Mode> =
        ports.into_iter().map(|(port, mtls)| (port, mtls.into())).collect();
    if mode == Mode::Disable || ports.values().any(|mode| *mode == Mode::Disable) {
        notes.push(PeerNote::Disable);
    }
    if !ports.is_empty() && selector.as_ref().is_none_or(Labels::is_empty) {
        notes.push(PeerNote::PortsWithoutSelector);
    }
    let created = object.metadata.creation_timestamp.as_ref();
    let record = PeerAuthentication {
        key: key(&object.metadata),
        created: created.map_or(i64::MAX, |time| time.0.as_millisecond()),
        selector,
        mode,
        ports,
    };
    let messages = notes.iter().map(|note| note.message().to_owned()).collect();
    let told = Told::with_notes(conditions::peer_authentication(&notes), messages);
    Ok(Parsed { record, told })
}

/// Parses and converts an AuthorizationPolicy.
pub(super) fn authorization_policy(
    object: &DynamicObject,
) -> Result<Parsed<AuthorizationPolicy>, SpecError> {
    let spec: AuthorizationPolicySpec = spec(object)?;
    let key = key(&object.metadata);
    let dry_run =
        object.metadata.annotations.iter().flatten().any(|(k, v)| k == DRY_RUN && v == "true");
    let converted = access::convert(&spec, &key.namespace, dry_run)?;
    let notes = converted.notes.iter().map(ToString::to_string).collect();
    let told = Told::with_notes(conditions::authorization_policy(&converted), notes);
    let record =
        AuthorizationPolicy { key, selector: labels(spec.selector), rules: converted.rules };
    Ok(Parsed { record, told })
}

pub(super) fn spec<S: DeserializeOwned + Default>(object: &DynamicObject) -> Result<S, SpecError> {
    match object.data.get("spec") {
        None | Some(serde_json::Value::Null) => Ok(S::default()),
        Some(spec) => S::deserialize(spec).map_err(|error| SpecError::Shape(error.to_string())),
    }
}

/// A selector that is there but empty is not none: its namespace is the same, its words are not.
fn labels(selector: Option<Selector>) -> Option<Labels> {
    selector.map(|selector| selector.match_labels.unwrap_or_default())
}

#[cfg(test)]
mod tests;
