//! The workloads behind a service, by their unique names.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;

use super::service::ServiceKey;
use super::workload::{Workload, WorkloadUid};

/// A change copies so many pointers; beyond, it copies a path.
const FEW: usize = 64;

/// A service that somebody backs, known or not, and who that is.
#[derive(Clone)]
pub(super) struct Endpoints {
    pub(super) key: ServiceKey,
    all: All,
}

#[derive(Clone)]
enum All {
    /// In the order of their names.
    Few(Arc<Vec<Arc<Workload>>>),
    Many(OrdMap<WorkloadUid, Arc<Workload>>),
}

impl Endpoints {
    pub(super) fn of(key: ServiceKey) -> Self {
        Self { key, all: All::Few(Arc::default()) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        let (few, many) = match &self.all {
            All::Few(few) => (&few[..], None),
            All::Many(many) => (&[][..], Some(many.values())),
        };
        few.iter().chain(many.into_iter().flatten())
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.all {
            All::Few(few) => few.is_empty(),
            All::Many(many) => many.is_empty(),
        }
    }

    /// Adds a workload, in the place of one of its name.
    pub(super) fn put(&mut self, workload: &Arc<Workload>) {
        match &mut self.all {
            All::Few(few) => match few.binary_search_by(|own| own.uid.cmp(&workload.uid)) {
                Ok(at) => Arc::make_mut(few)[at] = workload.clone(),
                Err(at) if few.len() < FEW => Arc::make_mut(few).insert(at, workload.clone()),
                Err(_) => {
                    let all = few.iter().chain([workload]);
                    self.all = All::Many(all.map(|one| (one.uid.clone(), one.clone())).collect());
                }
            },
            All::Many(many) => drop(many.insert(workload.uid.clone(), workload.clone())),
        }
    }

    pub(super) fn remove(&mut self, uid: &WorkloadUid) {
        match &mut self.all {
            All::Few(few) => {
                if let Ok(at) = few.binary_search_by(|own| own.uid.cmp(uid)) {
                    Arc::make_mut(few).remove(at);
                }
            }
            All::Many(many) => {
                many.remove(uid);
                // Well below, so that one that comes and goes does not turn all of them over.
                if many.len() <= FEW / 2 {
                    self.all = All::Few(Arc::new(many.values().cloned().collect()));
                }
            }
        }
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        f.debug_set().entries(self.iter().map(|workload| &workload.uid)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn workload(name: u8, capacity: u32) -> Arc<Workload> {
        let name = format!("{name}");
        let mut workload = Workload::pod("c", "ns", &name, "sa", [10, 0, 0, 1].into()).unwrap();
        workload.capacity = capacity;
        Arc::new(workload)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn they_are_as_a_map_and_copies_stay_as_they_were(
            steps in vec((any::<u8>(), proptest::option::weighted(0.7, 0..3_u32)), 0..400),
        ) {
            let key = ServiceKey { namespace: "ns".into(), hostname: "host".into() };
            let (mut endpoints, mut map) = (Endpoints::of(key), BTreeMap::new());
            let mut copies = Vec::new();
            for (number, (name, capacity)) in steps.into_iter().enumerate() {
                let workload = workload(name, capacity.unwrap_or_default());
                if capacity.is_some() {
                    endpoints.put(&workload);
                    map.insert(workload.uid.clone(), workload);
                } else {
                    endpoints.remove(&workload.uid);
                    map.remove(&workload.uid);
                }
                if number % 16 == 0 {
                    copies.push((endpoints.clone(), map.clone()));
                }
                prop_assert_eq!(endpoints.is_empty(), map.is_empty());
            }
            for (endpoints, map) in copies.iter().chain([&(endpoints, map)]) {
                prop_assert!(endpoints.iter().eq(map.values()));
            }
        }
    }
}
