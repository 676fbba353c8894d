//! What a resource's status says of it. Pure: what was understood in, conditions out.
//!
//! Each resource has two conditions: whether it is accepted, and whether all that it says is
//! enforced. They say the same on every replica, so that replicas never overwrite each other.

use serde_json::{Map, Value, json};

use super::convert::access::{Converted, Note};
use super::convert::destination::{Asked, TlsMode};

/// Whether a resource is understood and taken.
pub const ACCEPTED: &str = "Accepted";
/// The same of an AuthorizationPolicy, by the name that Istio's tools look for.
pub const ZTUNNEL_ACCEPTED: &str = "ZtunnelAccepted";
/// Whether all that a resource says is enforced.
pub const ENFORCED: &str = "Enforced";

/// The longest message, in bytes; Kubernetes' own conditions have up to 32768.
const MESSAGE: usize = 4096;

/// Of it, what is wrong with a policy, so that what is closed fits into an Event too.
const PROBLEM: usize = 512;

/// A text of so many bytes at most, cut between characters.
pub fn clipped(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes.saturating_sub('…'.len_utf8()));
    format!("{}…", &text[..end])
}

/// One condition of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `type`.
    pub kind: &'static str,
    /// `status`: `True` or `False`.
    pub holds: bool,
    /// One word, in camel case.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Condition {
    fn new(kind: &'static str, holds: bool, reason: &'static str, message: &str) -> Self {
        Self { kind, holds, reason, message: clipped(message, MESSAGE) }
    }
}

/// Where a PeerAuthentication does less than it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerNote {
    /// Mode `DISABLE`, for all ports or for one.
    Disable,
    /// `portLevelMtls` without a selector.
    PortsWithoutSelector,
}

impl PeerNote {
    /// The note as a condition's reason.
    fn reason(self) -> &'static str {
        match self {
            Self::Disable => "DisableIsPermissive",
            Self::PortsWithoutSelector => "PortLevelMtlsIgnored",
        }
    }

    /// The note as a sentence.
    pub fn message(self) -> &'static str {
        match self {
            Self::Disable => {
                "mode DISABLE is the same as PERMISSIVE for inbound connections: clients of the \
                 mesh still use mutual TLS"
            }
            Self::PortsWithoutSelector => "portLevelMtls has no effect without a selector",
        }
    }
}

/// Of a resource that cannot be read, and would have no effect if it could. `accepted` is the name of
/// its kind's condition.
pub fn invalid(accepted: &'static str, problem: &str) -> Vec<Condition> {
    vec![
        Condition::new(accepted, false, "Invalid", problem),
        Condition::new(ENFORCED, false, "NotAccepted", "it has no effect"),
    ]
}

/// Of a policy that cannot be read. `accepted` is the name of its kind's condition, `closed` says
/// what is closed in its stead.
pub fn closed(accepted: &'static str, problem: &str, closed: &str) -> Vec<Condition> {
    let told = format!("{}; until that is mended, {closed}", clipped(problem, PROBLEM));
    vec![
        Condition::new(accepted, false, "Invalid", &told),
        Condition::new(ENFORCED, false, "FailsClosed", closed),
    ]
}

/// Of an AuthorizationPolicy.
pub fn authorization_policy(converted: &Converted) -> Vec<Condition> {
    let told = sentences(converted.notes.iter().map(ToString::to_string));
    let Some(rules) = &converted.rules else {
        let targeted = converted.notes.contains(&Note::Targeted);
        let reason = if targeted { "UnsupportedTarget" } else { "UnsupportedValue" };
        return vec![
            Condition::new(ZTUNNEL_ACCEPTED, false, reason, &told),
            Condition::new(ENFORCED, false, "NotAccepted", "nodes do not enforce the policy"),
        ];
    };
    let unseen = converted
        .notes
        .iter()
        .any(|note| !matches!(note, Note::NothingToDeny | Note::PortZero | Note::Schemes(_)));
    let accepted = if unseen {
        Condition::new(ZTUNNEL_ACCEPTED, true, "UnsupportedValue", &told)
    } else {
        Condition::new(ZTUNNEL_ACCEPTED, true, "Accepted", "the policy is sent to the nodes")
    };
    let enforced = if rules.dry_run {
        let told = "dry-run: what the policy would do is logged and counted, never enforced";
        Condition::new(ENFORCED, false, "DryRun", told)
    } else if converted.notes.is_empty() {
        Condition::new(ENFORCED, true, "Enforced", "every rule is enforced at layer 4")
    } else {
        Condition::new(ENFORCED, false, "NotAsWritten", &told)
    };
    vec![accepted, enforced]
}

