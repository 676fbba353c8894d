//! Why a policy does not match, in words.

use crate::mesh::policy::{Authorization, Match, Rule};

use super::Subject;

type Field = (&'static str, fn(&Subject<'_>, &Match) -> bool);

/// What a match can ask for, by the names of an `AuthorizationPolicy`.
const FIELDS: [Field; 6] = [
    ("ports", |subject, condition| subject.port_meets(condition)),
    ("destination.ip", |subject, condition| subject.destination_ip_meets(condition)),
    ("ipBlocks", |subject, condition| subject.source_ip_meets(condition)),
    ("namespaces", |subject, condition| subject.namespace_meets(condition)),
    ("principals", |subject, condition| subject.principal_meets(condition)),
    ("serviceAccounts", |subject, condition| subject.account_meets(condition)),
];

impl Subject<'_> {
    /// One line for each group that does not match: the fields that do not hold.
    pub(in crate::authorize) fn why_not(&self, policy: &Authorization) -> Vec<String> {
        if policy.groups.is_empty() {
            return vec!["it has no rules, so it matches nothing".to_owned()];
        }
        let groups = policy.groups.iter().enumerate();
        groups
            .filter_map(|(index, group)| {
                let failing = group.rules.iter().find(|rule| !self.in_rule(rule))?;
                Some(format!("rule {index}: {}", self.unmet(failing)))
            })
            .collect()
    }

    /// What keeps all matches of a rule from holding.
    fn unmet(&self, rule: &Rule) -> String {
        if rule.matches.iter().all(Match::is_empty) {
            return "it says nothing, so it matches nothing".to_owned();
        }
        let differs = |field: &&Field| rule.matches.iter().any(|m| !(field.1)(self, m));
        let unmet = FIELDS.iter().filter(differs).map(|(name, _)| *name);
        format!("{} differ", unmet.collect::<Vec<_>>().join(", "))
    }
}
