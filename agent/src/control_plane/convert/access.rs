//! AuthorizationPolicy, as far as layer 4 can enforce it.
//!
//! What only an HTTP proxy can see is never guessed: an ALLOW rule that asks for it is left out
//! (it allows nothing), in a DENY rule it is taken as met (it denies more), except that a DENY
//! rule of nothing else denies nothing. Policies for waypoints, AUDIT and CUSTOM are not sent. What
//! cannot be read is an error: whoever asked makes it [`Rules::closed`].

use sotto_proto::security::string_match::MatchType;
use sotto_proto::security::{Action, Authorization, Group, Match, Rules as Clause, Scope};

use super::spec::{ActionName, AuthorizationPolicySpec, Condition, Operation, Rule, Source};
use crate::control_plane::model::{
    AuthorizationPolicy, Labels, ObjectKey, Rules, Selector, selects,
};
use values::{addresses, ports, service_accounts, strings};

mod attributes;
mod note;
mod values;

pub use note::{Dropped, Note};
pub use values::ValueError;

/// A converted policy and what its author should know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// None: not for the nodes to enforce.
    pub rules: Option<Rules>,
    /// Where it does less or more than it says.
    pub notes: Vec<Note>,
}

/// Converts a policy of `namespace`.
///
/// # Errors
/// A value is malformed; the error names it.
pub fn convert(
    spec: &AuthorizationPolicySpec,
    namespace: &str,
    dry_run: bool,
) -> Result<Converted, ValueError> {
    let action = match spec.action {
        None | Some(ActionName::Allow) => Action::Allow,
        Some(ActionName::Deny) => Action::Deny,
        Some(other) => {
            return Ok(Converted { rules: None, notes: vec![Note::UnsupportedAction(other)] });
        }
    };
    if spec.targeted() {
        return Ok(Converted { rules: None, notes: vec![Note::Targeted] });
    }
    let (mut groups, mut notes) = (Vec::new(), Vec::new());
    if action == Action::Deny && spec.rules.as_ref().is_none_or(Vec::is_empty) {
        notes.push(Note::NothingToDeny);
    }
    for (at, rule) in spec.rules.iter().flatten().enumerate() {
        let parts =
            Parts::parse(rule, namespace, action).map_err(|error| error.within("rules", at))?;
        if parts.port_zero() && !notes.contains(&Note::PortZero) {
            notes.push(Note::PortZero);
        }
        let schemes = Dropped { rule: at, names: parts.schemes() };
        if !schemes.names.is_empty() {
            notes.push(Note::Schemes(schemes));
        }
        let dropped = Dropped { rule: at, names: parts.unseen() };
        let made = match action {
            Action::Allow if !dropped.names.is_empty() => Vec::new(),
            Action::Allow => vec![parts.all()],
            Action::Deny => parts.without_unseen(),
        };
        if !dropped.names.is_empty() {
            notes.push(match (action, made.is_empty()) {
                (Action::Allow, _) => Note::RuleLeftOut(dropped),
                (Action::Deny, true) => Note::DeniesNothing(dropped),
                (Action::Deny, false) => Note::DeniesMore(dropped),
            });
        }
        groups.extend(made);
    }
    Ok(Converted { rules: Some(Rules { action, groups, dry_run }), notes })
}

/// The resource of a policy, if nodes enforce it. `cluster.local` in a principal is the mesh's own
/// trust domain, whatever that is called.
pub fn authorization(
    policy: &AuthorizationPolicy,
    root: &str,
    trust_domain: &str,
) -> Option<Authorization> {
    let rules = policy.rules.as_ref()?;
    let scope = match policy.selector {
        Selector::Labels(_) => Scope::WorkloadSelector,
        Selector::All | Selector::Unreadable if policy.key.namespace == *root => Scope::Global,
        Selector::All | Selector::Unreadable => Scope::Namespace,
    };
    Some(Authorization {
        name: policy.key.name.to_string(),
        namespace: policy.key.namespace.to_string(),
        scope: scope.into(),
        action: rules.action.into(),
        groups: values::with_own_trust_domain(rules.groups.clone(), trust_domain),
        dry_run: rules.dry_run,
        extensions: Vec::new(),
    })
}

/// Keys of the policies that select a workload, to put in its `authorization_policies`: those of
/// its namespace and of the root namespace.
pub fn references<'p>(
    policies: impl Iterator<Item = &'p AuthorizationPolicy>,
    labels: &Labels,
) -> Vec<&'p ObjectKey> {
    policies
        .filter(|policy| policy.rules.is_some())
        .filter(|policy| matches!(&policy.selector, Selector::Labels(s) if selects(s, labels)))
        .map(|policy| &policy.key)
        .collect()
}

