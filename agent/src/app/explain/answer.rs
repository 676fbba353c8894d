//! What an agent answers to `/explain`: names looked up in its mesh, every way judged.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::authorize::{Considered, Decision, Denial, Finding, Request, explain};
use crate::mesh::policy::{Action, PolicyScope};
use crate::mesh::workload::TunnelProtocol;
use crate::mesh::{MatchedRule, Mesh, Network, Workload};
use crate::observe::admin::{Parameters, Refusal};

/// All that is told.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::app) struct Answer {
    /// The node of the agent that answers.
    pub(super) node: String,
    pub(super) source: Peer,
    pub(super) destination: Peer,
    /// One for each port and way.
    pub(super) judgements: Vec<Judgement>,
}

/// One end.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Peer {
    /// `namespace/pod`, or the address of what is not in the mesh.
    pub(super) name: String,
    pub(super) ip: IpAddr,
    pub(super) identity: Option<String>,
    pub(super) enrolled: bool,
    pub(super) node: String,
}

/// What policy says of one way in.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Judgement {
    pub(super) port: u16,
    /// `HBONE` or `plaintext`.
    pub(super) way: String,
    /// Whether connections come this way as things are now.
    pub(super) now: bool,
    pub(super) allowed: bool,
    pub(super) reason: String,
    pub(super) policy: Option<String>,
    pub(super) rule: Option<usize>,
    pub(super) considered: Vec<Step>,
}

/// One policy.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    pub(super) policy: String,
    /// `mesh`, `namespace` or `workload`.
    pub(super) scope: String,
    /// `ALLOW` or `DENY`; none while its content has not arrived.
    pub(super) action: Option<String>,
    pub(super) dry_run: bool,
    pub(super) matched: bool,
    pub(super) rule: Option<usize>,
    /// Why it does not match.
    pub(super) why: Vec<String>,
}

/// Answers `source`, `destination` (each `namespace/pod`, the source also an address) and `port`.
///
/// # Errors
/// A parameter is missing or names nothing in the mesh.
pub(in crate::app) fn answer(
    mesh: &Mesh,
    network: &Network,
    node: &str,
    parameters: &Parameters,
) -> Result<Answer, Refusal> {
    if !mesh.synced() {
        return Err(Refusal::unavailable("the control plane has not told this agent all yet"));
    }
    let text = |name: &str| {
        let given = parameters.get(name).filter(|text| !text.is_empty());
        given.ok_or_else(|| Refusal::bad_request(format!("the parameter {name:?} is missing")))
    };
    let unknown = |name: &str| Refusal::not_found(format!("{name} is not in the mesh"));
    let (source, destination) = (text("source")?, text("destination")?);
    let from = find(mesh, network, source);
    let to = find(mesh, network, destination).ok_or_else(|| unknown(destination))?;
    let source_ip = match (from, source.parse::<IpAddr>()) {
        (_, Ok(ip)) => ip,
        (Some(from), Err(_)) => address(from)?,
        (None, Err(_)) => return Err(unknown(source)),
    };
    let to_ip = address(to)?;
    let enrolled = from.is_some_and(is_enrolled);
    let mut judgements = Vec::new();
    for port in ports(mesh, to, parameters)? {
        let destination = SocketAddr::new(to_ip, port);
        if let Some(from) = from {
            let source = Some(from.identity.clone());
            let request = Request { source_ip, source, destination };
            judgements.push(judge(mesh, to, &request, enrolled));
        }
        if !enrolled {
            let request = Request { source_ip, source: None, destination };
            judgements.push(judge(mesh, to, &request, true));
        }
    }
    let source = match from {
        Some(from) => peer(from, source_ip),
        None => Peer {
            name: source.clone(),
            ip: source_ip,
            identity: None,
            enrolled: false,
            node: String::new(),
        },
    };
    Ok(Answer { node: node.to_owned(), source, destination: peer(to, to_ip), judgements })
}

