//! Workloads read in place, which nearly all resources of a mesh are: no copy of a name that is known already.
//!
//! It gives what the other way gives, by way of the whole message, or nothing: then that way tells what it is.

use arcstr::ArcStr;
use sotto_proto::workload as proto;

use super::super::wire::{Fields, Odd, Value, once};
use super::workload::{
    DEFAULT_SERVICE_ACCOUNT, application_tunnel, network_gateway, tunnel_protocol, workload_kind,
};
use super::{Decoder, ip, optional_port, policy_key, port, reference, service};
use crate::mesh::service::{Locality, Port};
use crate::mesh::spiffe::DEFAULT_TRUST_DOMAIN;
use crate::mesh::{
    Addresses, Backed, Names, PolicyKey, PolicyList, ServiceKey, SpiffeId, Workload, WorkloadUid,
};

/// The numbers of a workload's fields, and one beyond.
const FIELDS: usize = 28;

/// A workload's message, each field as its bytes have it.
#[derive(Debug)]
struct Parts<'a> {
    message: &'a [u8],
    /// Names, numbers, and messages that are there once, by the number of the field.
    fields: [Option<Value<'a>>; FIELDS],
    addresses: Vec<&'a [u8]>,
    services: Run,
    policies: Run,
}

/// Where the fields of one number are, one right behind the other, with their keys.
#[derive(Debug, Default, Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
}

impl Run {
    fn add(&mut self, start: usize, end: usize) -> Result<(), Odd> {
        if self.start == self.end {
            self.start = start;
        } else if self.end != start {
            return Err(Odd);
        }
        self.end = end;
        Ok(())
    }
}

impl Decoder {
    /// The workload that an address's message is.
    pub(super) fn in_place(&mut self, address: &[u8]) -> Option<Workload> {
        let mut fields = Fields::of(address);
        match (fields.next()?, fields.next()) {
            (Ok((1, Value::Bytes(message))), None) => {
                let parts = Parts::of(message).ok()?;
                self.workload(&parts).ok()
            }
            _ => None,
        }
    }

    fn workload(&mut self, parts: &Parts<'_>) -> Result<Workload, Odd> {
        let services = self.backed(parts.run(parts.services)?)?;
        let authorization_policies = self.policies(parts.run(parts.policies)?)?;
        let Self { names, last, .. } = self;
        let last = last.as_deref();
        let mut shared = |number, of: fn(&Workload) -> &ArcStr| -> Result<ArcStr, Odd> {
            name(names, parts.bytes(number)?, last.map(of))
        };
        let namespace = shared(2, |w| &w.namespace)?;
        let mut identity = |number, default: &'static str, of: fn(&Workload) -> &ArcStr| {
            let told = shared(number, of)?;
            Ok(if told.is_empty() { ArcStr::from(default) } else { told })
        };
        let trust_domain = identity(6, DEFAULT_TRUST_DOMAIN, |w| w.identity.trust_domain().name())?;
        let account = identity(7, DEFAULT_SERVICE_ACCOUNT, |w| w.identity.service_account())?;
        let name = ArcStr::from(parts.text(1)?);
        // A pod that nothing made is its own maker.
        let workload_name = match parts.bytes(13)? == name.as_bytes() {
            true => name.clone(),
            false => shared(13, |w| &w.workload_name)?,
        };
        let [hostname, network] = [shared(21, |w| &w.hostname)?, shared(4, |w| &w.network)?];
        let [node, cluster_id] = [shared(9, |w| &w.node)?, shared(18, |w| &w.cluster_id)?];
        let canonical_name = shared(10, |w| &w.canonical_name)?;
        let canonical_revision = shared(11, |w| &w.canonical_revision)?;
        Ok(Workload {
            uid: WorkloadUid(named(parts.text(20)?)?.into()),
            identity: SpiffeId::new(trust_domain, named_name(&namespace)?, account)
                .map_err(|_| Odd)?,
            locality: parts.locality(names, last)?,
            addresses: parts.addresses()?,
            protocol: tunnel_protocol(parts.number(5)?),
            kind: workload_kind(parts.number(12)?),
            native_tunnel: parts.fields[14].map(Value::bool).transpose()?.unwrap_or_default(),
            application_tunnel: match parts.message::<proto::ApplicationTunnel>(23)? {
                Some(tunnel) => Some(application_tunnel(tunnel).map_err(|_| Odd)?),
                None => None,
            },
            healthy: parts.number(17)? == i32::from(proto::WorkloadStatus::Healthy),
            host_network: parts.number(25)? == i32::from(proto::NetworkMode::HostNetwork),
            capacity: parts.capacity()?,
            waypoint: match parts.message(8)? {
                Some(waypoint) => Some(service::waypoint(waypoint).map_err(|_| Odd)?.into()),
                None => None,
            },
            network_gateway: parts.message(19)?.and_then(network_gateway),
            name,
            namespace,
            hostname,
            network,
            node,
            canonical_name,
            canonical_revision,
            workload_name,
            services,
            authorization_policies,
            cluster_id,
        })
    }

    /// The services of a run of fields: pods of one Deployment have the same bytes.
    fn backed(&mut self, run: &[u8]) -> Result<Backed, Odd> {
        if run.is_empty() {
            return Ok(Backed::default());
        }
        if let Some(known) = self.backed.get(run) {
            return Ok(known.clone());
        }
        let names = &mut self.names;
        let entries = Fields::of(run).map(|field| service_entry(names, field?.1.bytes()?));
        let backed = entries.collect::<Result<Backed, Odd>>()?;
        self.backed.put(run.into(), backed.clone());
        Ok(backed)
    }

    /// The names of policies of a run of fields.
    fn policies(&mut self, run: &[u8]) -> Result<PolicyList, Odd> {
        if run.is_empty() {
            return Ok(PolicyList::default());
        }
        if let Some(known) = self.policies.get(run) {
            return Ok(known.clone());
        }
        let key = |text: &str| -> Result<PolicyKey, Odd> { policy_key(text).map_err(|_| Odd) };
        let keys = Fields::of(run).map(|field| key(field?.1.text()?));
        let policies = keys.collect::<Result<PolicyList, Odd>>()?;
        self.policies.put(run.into(), policies.clone());
        Ok(policies)
    }
}

