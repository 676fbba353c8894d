//! Which pods back which services, kept both ways, and who has which address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use sotto_proto::workload::Port;

use super::endpoints::{Endpoints, Owner};
use crate::control_plane::model::{Endpoint, ObjectKey, Pod};

/// The endpoints of every service.
#[derive(Debug, Default)]
pub(super) struct Members {
    of_service: BTreeMap<ObjectKey, Endpoints>,
    /// The services that each pod backs.
    backed: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// The pods that have an address to themselves.
    pods: HashMap<IpAddr, BTreeSet<ObjectKey>>,
    /// The services whose slices name an address.
    named: HashMap<IpAddr, BTreeSet<ObjectKey>>,
}

/// What is different after a service's endpoints were set anew.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Pods that back it now, or do no longer, or with other ports.
    pub(super) pods: Vec<ObjectKey>,
    /// Endpoints outside that went.
    pub(super) gone: Vec<(ObjectKey, IpAddr)>,
}

impl Members {
    /// The endpoints of a service, if it is one.
    pub(super) fn of(&self, service: &ObjectKey) -> Option<&Endpoints> {
        self.of_service.get(service)
    }

    /// The services that a pod backs, and its ports for each.
    pub(super) fn backed_by<'a>(
        &'a self,
        pod: &'a ObjectKey,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Vec<Port>)> {
        let services = self.backed.get(pod).into_iter().flatten();
        services.filter_map(|key| Some((key, self.of_service.get(key)?.pods.get(pod)?)))
    }

    /// Sets a service's endpoints; none: there is no such service.
    pub(super) fn set(&mut self, service: &ObjectKey, new: Option<Endpoints>) -> Changed {
        let old = self.of_service.remove(service).unwrap_or_default();
        let now = new.clone().unwrap_or_default();
        for address in old.named.difference(&now.named) {
            leave(&mut self.named, address, service);
        }
        for address in &now.named {
            self.named.entry(*address).or_default().insert(service.clone());
        }
        let mut changed = Changed::default();
        for pod in old.pods.keys().filter(|pod| !now.pods.contains_key(*pod)) {
            if let Some(backed) = self.backed.get_mut(pod) {
                backed.remove(service);
                if backed.is_empty() {
                    self.backed.remove(pod);
                }
            }
            changed.pods.push(pod.clone());
        }
        for (pod, ports) in &now.pods {
            if old.pods.get(pod) != Some(ports) {
                self.backed.entry(pod.clone()).or_default().insert(service.clone());
                changed.pods.push(pod.clone());
            }
        }
        let gone = old.outside.into_keys().filter(|key| !now.outside.contains_key(key));
        changed.gone.extend(gone);
        if let Some(new) = new {
            self.of_service.insert(service.clone(), new);
        }
        changed
    }

    /// Takes in that a pod came, changed or went: the services whose slices name an address of its.
    pub(super) fn moved(&mut self, old: Option<&Pod>, new: Option<&Pod>) -> BTreeSet<ObjectKey> {
        for (pod, address) in old.into_iter().flat_map(own_addresses) {
            leave(&mut self.pods, &address, &pod.key);
        }
        for (pod, address) in new.into_iter().flat_map(own_addresses) {
            self.pods.entry(address).or_default().insert(pod.key.clone());
        }
        let all = old.into_iter().chain(new).flat_map(|pod| &pod.addresses);
        all.filter_map(|address| self.named.get(address)).flatten().cloned().collect()
    }

    /// Whose an address in a slice is. The address counts, not what is said of it: that is where kube-proxy sends to.
    pub(super) fn owner<'a>(
        &self,
        all: &'a BTreeMap<ObjectKey, Pod>,
        endpoint: &Endpoint,
        address: IpAddr,
    ) -> Owner<'a> {
        let named = endpoint.pod.as_ref().and_then(|key| all.get(key));
        if let Some(pod) = named.filter(|p| !p.terminal && p.addresses.contains(&address)) {
            return Owner::Pod(pod);
        }
        let there = self.pods.get(&address).into_iter().flatten().filter_map(|key| all.get(key));
        // While a dead pod's address is taken over, both have it.
        match there.max_by_key(|pod| pod.healthy()) {
            Some(pod) => Owner::Pod(pod),
            None if endpoint.pod.is_some() && named.is_none() => Owner::Unknown,
            None => Owner::Outside,
        }
    }
}

/// The addresses that are a pod's alone.
fn own_addresses(pod: &Pod) -> impl Iterator<Item = (&Pod, IpAddr)> {
    let alone = !pod.host_network && !pod.terminal;
    pod.addresses.iter().filter(move |_| alone).map(move |address| (pod, *address))
}

fn leave(sets: &mut HashMap<IpAddr, BTreeSet<ObjectKey>>, at: &IpAddr, key: &ObjectKey) {
    if let Some(set) = sets.get_mut(at) {
        set.remove(key);
        if set.is_empty() {
            sets.remove(at);
        }
    }
}
