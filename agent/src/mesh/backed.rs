//! The services that a workload backs. Those of one Deployment back the same, and share the list.

use std::fmt;
use std::sync::Arc;

use super::service::{Port, ServiceKey};

/// Services and how their ports map to the workload's own, by key.
#[derive(Clone, Default)]
pub struct Backed(Option<Arc<List>>);

type List = [(ServiceKey, Box<[Port]>)];

impl Backed {
    /// How the ports of a service map, if it is one of them.
    pub fn get(&self, key: &ServiceKey) -> Option<&[Port]> {
        let list = self.list();
        let at = list.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
        list.get(at).map(|(_, ports)| &**ports)
    }

    /// Whether a service is one of them.
    pub fn contains_key(&self, key: &ServiceKey) -> bool {
        self.get(key).is_some()
    }

    /// The services alone.
    pub fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.list().iter().map(|(key, _)| key)
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ServiceKey, &[Port])> {
        self.list().iter().map(|(key, ports)| (key, &**ports))
    }

    /// Adds a service, or replaces its ports.
    pub fn insert(&mut self, key: ServiceKey, ports: Vec<Port>) {
        let kept = self.iter().filter(|(own, _)| **own != key);
        let kept = kept.map(|(key, ports)| (key.clone(), ports.to_vec()));
        *self = kept.chain([(key.clone(), ports)]).collect();
    }

    /// Whether it is the same list, and not just an equal one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether nobody else has the list.
    pub fn is_unshared(&self) -> bool {
        self.0.as_ref().is_some_and(|list| Arc::strong_count(list) == 1)
    }

    fn list(&self) -> &List {
        self.0.as_deref().unwrap_or_default()
    }
}

impl FromIterator<(ServiceKey, Vec<Port>)> for Backed {
    /// Of several with one key the last counts.
    fn from_iter<I: IntoIterator<Item = (ServiceKey, Vec<Port>)>>(all: I) -> Self {
        let boxed = |(key, ports): (ServiceKey, Vec<Port>)| (key, ports.into_boxed_slice());
        let mut list: Vec<_> = all.into_iter().map(boxed).collect();
        // The last to the front of its equals, as sorting keeps their order.
        list.reverse();
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        list.dedup_by(|(later, _), (first, _)| later == first);
        Self((!list.is_empty()).then(|| list.into()))
    }
}

impl PartialEq for Backed {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.list() == other.list()
    }
}

impl fmt::Debug for Backed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key(name: u8) -> ServiceKey {
        ServiceKey { namespace: "ns".into(), hostname: arcstr::format!("{name}") }
    }

    fn port(port: u16) -> Vec<Port> {
        vec![Port { service_port: port, target_port: None }]
    }

    proptest! {
        #[test]
        fn it_is_as_a_map(entries in vec((0..6_u8, 1..9_u16), 0..9), more in (0..6_u8, 1..9_u16)) {
            let entries = entries.into_iter().map(|(name, number)| (key(name), port(number)));
            let (mut map, mut backed): (BTreeMap<_, _>, Backed) =
                (entries.clone().collect(), entries.collect());
            for _ in 0..2 {
                prop_assert!(backed.iter().map(|(key, ports)| (key.clone(), ports.to_vec())).eq(map.clone()));
                prop_assert!(backed.keys().eq(map.keys()));
                for name in 0..6 {
                    prop_assert_eq!(backed.get(&key(name)), map.get(&key(name)).map(Vec::as_slice));
                }
                map.insert(key(more.0), port(more.1));
                backed.insert(key(more.0), port(more.1));
            }
        }
    }
}
