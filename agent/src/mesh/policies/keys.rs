//! What a request must show for a policy to match it, as far as that can be looked up.
//!
//! A policy is filed under keys such that every request it matches shows at least one of them. What
//! cannot be looked up (patterns, ranges, everything with `not`) asks for nothing here.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;

use arcstr::ArcStr;

use crate::mesh::SpiffeId;
use crate::mesh::policy::{Authorization, Group, Match, Rule, StringMatch};

/// Keys that one group is filed under at most: a longer list is cheaper to read than to file.
const MAX_KEYS: usize = 256;

/// Kinds of keys.
pub(super) const SHAPES: usize = 8;

/// Something to look for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: Source,
    port: Option<u16>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    Anyone,
    Address(IpAddr),
    /// Empty for plaintext.
    Namespace(ArcStr),
    /// Whatever the trust domain.
    Account {
        namespace: ArcStr,
        name: ArcStr,
    },
}

impl Key {
    /// Which kind it is, below [`SHAPES`].
    pub(super) fn shape(&self) -> usize {
        let source = match self.source {
            Source::Anyone => 0,
            Source::Address(_) => 1,
            Source::Namespace(_) => 2,
            Source::Account { .. } => 3,
        };
        source * 2 + usize::from(self.port.is_some())
    }
}

/// What a request shows.
#[derive(Debug)]
pub struct Probe<'a> {
    source_ip: IpAddr,
    identity: Option<&'a SpiffeId>,
    port: u16,
    keys: OnceCell<[Option<Key>; SHAPES]>,
}

impl<'a> Probe<'a> {
    /// `source_ip` in its canonical form; `port` is the app's.
    pub fn new(source_ip: IpAddr, identity: Option<&'a SpiffeId>, port: u16) -> Self {
        Self { source_ip, identity, port, keys: OnceCell::new() }
    }

    /// Its key of every kind.
    pub(super) fn keys(&self) -> &[Option<Key>; SHAPES] {
        self.keys.get_or_init(|| {
            let mut keys = [const { None }; SHAPES];
            let namespace = self.identity.map(|id| id.namespace().clone()).unwrap_or_default();
            let account = self.identity.map(account);
            let sources =
                [Source::Anyone, Source::Address(self.source_ip), Source::Namespace(namespace)];
            for source in sources.into_iter().chain(account) {
                for port in [None, Some(self.port)] {
                    let key = Key { source: source.clone(), port };
                    let shape = key.shape();
                    keys[shape] = Some(key);
                }
            }
            keys
        })
    }
}

/// The keys a policy is filed under; none if it matches nothing.
pub(super) fn keys(policy: &Authorization) -> Vec<Key> {
    distinct(policy.groups.iter().flat_map(group_keys))
}

fn group_keys(group: &Group) -> Vec<Key> {
    let (sources, ports) = (fewest(group, sources), fewest(group, ports));
    match (sources, ports) {
        (Some(sources), Some(ports)) if sources.len() * ports.len() <= MAX_KEYS => {
            let each = |source: &Source| {
                let source = source.clone();
                ports.iter().map(move |port| Key { source: source.clone(), port: Some(*port) })
            };
            sources.iter().flat_map(each).collect()
        }
        (Some(sources), _) if sources.len() <= MAX_KEYS => {
            sources.into_iter().map(|source| Key { source, port: None }).collect()
        }
        (_, Some(ports)) if ports.len() <= MAX_KEYS => {
            ports.into_iter().map(|port| Key { source: Source::Anyone, port: Some(port) }).collect()
        }
        _ => vec![Key { source: Source::Anyone, port: None }],
    }
}

/// The values of the rule that leaves the fewest: all rules must hold, so any one of them will do.
fn fewest<T: Eq + Hash>(group: &Group, of: fn(&Match) -> Option<Vec<T>>) -> Option<Vec<T>> {
    group.rules.iter().filter_map(|rule| required(rule, of)).min_by_key(Vec::len)
}

/// The values of which a request must show one to meet a rule; none if it may do without.
fn required<T: Eq + Hash>(rule: &Rule, of: fn(&Match) -> Option<Vec<T>>) -> Option<Vec<T>> {
    if rule.matches.is_empty() {
        return None;
    }
    // A match without fields is never met.
    let matches = rule.matches.iter().filter(|condition| !condition.is_empty());
    let values = matches.map(of).collect::<Option<Vec<_>>>()?;
    Some(distinct(values.into_iter().flatten()))
}

fn ports(condition: &Match) -> Option<Vec<u16>> {
    (!condition.destination_ports.is_empty()).then(|| condition.destination_ports.clone())
}

/// By the narrowest field that can be looked up.
fn sources(condition: &Match) -> Option<Vec<Source>> {
    principals(condition)
        .or_else(|| accounts(condition))
        .or_else(|| addresses(condition))
        .or_else(|| namespaces(condition))
}

fn principals(condition: &Match) -> Option<Vec<Source>> {
    let texts = exact(&condition.principals)?;
    // What is not an identity is nobody's.
    let identities = texts.filter_map(|text| format!("spiffe://{text}").parse::<SpiffeId>().ok());
    Some(identities.map(|identity| account(&identity)).collect())
}

fn accounts(condition: &Match) -> Option<Vec<Source>> {
    let accounts = condition.service_accounts.iter().map(|account| Source::Account {
        namespace: account.namespace.clone(),
        name: account.service_account.clone(),
    });
    (!condition.service_accounts.is_empty()).then(|| accounts.collect())
}

fn addresses(condition: &Match) -> Option<Vec<Source>> {
    let ranges = &condition.source_ips;
    let single = ranges.iter().all(|range| range.prefix_len() == range.max_prefix_len());
    let addresses = ranges.iter().map(|range| Source::Address(range.addr()));
    (!ranges.is_empty() && single).then(|| addresses.collect())
}

fn namespaces(condition: &Match) -> Option<Vec<Source>> {
    Some(exact(&condition.namespaces)?.map(|text| Source::Namespace(text.clone())).collect())
}

/// The texts of patterns that are all exact; none if there are no patterns.
fn exact(patterns: &[StringMatch]) -> Option<impl Iterator<Item = &ArcStr>> {
    let text = |pattern: &'_ StringMatch| matches!(pattern, StringMatch::Exact(_));
    let all = !patterns.is_empty() && patterns.iter().all(text);
    all.then(|| {
        patterns.iter().filter_map(|pattern| match pattern {
            StringMatch::Exact(text) => Some(text),
            StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => None,
        })
    })
}

fn account(identity: &SpiffeId) -> Source {
    Source::Account {
        namespace: identity.namespace().clone(),
        name: identity.service_account().clone(),
    }
}

fn distinct<T: Eq + Hash>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    values.into_iter().collect::<HashSet<_>>().into_iter().collect()
}
