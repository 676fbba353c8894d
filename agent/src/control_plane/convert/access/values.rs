//! The values of conditions: patterns, addresses, ports, service accounts.

use std::net::IpAddr;

use ipnet::IpNet;
use sotto_proto::security::{
    Address, Group, Presence, ServiceAccountMatch, StringMatch, string_match::MatchType,
};

use crate::control_plane::convert::matching;
use crate::mesh::spiffe::DEFAULT_TRUST_DOMAIN;

/// A malformed value, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct ValueError {
    path: String,
    problem: String,
}

impl ValueError {
    fn new(field: &'static str, problem: String) -> Self {
        Self { path: field.to_owned(), problem }
    }

    pub(super) fn empty(field: &'static str) -> Self {
        Self::new(field, "is empty".to_owned())
    }

    pub(super) fn unknown(field: &'static str, name: &str) -> Self {
        Self::new(field, format!("{name:?} is no attribute"))
    }

    /// The same, seen from one level further out.
    pub(super) fn within(self, field: &'static str, at: usize) -> Self {
        Self { path: format!("{field}[{at}].{}", self.path), ..self }
    }
}

type Values = Option<Vec<String>>;

/// `*` is any but empty, `x*` a prefix, `*x` a suffix, anything else itself. Nothing at all would
/// match what has no identity.
pub(super) fn strings(
    field: &'static str,
    values: &Values,
) -> Result<Vec<StringMatch>, ValueError> {
    if values.iter().flatten().any(String::is_empty) {
        return Err(ValueError::new(field, "a value is empty".to_owned()));
    }
    let pattern = |value: &String| {
        matching(match (value.as_str(), value.strip_prefix('*'), value.strip_suffix('*')) {
            ("*", _, _) => MatchType::Presence(Presence {}),
            (_, Some(suffix), _) => MatchType::Suffix(suffix.to_owned()),
            (_, _, Some(prefix)) => MatchType::Prefix(prefix.to_owned()),
            _ => MatchType::Exact(value.clone()),
        })
    };
    Ok(values.iter().flatten().map(pattern).collect())
}

/// Policies say `cluster.local` for the mesh's own trust domain, so that they can be written before
/// it is known and survive its change: the principals as they are really called. Istio's proxies
/// take whole principals so
/// (<https://istio.io/latest/docs/tasks/security/authorization/authz-td-migration/>); here prefixes
/// are too, lest a DENY of `cluster.local/ns/x/*` denies nothing.
pub(super) fn with_own_trust_domain(mut groups: Vec<Group>, trust_domain: &str) -> Vec<Group> {
    if trust_domain == DEFAULT_TRUST_DOMAIN {
        return groups;
    }
    let rules = groups.iter_mut().flat_map(|group| &mut group.rules);
    for condition in rules.flat_map(|rule| &mut rule.matches) {
        let principals = condition.principals.iter_mut().chain(&mut condition.not_principals);
        for pattern in principals {
            if let Some(MatchType::Exact(text) | MatchType::Prefix(text)) = &mut pattern.match_type
                && let Some(rest) = text.strip_prefix(DEFAULT_TRUST_DOMAIN)
                && rest.starts_with('/')
            {
                *text = format!("{trust_domain}{rest}");
            }
        }
    }
    groups
}

/// Addresses or CIDR ranges. An address may name a zone, as Istio takes it, which is the node's own
/// and left out; a range may not.
pub(super) fn addresses(field: &'static str, values: &Values) -> Result<Vec<Address>, ValueError> {
    let parse = |value: &String| {
        let net = range(value).ok_or_else(|| {
            ValueError::new(field, format!("{value:?} is no address or CIDR range"))
        })?;
        let address = match net.addr() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        Ok(Address { address, length: u32::from(net.prefix_len()) })
    };
    values.iter().flatten().map(parse).collect()
}

fn range(text: &str) -> Option<IpNet> {
    let net = if text.contains('/') {
        text.parse::<IpNet>().ok()?
    } else {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().ok()?;
        if zone.is_some_and(|zone| zone.is_empty() || ip.is_ipv4()) {
            return None;
        }
        IpNet::from(ip)
    };
    // IPv4 addresses in the form of IPv6 have 96 bits in common: less is a range of something else too.
    let mapped = matches!(net.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    (!mapped || net.prefix_len() >= 96).then_some(net)
}

/// Ports, 0 to 65535 as Istio takes them, although no connection has port 0.
pub(super) fn ports(field: &'static str, values: &Values) -> Result<Vec<u32>, ValueError> {
    let parse = |value: &String| {
        let number =
            value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse::<u16>().ok());
        let number = number.flatten().map(u32::from);
        number.ok_or_else(|| ValueError::new(field, format!("{value:?} is no port")))
    };
    values.iter().flatten().map(parse).collect()
}

/// `namespace/name`, or a name in the policy's own namespace.
pub(super) fn service_accounts(
    field: &'static str,
    values: &Values,
    namespace: &str,
) -> Result<Vec<ServiceAccountMatch>, ValueError> {
    let parse = |value: &String| {
        let (namespace, name) = value.split_once('/').unwrap_or((namespace, value));
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            let problem = format!("{value:?} is no service account");
            return Err(ValueError::new(field, problem));
        }
        Ok(ServiceAccountMatch {
            namespace: namespace.to_owned(),
            service_account: name.to_owned(),
        })
    };
    values.iter().flatten().map(parse).collect()
}
