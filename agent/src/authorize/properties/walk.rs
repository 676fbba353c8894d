//! Every policy asked in turn, in the order that decides which one is named.

use super::*;

pub(super) fn decide(all: &[Authorization], to: &Workload, request: &Request) -> Decision {
    let subject = Subject::new(request);
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|policy| &policy.key);
    let of = |scope| sorted.iter().copied().filter(move |policy| policy.scope == scope);
    let here = of(PolicyScope::Namespace).filter(|policy| policy.key.namespace == to.namespace);
    let found = |key: &PolicyKey| all.iter().find(|policy| policy.key == *key);
    let listed = to.authorization_policies.iter().filter_map(found);
    let governing = of(PolicyScope::Global).chain(here).chain(listed);
    let enforced: Vec<_> = governing.filter(|policy| !policy.dry_run).collect();
    let first = |action| {
        let mut policies = enforced.iter().filter(|policy| policy.action == action);
        policies.find_map(|policy| {
            let rule = Some(subject.matched_by(policy)?);
            Some(MatchedRule { policy: policy.key.clone(), rule })
        })
    };
    let missing = to.authorization_policies.iter().filter(|key| found(key).is_none());
    let missing = missing.filter(|key| key.name != CONVERTED || request.source.is_none());
    let (strict, unknown): (Vec<_>, Vec<_>) =
        missing.cloned().partition(|key| key.name == STATIC_STRICT);
    let strict = strict.last().filter(|_| request.source.is_none());
    let strict = strict.map(|key| MatchedRule::from(key.clone()));
    if let Some(by) = strict.or_else(|| first(Action::Deny)) {
        Decision::Deny(Denial::Explicit(by))
    } else if !unknown.is_empty() {
        Decision::Unknown(unknown)
    } else if let Some(by) = first(Action::Allow) {
        Decision::Allow(Permit { by: Some(by) })
    } else if enforced.iter().any(|policy| policy.action == Action::Allow) {
        Decision::Deny(Denial::NotAllowed)
    } else {
        Decision::Allow(Permit { by: None })
    }
}
