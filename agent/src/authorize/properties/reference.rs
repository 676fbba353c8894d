//! The rules spelt out over plain lists, without index, order or early return.

use super::*;

pub(super) fn decide(all: &[Authorization], to: &Workload, request: &Request) -> Outcome {
    let listed = |key: &PolicyKey| to.authorization_policies.contains(key);
    let governs = |p: &&Authorization| match p.scope {
        PolicyScope::Global => true,
        PolicyScope::Namespace => p.key.namespace == to.namespace || listed(&p.key),
        PolicyScope::WorkloadSelector => listed(&p.key),
    };
    let enforced: Vec<_> = all.iter().filter(governs).filter(|p| !p.dry_run).collect();
    let missing = to.authorization_policies.iter();
    let (strict, unknown): (Vec<_>, Vec<_>) = missing
        .filter(|key| !all.iter().any(|p| p.key == **key))
        .filter(|key| key.name != CONVERTED || request.source.is_none())
        .partition(|key| key.name == STATIC_STRICT);
    let hits =
        |action| enforced.iter().filter(|p| p.action == action && matches(p, request)).count();
    if hits(Action::Deny) > 0 || (!strict.is_empty() && request.source.is_none()) {
        Outcome::Deny
    } else if !unknown.is_empty() {
        Outcome::Unknown
    } else if enforced.iter().all(|p| p.action == Action::Deny) || hits(Action::Allow) > 0 {
        Outcome::Allow
    } else {
        Outcome::Deny
    }
}

fn matches(policy: &Authorization, request: &Request) -> bool {
    let mut matched = false;
    for group in &policy.groups {
        let mut all = true;
        for rule in &group.rules {
            let any = rule.matches.iter().filter(|m| condition(m, request)).count() > 0;
            all &= any || rule.matches.is_empty();
        }
        matched |= all;
    }
    matched
}

fn condition(m: &Match, request: &Request) -> bool {
    let id = request.source.as_ref();
    let principal = id.map(|id| id.to_string().trim_start_matches("spiffe://").to_owned());
    let namespace = id.map(|id| id.namespace().to_string()).unwrap_or_default();
    let mut results = Vec::new();
    results.push(list(&m.namespaces, |p| string(p, &namespace)));
    results.push(not(&m.not_namespaces, |p| string(p, &namespace)));
    let named = |p: &StringMatch| principal.as_ref().is_some_and(|text| string(p, text));
    results.push(list(&m.principals, named));
    results.push(not(&m.not_principals, named));
    results.push(list(&m.source_ips, |r| r.contains(&request.source_ip)));
    results.push(not(&m.not_source_ips, |r| r.contains(&request.source_ip)));
    results.push(list(&m.destination_ips, |r| r.contains(&request.destination.ip())));
    results.push(not(&m.not_destination_ips, |r| r.contains(&request.destination.ip())));
    results.push(list(&m.destination_ports, |p| *p == request.destination.port()));
    results.push(not(&m.not_destination_ports, |p| *p == request.destination.port()));
    let account = |a: &ServiceAccountMatch| {
        let suffix = format!("/ns/{}/sa/{}", a.namespace, a.service_account);
        principal.as_ref().is_some_and(|text| text.ends_with(&suffix))
    };
    results.push(list(&m.service_accounts, account));
    results.push(not(&m.not_service_accounts, account));
    let said: Vec<_> = results.into_iter().flatten().collect();
    !said.is_empty() && said.into_iter().all(|holds| holds)
}

/// None where the list says nothing.
fn list<T>(list: &[T], fits: impl Fn(&T) -> bool) -> Option<bool> {
    (!list.is_empty()).then(|| list.iter().filter(|t| fits(t)).count() > 0)
}

fn not<T>(list: &[T], fits: impl Fn(&T) -> bool) -> Option<bool> {
    (!list.is_empty()).then(|| list.iter().filter(|t| fits(t)).count() == 0)
}

fn string(pattern: &StringMatch, text: &str) -> bool {
    match pattern {
        StringMatch::Exact(s) => s.as_str() == text,
        StringMatch::Prefix(s) => text.get(..s.len()) == Some(s.as_str()),
        StringMatch::Suffix(s) => {
            text.len() >= s.len() && &text[text.len() - s.len()..] == s.as_str()
        }
        StringMatch::Presence => !text.is_empty(),
    }
}
