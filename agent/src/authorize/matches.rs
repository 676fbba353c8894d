//! Whether a policy matches a request.

mod why;

use std::cell::OnceCell;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::mesh::SpiffeId;
use crate::mesh::policies::Probe;
use crate::mesh::policy::{Authorization, Group, Match, Rule, ServiceAccountMatch, StringMatch};

use super::Request;

/// What a request looks like to a policy; spelt out at most once for all policies.
#[derive(Debug)]
pub struct Subject<'a> {
    probe: Probe<'a>,
    source_ip: IpAddr,
    destination_ip: IpAddr,
    destination_port: u16,
    identity: Option<&'a SpiffeId>,
    /// The identity without `spiffe://`, once a policy asks for it.
    principal: OnceCell<Option<String>>,
}

impl<'a> Subject<'a> {
    /// The one that makes `request`.
    pub fn new(request: &'a Request) -> Self {
        let source_ip = request.source_ip.to_canonical();
        let destination_port = request.destination.port();
        let identity = request.source.as_ref();
        Self {
            probe: Probe::new(source_ip, identity, destination_port),
            source_ip,
            destination_ip: request.destination.ip().to_canonical(),
            destination_port,
            identity,
            principal: OnceCell::new(),
        }
    }

    /// What policies are looked up by.
    pub(super) fn probe(&self) -> &Probe<'a> {
        &self.probe
    }

    /// The first group that matches, if any does: then the policy matches.
    pub fn matched_by(&self, policy: &Authorization) -> Option<usize> {
        policy.groups.iter().position(|group| self.in_group(group))
    }

    /// Every rule holds; a group without rules matches everything.
    fn in_group(&self, group: &Group) -> bool {
        group.rules.iter().all(|rule| self.in_rule(rule))
    }

    /// Any match holds; a rule without matches says nothing.
    fn in_rule(&self, rule: &Rule) -> bool {
        rule.matches.is_empty() || rule.matches.iter().any(|condition| self.meets(condition))
    }

    /// Every field holds; a match without any field matches nothing.
    fn meets(&self, condition: &Match) -> bool {
        // The cheap ones first.
        !condition.is_empty()
            && self.port_meets(condition)
            && self.destination_ip_meets(condition)
            && self.source_ip_meets(condition)
            && self.namespace_meets(condition)
            && self.principal_meets(condition)
            && self.account_meets(condition)
    }

    fn port_meets(&self, condition: &Match) -> bool {
        let same = |port: &u16| *port == self.destination_port;
        fits(&condition.destination_ports, &condition.not_destination_ports, same)
    }

    fn destination_ip_meets(&self, condition: &Match) -> bool {
        let destination = |range: &IpNet| range.contains(&self.destination_ip);
        fits(&condition.destination_ips, &condition.not_destination_ips, destination)
    }

    fn source_ip_meets(&self, condition: &Match) -> bool {
        let source = |range: &IpNet| range.contains(&self.source_ip);
        fits(&condition.source_ips, &condition.not_source_ips, source)
    }

    /// Plaintext has the namespace "", but no principal and no service account at all.
    fn namespace_meets(&self, condition: &Match) -> bool {
        let namespace = self.identity.map_or("", |identity| identity.namespace());
        let namespace = |pattern: &StringMatch| pattern_matches(pattern, namespace);
        fits(&condition.namespaces, &condition.not_namespaces, namespace)
    }

    fn principal_meets(&self, condition: &Match) -> bool {
        let principal = |pattern: &StringMatch| {
            let text = self.principal.get_or_init(|| self.identity.map(principal));
            text.as_deref().is_some_and(|text| pattern_matches(pattern, text))
        };
        fits(&condition.principals, &condition.not_principals, principal)
    }

    fn account_meets(&self, condition: &Match) -> bool {
        let account = |account: &ServiceAccountMatch| {
            self.identity.is_some_and(|identity| {
                *identity.namespace() == account.namespace
                    && *identity.service_account() == account.service_account
            })
        };
        fits(&condition.service_accounts, &condition.not_service_accounts, account)
    }
}

/// One of `any` fits if there are some, and none of `none` does.
fn fits<T>(any: &[T], none: &[T], fit: impl Fn(&T) -> bool) -> bool {
    (any.is_empty() || any.iter().any(&fit)) && !none.iter().any(&fit)
}

fn pattern_matches(pattern: &StringMatch, text: &str) -> bool {
    match pattern {
        StringMatch::Exact(exact) => text == exact,
        StringMatch::Prefix(prefix) => text.starts_with(prefix.as_str()),
        StringMatch::Suffix(suffix) => text.ends_with(suffix.as_str()),
        StringMatch::Presence => !text.is_empty(),
    }
}

fn principal(identity: &SpiffeId) -> String {
    let (domain, namespace) = (identity.trust_domain(), identity.namespace());
    format!("{domain}/ns/{namespace}/sa/{}", identity.service_account())
}