impl<'a> Parts<'a> {
    fn of(message: &'a [u8]) -> Result<Self, Odd> {
        let (services, policies) = (Run::default(), Run::default());
        let (fields, addresses) = ([None; FIELDS], Vec::new());
        let mut parts = Self { message, fields, addresses, services, policies };
        let mut rest = Fields::of(message);
        let mut start = 0;
        while let Some(field) = rest.next() {
            let (number, value) = field?;
            let end = message.len() - rest.rest().len();
            match number {
                3 => parts.addresses.push(value.bytes()?),
                16 => parts.policies.add(start, end)?,
                22 => parts.services.add(start, end)?,
                // Extensions mean nothing, but have to be what they are.
                26 => return Err(Odd),
                _ => {
                    if let Some(place) = parts.fields.get_mut(number as usize) {
                        once(place, value)?;
                    }
                }
            }
            start = end;
        }
        Ok(parts)
    }

    fn bytes(&self, number: usize) -> Result<&'a [u8], Odd> {
        self.fields[number].map_or(Ok(&[]), Value::bytes)
    }

    fn text(&self, number: usize) -> Result<&'a str, Odd> {
        self.fields[number].map_or(Ok(""), Value::text)
    }

    fn number(&self, number: usize) -> Result<i32, Odd> {
        self.fields[number].map_or(Ok(0), Value::i32)
    }

    /// A message that is rare.
    fn message<M: prost::Message + Default>(&self, number: usize) -> Result<Option<M>, Odd> {
        let Some(value) = self.fields[number] else { return Ok(None) };
        M::decode(value.bytes()?).map(Some).map_err(|_| Odd)
    }

    fn run(&self, run: Run) -> Result<&'a [u8], Odd> {
        self.message.get(run.start..run.end).ok_or(Odd)
    }

    fn addresses(&self) -> Result<Addresses, Odd> {
        let addresses = self.addresses.iter().map(|bytes| ip(bytes, "").map_err(|_| Odd));
        addresses.collect()
    }

    fn capacity(&self) -> Result<u32, Odd> {
        let Some(value) = self.fields[27] else { return Ok(1) };
        let mut capacity = None;
        for field in Fields::of(value.bytes()?) {
            if let (1, value) = field? {
                once(&mut capacity, value.u32()?)?;
            }
        }
        Ok(capacity.unwrap_or_default())
    }

    fn locality(&self, names: &mut Names, last: Option<&Workload>) -> Result<Locality, Odd> {
        let mut parts = [None; 3];
        let message = self.fields[24].map_or(Ok(&[][..]), Value::bytes)?;
        for field in Fields::of(message) {
            let (number, value) = field?;
            if let Some(part) = parts.get_mut(number as usize - 1) {
                once(part, value.bytes()?)?;
            }
        }
        let [region, zone, subzone] = parts.map(Option::unwrap_or_default);
        let last = last.map(|workload| &workload.locality);
        Ok(Locality {
            region: name(names, region, last.map(|last| &last.region))?,
            zone: name(names, zone, last.map(|last| &last.zone))?,
            subzone: name(names, subzone, last.map(|last| &last.subzone))?,
        })
    }
}

fn name(names: &mut Names, text: &[u8], before: Option<&ArcStr>) -> Result<ArcStr, Odd> {
    names.name(text, before).map_err(|_| Odd)
}

/// An entry of the services.
fn service_entry(names: &mut Names, entry: &[u8]) -> Result<(ServiceKey, Vec<Port>), Odd> {
    let (mut key, mut ports) = (None, None);
    for field in Fields::of(entry) {
        match field? {
            (1, value) => once(&mut key, value.text()?)?,
            (2, value) => once(&mut ports, value.bytes()?)?,
            _ => {}
        }
    }
    let (namespace, hostname) = reference(key.unwrap_or_default()).map_err(|_| Odd)?;
    let key = ServiceKey {
        namespace: name(names, namespace.as_bytes(), None)?,
        hostname: name(names, hostname.as_bytes(), None)?,
    };
    let mut list = Vec::new();
    for field in Fields::of(ports.unwrap_or_default()) {
        if let (1, value) = field? {
            list.push(one_port(value.bytes()?)?);
        }
    }
    Ok((key, list))
}

fn one_port(message: &[u8]) -> Result<Port, Odd> {
    let mut numbers = [None; 2];
    for field in Fields::of(message) {
        match field? {
            (number @ 1..=2, value) => once(&mut numbers[number as usize - 1], value.u32()?)?,
            // What is spoken on it does not matter, but is a number.
            (3, value) => drop(value.i32()?),
            _ => {}
        }
    }
    let [service_port, target_port] = numbers.map(Option::unwrap_or_default);
    Ok(Port {
        service_port: port(service_port).map_err(|_| Odd)?,
        target_port: optional_port(target_port).map_err(|_| Odd)?,
    })
}

fn named(text: &str) -> Result<&str, Odd> {
    if text.is_empty() { Err(Odd) } else { Ok(text) }
}

fn named_name(name: &ArcStr) -> Result<ArcStr, Odd> {
    named(name).map(|_| name.clone())
}

#[cfg(test)]
mod tests;
