//! Policies.
//!
//! A value that is none (an address of three bytes, a port beyond 65535) takes the whole policy with it. Left out of its
//! list it would narrow a DENY, or what an ALLOW holds back; and nobody would be told.

use ipnet::IpNet;
use sotto_proto::security as proto;
use sotto_proto::security::string_match::MatchType;

use crate::mesh::policy::{
    Action, Group, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch,
};
use crate::mesh::{Authorization, PolicyKey};

use super::{DecodeError, ip, named};

pub(super) fn authorization(from: proto::Authorization) -> Result<Authorization, DecodeError> {
    let scope = scope(from.scope)?;
    let action = match proto::Action::try_from(from.action) {
        Ok(proto::Action::Allow) => Action::Allow,
        Ok(proto::Action::Deny) => Action::Deny,
        Err(_) => return Err(DecodeError::Unsupported { what: "action", value: from.action }),
    };
    Ok(Authorization {
        key: PolicyKey {
            namespace: named(from.namespace, "namespace")?,
            name: named(from.name, "name")?,
        },
        scope,
        action,
        groups: from.groups.into_iter().map(group).collect::<Result<_, _>>()?,
        dry_run: from.dry_run,
    })
}

pub(super) fn scope(value: i32) -> Result<PolicyScope, DecodeError> {
    match proto::Scope::try_from(value) {
        Ok(proto::Scope::Global) => Ok(PolicyScope::Global),
        Ok(proto::Scope::Namespace) => Ok(PolicyScope::Namespace),
        Ok(proto::Scope::WorkloadSelector) => Ok(PolicyScope::WorkloadSelector),
        Err(_) => Err(DecodeError::Unsupported { what: "scope", value }),
    }
}

fn group(from: proto::Group) -> Result<Group, DecodeError> {
    let rules = from.rules.into_iter().map(rule).collect::<Result<_, _>>()?;
    Ok(Group { rules })
}

fn rule(from: proto::Rules) -> Result<Rule, DecodeError> {
    let matches = from.matches.into_iter().map(condition).collect::<Result<_, _>>()?;
    Ok(Rule { matches })
}

fn condition(from: proto::Match) -> Result<Match, DecodeError> {
    const SOURCE: &str = "source range";
    const DESTINATION: &str = "destination range";
    Ok(Match {
        namespaces: strings(from.namespaces)?,
        not_namespaces: strings(from.not_namespaces)?,
        principals: strings(from.principals)?,
        not_principals: strings(from.not_principals)?,
        source_ips: ranges(&from.source_ips, SOURCE)?,
        not_source_ips: ranges(&from.not_source_ips, SOURCE)?,
        destination_ips: ranges(&from.destination_ips, DESTINATION)?,
        not_destination_ips: ranges(&from.not_destination_ips, DESTINATION)?,
        destination_ports: ports(&from.destination_ports)?,
        not_destination_ports: ports(&from.not_destination_ports)?,
        service_accounts: service_accounts(from.service_accounts)?,
        not_service_accounts: service_accounts(from.not_service_accounts)?,
    })
}

fn strings(from: Vec<proto::StringMatch>) -> Result<Vec<StringMatch>, DecodeError> {
    let decode = |from: proto::StringMatch| match from.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(text.into())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text.into())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.into())),
        Some(MatchType::Presence(proto::Presence {})) => Ok(StringMatch::Presence),
        None => Err(DecodeError::Missing("kind of a string match")),
    };
    from.into_iter().map(decode).collect()
}

fn ranges(from: &[proto::Address], what: &'static str) -> Result<Vec<IpNet>, DecodeError> {
    let range = |from| range(from).ok_or(DecodeError::Address(what));
    from.iter().map(range).collect()
}

fn range(from: &proto::Address) -> Option<IpNet> {
    let address = ip(&from.address, "range").ok()?;
    // A range of mapped addresses is a range of what they map to.
    let unmapped = from.address.len() == 16 && address.is_ipv4();
    let length = if unmapped { from.length.checked_sub(96)? } else { from.length };
    IpNet::new(address, u8::try_from(length).ok()?).ok().map(|range| range.trunc())
}

/// Port 0 is kept: it is no less a number.
fn ports(from: &[u32]) -> Result<Vec<u16>, DecodeError> {
    let port = |port: &u32| u16::try_from(*port).map_err(|_| DecodeError::Port(*port));
    from.iter().map(port).collect()
}

fn service_accounts(
    from: Vec<proto::ServiceAccountMatch>,
) -> Result<Vec<ServiceAccountMatch>, DecodeError> {
    let decode = |from: proto::ServiceAccountMatch| {
        Ok(ServiceAccountMatch {
            namespace: named(from.namespace, "a service account's namespace")?,
            service_account: named(from.service_account, "a service account's name")?,
        })
    };
    from.into_iter().map(decode).collect()
}