/// Of a PeerAuthentication.
pub fn peer_authentication(notes: &[PeerNote]) -> Vec<Condition> {
    let accepted = Condition::new(ACCEPTED, true, "Accepted", "the policy is in force");
    let enforced = match notes {
        [] => Condition::new(ENFORCED, true, "Enforced", "all of the policy is enforced"),
        [one] => Condition::new(ENFORCED, false, one.reason(), one.message()),
        several => {
            let told = sentences(several.iter().map(|note| note.message().to_owned()));
            Condition::new(ENFORCED, false, "NotAsWritten", &told)
        }
    };
    vec![accepted, enforced]
}

/// Of a DestinationRule.
pub fn destination_rule(asked: &[Asked]) -> Vec<Condition> {
    let agents = "node agents work at layer 4 and use mutual TLS wherever the destination can";
    let told = if asked.is_empty() {
        format!("no effect at layer 4: {agents}")
    } else if asked.iter().all(|asked| asked.mode == TlsMode::IstioMutual) {
        format!("no effect at layer 4: {agents}, which is what ISTIO_MUTUAL asks for")
    } else {
        let modes = asked.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!("no effect at layer 4 ({modes}): {agents}")
    };
    vec![
        Condition::new(ACCEPTED, true, "Accepted", "the rule is valid"),
        Condition::new(ENFORCED, false, "NoEffect", &told),
    ]
}

/// Of a resource of a kind that is not served here.
pub fn unserved(note: &str) -> Vec<Condition> {
    vec![
        Condition::new(ACCEPTED, false, "NotServed", note),
        Condition::new(ENFORCED, false, "NotAccepted", "it has no effect"),
    ]
}

fn sentences(notes: impl Iterator<Item = String>) -> String {
    notes.collect::<Vec<_>>().join("; ")
}

/// The list of conditions with `conditions` in it, or none if it says so already. Conditions of
/// other types stay; a condition's time changes only with its status.
pub fn updated(
    present: &Value,
    generation: Option<i64>,
    conditions: &[Condition],
    now: &str,
) -> Option<Value> {
    let present: &[Value] = present.as_array().map_or(&[], Vec::as_slice);
    let of = |kind: &str| conditions.iter().find(|condition| condition.kind == kind);
    let (mut list, mut told, mut changed) = (Vec::new(), Vec::new(), false);
    for found in present {
        let Some(condition) = found["type"].as_str().and_then(of) else {
            list.push(found.clone());
            continue;
        };
        if told.contains(&condition.kind) {
            changed = true;
            continue;
        }
        told.push(condition.kind);
        let fresh = written(condition, generation, Some(found), now);
        if says(found, &fresh) {
            list.push(found.clone());
        } else {
            changed = true;
            list.push(fresh);
        }
    }
    for condition in conditions.iter().filter(|condition| !told.contains(&condition.kind)) {
        changed = true;
        list.push(written(condition, generation, None, now));
    }
    changed.then_some(Value::Array(list))
}

fn written(
    condition: &Condition,
    generation: Option<i64>,
    before: Option<&Value>,
    now: &str,
) -> Value {
    let status = if condition.holds { "True" } else { "False" };
    let before = before.filter(|before| before["status"] == status);
    let since = before.and_then(|before| before["lastTransitionTime"].as_str()).unwrap_or(now);
    let mut made = Map::from_iter([
        ("type".to_owned(), json!(condition.kind)),
        ("status".to_owned(), json!(status)),
        ("reason".to_owned(), json!(condition.reason)),
        ("message".to_owned(), json!(condition.message)),
        ("lastTransitionTime".to_owned(), json!(since)),
    ]);
    if let Some(generation) = generation {
        made.insert("observedGeneration".to_owned(), json!(generation));
    }
    Value::Object(made)
}

/// Whether a condition that is there says what a fresh one does. Some write the generation as text.
fn says(found: &Value, fresh: &Value) -> bool {
    let generation = |condition: &Value| match &condition["observedGeneration"] {
        Value::String(text) => text.parse().ok(),
        number => number.as_i64(),
    };
    let fields = ["status", "reason", "message"];
    fields.iter().all(|field| found[field] == fresh[field])
        && found["lastTransitionTime"].is_string()
        && generation(found) == generation(fresh)
}

#[cfg(test)]
mod tests;