/// A rule in parts, each alternative or condition with what layer 4 sees of it.
struct Parts {
    from: Vec<Part>,
    to: Vec<Part>,
    when: Vec<Part>,
}

/// One alternative or condition.
struct Part {
    /// What layer 4 sees; empty if nothing.
    visible: Match,
    /// Names of what else it asks for, which only an HTTP proxy sees.
    unseen: Vec<String>,
}

impl Parts {
    fn parse(rule: &Rule, namespace: &str, action: Action) -> Result<Self, ValueError> {
        // A list of alternatives without any says neither everybody nor nobody.
        let none = |given: bool, name| if given { Err(ValueError::empty(name)) } else { Ok(()) };
        none(rule.from.as_ref().is_some_and(Vec::is_empty), "from")?;
        none(rule.to.as_ref().is_some_and(Vec::is_empty), "to")?;
        let from = rule.from.iter().flatten().enumerate().map(|(at, from)| {
            let source = from.source.as_ref().ok_or_else(|| ValueError::empty("source"));
            source.and_then(|s| parse_source(s, namespace)).map_err(|e| e.within("from", at))
        });
        let to = rule.to.iter().flatten().enumerate().map(|(at, to)| {
            let operation = to.operation.as_ref().ok_or_else(|| ValueError::empty("operation"));
            operation.and_then(parse_operation).map_err(|e| e.within("to", at))
        });
        let when = rule.when.iter().flatten().enumerate();
        let when =
            when.map(|(at, when)| parse_condition(when, action).map_err(|e| e.within("when", at)));
        Ok(Self {
            from: from.collect::<Result<_, _>>()?,
            to: to.collect::<Result<_, _>>()?,
            when: when.collect::<Result<_, _>>()?,
        })
    }

