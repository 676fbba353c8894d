//! Whom a policy governs, as far as that can be read without the rest of it.

use kube::api::DynamicObject;
use serde::Deserialize as _;
use serde_json::Value;

use crate::control_plane::conditions::clipped;
use crate::control_plane::convert::spec::WorkloadSelector;
use crate::control_plane::model::{Labels, Selector};

/// Labels that a sentence names.
const NAMED: usize = 3;
/// And how many bytes of them.
const WORDS: usize = 256;

/// The selector of an object's `spec`.
pub(super) fn selector(object: &DynamicObject) -> Selector {
    let selector = match object.data.get("spec") {
        None | Some(Value::Null) => return Selector::All,
        Some(Value::Object(spec)) => spec.get("selector"),
        Some(_) => return Selector::Unreadable,
    };
    let selector = match selector {
        None | Some(Value::Null) => return Selector::All,
        Some(selector) => WorkloadSelector::deserialize(selector),
    };
    match selector.map(|selector| selector.match_labels.unwrap_or_default()) {
        Ok(labels) if labels.is_empty() => Selector::All,
        Ok(labels) if labels.iter().all(is_label) => Selector::Labels(labels),
        _ => Selector::Unreadable,
    }
}

/// What Istio refuses selects nothing, which its author cannot have meant.
fn is_label((name, value): (&String, &String)) -> bool {
    !name.is_empty() && !name.contains('*') && !value.contains('*')
}

/// Whether an object's `spec` has fields besides `known` and the selector.
pub(super) fn has_other_fields(object: &DynamicObject, known: &[&str]) -> bool {
    let spec = object.data.get("spec").and_then(Value::as_object);
    let mut names = spec.into_iter().flat_map(|spec| spec.keys());
    names.any(|name| name != "selector" && !known.contains(&name.as_str()))
}

/// Whom a policy of `namespace` governs, in words.
pub(super) fn sentence(namespace: &str, selector: &Selector, root: &str) -> String {
    let place =
        if namespace == root { "the mesh".to_owned() } else { format!("namespace {namespace}") };
    match selector {
        Selector::All | Selector::Unreadable => format!("workloads of {place}"),
        Selector::Labels(labels) => format!("workloads of {place} with {}", words(labels)),
    }
}

fn words(labels: &Labels) -> String {
    let named = labels.iter().take(NAMED).map(|(name, value)| format!("{name}={value}"));
    let mut words = named.collect::<Vec<_>>().join(", ");
    if labels.len() > NAMED {
        words += &format!(" and {} more labels", labels.len() - NAMED);
    }
    clipped(&words, WORDS)
}
