//! What the programs counted.

use aya::maps::{MapError, PerCpuValues};
use sotto_abi::{Counts, names};

use super::{BpfError, Kernel};
use crate::mesh::PodUid;

/// What the programs counted since they were first installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of the node, also for pods that are gone.
    pub node: Counts,
    /// Of each enrolled pod.
    pub pods: Vec<(PodUid, Counts)>,
}

impl Kernel {
    /// What the programs counted.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&self) -> Result<Counters, BpfError> {
        let node = self.maps.counts.get(&0, 0).map_err(BpfError::map("read", names::COUNTS))?;
        let mut pods = Vec::new();
        for pod in self.adopted()? {
            match self.maps.pod_counts.get(&pod.cookie, 0) {
                Ok(counts) => pods.push((pod.uid, sum(&counts))),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(BpfError::map("read", names::POD_COUNTS)(error)),
            }
        }
        Ok(Counters { node: sum(&node), pods })
    }
}

fn sum(of_cpus: &PerCpuValues<Counts>) -> Counts {
    let mut total = Counts::default();
    for counts in of_cpus.iter() {
        for (total, count) in total.0.iter_mut().zip(counts.0) {
            *total += count;
        }
    }
    total
}