    /// Names of all that layer 4 does not see, each once.
    fn unseen(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let parts = self.from.iter().chain(&self.to).chain(&self.when);
        for name in parts.flat_map(|part| &part.unseen) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Whether it asks for port 0, which no connection has.
    fn port_zero(&self) -> bool {
        let visible = self.from.iter().chain(&self.to).chain(&self.when).map(|part| &part.visible);
        visible
            .flat_map(|v| v.destination_ports.iter().chain(&v.not_destination_ports))
            .any(|p| *p == 0)
    }

    /// Principals with the scheme of SPIFFE ids, which Istio leaves out:
    /// <https://istio.io/latest/docs/reference/config/security/authorization-policy/#Source>.
    fn schemes(&self) -> Vec<String> {
        let parts = self.from.iter().chain(&self.when);
        let principals = parts
            .flat_map(|part| part.visible.principals.iter().chain(&part.visible.not_principals));
        let texts = principals.filter_map(|pattern| match &pattern.match_type {
            Some(MatchType::Exact(text) | MatchType::Prefix(text)) => Some(text),
            _ => None,
        });
        texts.filter(|text| text.starts_with("spiffe://")).cloned().collect()
    }

    /// The whole rule, of which layer 4 sees everything.
    fn all(self) -> Group {
        let clauses = [clause(self.to), clause(self.from)].into_iter().flatten();
        let when = self.when.into_iter().map(|part| Clause { matches: vec![part.visible] });
        Group { rules: clauses.chain(when).collect() }
    }

    /// The rule with what layer 4 does not see taken as met: the OR, over every pair of a source and an
    /// operation, of what remains, without the pairs of which nothing does.
    fn without_unseen(self) -> Vec<Group> {
        if self.unseen().is_empty() {
            return vec![self.all()];
        }
        let when = self.when.into_iter().map(|part| part.visible);
        let when: Vec<Clause> = when
            .filter(|visible| *visible != Match::default())
            .map(|visible| Clause { matches: vec![visible] })
            .collect();
        let (to, any_to) = strip(self.to);
        let (from, any_from) = strip(self.from);
        let group = |parts: [Option<Clause>; 2]| {
            let rules = parts.into_iter().flatten().chain(when.clone()).collect::<Vec<_>>();
            (!rules.is_empty()).then_some(Group { rules })
        };
        let groups = match (any_to, any_from) {
            (false, false) => vec![group([to, from])],
            (true, false) if from.is_some() || !when.is_empty() => vec![group([None, from])],
            (false, true) if to.is_some() || !when.is_empty() => vec![group([to, None])],
            (true, true) if !when.is_empty() => vec![group([None, None])],
            _ => vec![group([to, None]), group([None, from])],
        };
        groups.into_iter().flatten().collect()
    }
}

fn clause(parts: Vec<Part>) -> Option<Clause> {
    let matches: Vec<_> = parts.into_iter().map(|part| part.visible).collect();
    (!matches.is_empty()).then_some(Clause { matches })
}

/// What layer 4 sees of some alternatives, and whether one of them is met by anything it sees.
fn strip(parts: Vec<Part>) -> (Option<Clause>, bool) {
    let all = parts.len();
    let visible: Vec<_> =
        parts.into_iter().filter(|part| part.visible != Match::default()).collect();
    let met = visible.len() < all;
    (clause(visible), met)
}

fn parse_source(source: &Source, namespace: &str) -> Result<Part, ValueError> {
    let Source {
        principals,
        not_principals,
        request_principals,
        not_request_principals,
        namespaces,
        not_namespaces,
        service_accounts: accounts,
        not_service_accounts: not_accounts,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
        trust_domains,
        not_trust_domains,
    } = source;
    let visible = Match {
        principals: strings("principals", principals)?,
        not_principals: strings("notPrincipals", not_principals)?,
        namespaces: strings("namespaces", namespaces)?,
        not_namespaces: strings("notNamespaces", not_namespaces)?,
        service_accounts: service_accounts("serviceAccounts", accounts, namespace)?,
        not_service_accounts: service_accounts("notServiceAccounts", not_accounts, namespace)?,
        source_ips: addresses("ipBlocks", ip_blocks)?,
        not_source_ips: addresses("notIpBlocks", not_ip_blocks)?,
        ..Match::default()
    };
    let unseen = [
        ("requestPrincipals", request_principals),
        ("notRequestPrincipals", not_request_principals),
        ("remoteIpBlocks", remote_ip_blocks),
        ("notRemoteIpBlocks", not_remote_ip_blocks),
        ("trustDomains", trust_domains),
        ("notTrustDomains", not_trust_domains),
    ];
    part("source", visible, &unseen)
}

fn parse_operation(operation: &Operation) -> Result<Part, ValueError> {
    let Operation {
        hosts,
        not_hosts,
        ports: wanted,
        not_ports,
        methods,
        not_methods,
        paths,
        not_paths,
    } = operation;
    let visible = Match {
        destination_ports: ports("ports", wanted)?,
        not_destination_ports: ports("notPorts", not_ports)?,
        ..Match::default()
    };
    let unseen = [
        ("hosts", hosts),
        ("notHosts", not_hosts),
        ("methods", methods),
        ("notMethods", not_methods),
        ("paths", paths),
        ("notPaths", not_paths),
    ];
    part("operation", visible, &unseen)
}

fn parse_condition(condition: &Condition, action: Action) -> Result<Part, ValueError> {
    let Condition { key, values, not_values } = condition;
    if !present(values) && !present(not_values) {
        return Err(ValueError::empty("values"));
    }
    let empty = Match::default();
    let visible = match key.as_str() {
        "source.ip" => Match {
            source_ips: addresses("values", values)?,
            not_source_ips: addresses("notValues", not_values)?,
            ..empty
        },
        "destination.ip" => Match {
            destination_ips: addresses("values", values)?,
            not_destination_ips: addresses("notValues", not_values)?,
            ..empty
        },
        "destination.port" => Match {
            destination_ports: ports("values", values)?,
            not_destination_ports: ports("notValues", not_values)?,
            ..empty
        },
        "source.namespace" => Match {
            namespaces: strings("values", values)?,
            not_namespaces: strings("notValues", not_values)?,
            ..empty
        },
        "source.principal" => Match {
            principals: strings("values", values)?,
            not_principals: strings("notValues", not_values)?,
            ..empty
        },
        // One that is misspelt must not make a DENY deny nothing. An ALLOW without it allows less.
        key if action == Action::Deny && !attributes::known(key) => {
            return Err(ValueError::unknown("key", key));
        }
        _ => return Ok(Part { visible: empty, unseen: vec![key.clone()] }),
    };
    Ok(Part { visible, unseen: Vec::new() })
}

fn part(
    what: &'static str,
    visible: Match,
    unseen: &[(&str, &Option<Vec<String>>)],
) -> Result<Part, ValueError> {
    let asked = unseen.iter().filter(|(_, values)| present(values));
    let unseen: Vec<String> = asked.map(|(name, _)| (*name).to_owned()).collect();
    if unseen.is_empty() && visible == Match::default() {
        return Err(ValueError::empty(what));
    }
    Ok(Part { visible, unseen })
}

fn present(values: &Option<Vec<String>>) -> bool {
    values.as_ref().is_some_and(|values| !values.is_empty())
}

#[cfg(test)]
mod tests;