/// A workload by its pod's name, by the name of what made it, or by address.
fn find<'a>(mesh: &'a Mesh, network: &Network, name: &str) -> Option<&'a Workload> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return mesh.workload_by_address(network, ip).map(|workload| &**workload);
    }
    let (namespace, name) = name.split_once('/')?;
    let here = || mesh.workloads().filter(|workload| workload.namespace == namespace);
    here()
        .find(|workload| workload.name == name)
        .or_else(|| {
            here()
                .filter(|workload| workload.workload_name == name)
                .min_by(|one, other| one.uid.cmp(&other.uid))
        })
        .map(|workload| &**workload)
}

fn address(workload: &Workload) -> Result<IpAddr, Refusal> {
    let first = workload.addresses.first().copied();
    first.ok_or_else(|| Refusal::not_found(format!("{} has no address", full_name(workload))))
}

/// The port asked for, else those that services lead to.
fn ports(mesh: &Mesh, to: &Workload, parameters: &Parameters) -> Result<Vec<u16>, Refusal> {
    if let Some(port) = parameters.get("port") {
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| Refusal::bad_request("the port is not one".to_owned()))?;
        return Ok(vec![port]);
    }
    let of_workload = to.services.iter().flat_map(|(_, ports)| ports);
    let of_services = mesh.services_of(to).flat_map(|service| &service.ports);
    let mut ports: Vec<_> =
        of_workload.chain(of_services).filter_map(|port| port.target_port).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() {
        let name = full_name(to);
        return Err(Refusal::bad_request(format!("no service leads to {name}: name a port")));
    }
    Ok(ports)
}

fn is_enrolled(workload: &Workload) -> bool {
    workload.protocol == TunnelProtocol::Hbone
}

fn full_name(workload: &Workload) -> String {
    format!("{}/{}", workload.namespace, workload.name)
}

fn peer(workload: &Workload, ip: IpAddr) -> Peer {
    Peer {
        name: full_name(workload),
        ip,
        identity: Some(workload.identity.to_string()),
        enrolled: is_enrolled(workload),
        node: workload.node.to_string(),
    }
}

fn judge(mesh: &Mesh, to: &Workload, request: &Request, now: bool) -> Judgement {
    let way = if request.source.is_some() { "HBONE" } else { "plaintext" };
    let explained = explain(mesh, to, request);
    let (allowed, reason, by) = if is_enrolled(to) {
        told(mesh, explained.decision)
    } else {
        (true, "the destination is not enrolled: nothing is enforced there".to_owned(), None)
    };
    Judgement {
        port: request.destination.port(),
        way: way.to_owned(),
        now,
        allowed,
        reason,
        policy: by.as_ref().map(ToString::to_string),
        rule: by.and_then(|by| by.rule),
        considered: explained.considered.into_iter().map(step).collect(),
    }
}

/// Whether it is let in, why, and by what. What stays unknown is kept out.
fn told(mesh: &Mesh, decision: Decision) -> (bool, String, Option<MatchedRule>) {
    let denied = |denial: Denial| (false, denial.to_string(), denial.by());
    match decision {
        Decision::Allow(permit) => match permit.by() {
            Some(by) => (true, format!("allowed by: {by}"), Some(by.clone())),
            None => (true, "no policy denies it, and there is no ALLOW policy".to_owned(), None),
        },
        Decision::Deny(denial) => denied(denial),
        Decision::Unknown(missing) => denied(Denial::unknown(mesh, &missing)),
    }
}

fn step(considered: Considered) -> Step {
    let (matched, rule, why) = match considered.finding {
        Finding::Match(rule) => (true, rule, Vec::new()),
        Finding::Differ(why) => (false, None, why),
        Finding::Unreadable => {
            (false, None, vec!["it is here, and its content cannot be read".to_owned()])
        }
        Finding::Missing => (false, None, vec!["it is referenced, and has not arrived".to_owned()]),
    };
    let scope = match considered.scope {
        PolicyScope::Global => "mesh",
        PolicyScope::Namespace => "namespace",
        PolicyScope::WorkloadSelector => "workload",
    };
    let action = considered.action.map(|action| match action {
        Action::Allow => "ALLOW".to_owned(),
        Action::Deny => "DENY".to_owned(),
    });
    Step {
        policy: considered.policy.to_string(),
        scope: scope.to_owned(),
        action,
        dry_run: considered.dry_run,
        matched,
        rule,
        why,
    }
}

#[cfg(test)]
mod tests;
