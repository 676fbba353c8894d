//! Whether a DaemonSet is to run on a node, by the labels that it asks for: as the scheduler judges a pod's `nodeSelector` and
//! required node affinity. Where that cannot be told for certain it is.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// Whether pods of this kind are for this node.
pub(super) fn is_chosen(pod: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let none = BTreeMap::new();
    let labels = labels.unwrap_or(&none);
    let selected =
        pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    // One of the terms, each as a whole.
    selected
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| fits(term, labels, node))
        })
}

fn fits(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &Node) -> bool {
    let label = |key: &str| labels.get(key).map(String::as_str);
    let field =
        |key: &str| (key == "metadata.name").then_some(node.metadata.name.as_deref()).flatten();
    let asked = term.match_expressions.iter().flatten();
    asked.clone().all(|one| holds(one, label(&one.key)))
        && term
            .match_fields
            .iter()
            .flatten()
            .all(|one| one.key != "metadata.name" || holds(one, field(&one.key)))
}

fn holds(asked: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed =
        || value.is_some_and(|value| asked.values.iter().flatten().any(|one| one == value));
    match asked.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        // Numbers, and what is not known.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(pod: &Value, expected: bool) {
        let mut spec = json!({ "containers": [] });
        for (key, value) in pod.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let node =
            json!({ "metadata": { "name": "n1", "labels": { "os": "linux", "zone": "a" } } });
        let (spec, node) =
            (serde_json::from_value(spec).unwrap(), serde_json::from_value(node).unwrap());
        assert_eq!(is_chosen(&spec, &node), expected, "{pod}");
    }

    fn affinity(terms: &Value) -> Value {
        json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution":
            { "nodeSelectorTerms": terms } } } })
    }

    #[test]
    fn all_labels_of_a_selector_must_be_there() {
        check(&json!({}), true);
        check(&json!({ "nodeSelector": { "os": "linux" } }), true);
        check(&json!({ "nodeSelector": { "os": "linux", "ours": "yes" } }), false);
        check(&json!({ "nodeSelector": { "os": "other" } }), false);
    }

    #[test]
    fn of_an_affinity_one_term_must_hold_as_a_whole() {
        let asked = |key: &str, operator: &str, values: &[&str]| json!({ "key": key, "operator": operator, "values": values });
        let term = |all: &[Value]| json!({ "matchExpressions": all });
        for (operator, values, expected) in [
            ("In", &["a", "b"][..], true),
            ("In", &["b"], false),
            ("NotIn", &["a"], false),
            ("NotIn", &["b"], true),
            ("Exists", &[], true),
            ("DoesNotExist", &[], false),
            ("Gt", &["1"], true),
        ] {
            check(&affinity(&json!([term(&[asked("zone", operator, values)])])), expected);
        }
        let (no, yes) = (asked("ours", "Exists", &[]), asked("zone", "Exists", &[]));
        check(&affinity(&json!([term(&[yes.clone(), no.clone()])])), false);
        check(&affinity(&json!([term(std::slice::from_ref(&no)), term(&[yes])])), true);
        let of_node =
            |name: &str| json!({ "matchFields": [asked("metadata.name", "In", &[name])] });
        check(&affinity(&json!([of_node("n1")])), true);
        check(&affinity(&json!([of_node("n2")])), false);
    }
}
