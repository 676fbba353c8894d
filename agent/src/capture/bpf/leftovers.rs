//! Pods that an agent captured which redirected by marks: moved over at their enrolment, tidied up when the last of
//! its connections has ended.

use aya::maps::{Array, Map, MapData};
use sotto_abi::{LEFT_BY_MARKS, POD_STAND_INS, PodConfig, names};

use super::pins::PodPins;
use super::{BpfError, Kernel};
use crate::capture::legacy;
use crate::mesh::PodUid;
use crate::sys::Netns;
use crate::sys::netns::WeakNetns;

/// What is left in one pod.
#[derive(Debug, Clone)]
pub(super) struct Leftover {
    /// A bit for each setting that was on before.
    were_on: u32,
    /// None before the pod is enrolled again.
    netns: Option<WeakNetns>,
}

/// What is left in a pod that an earlier agent captured.
pub(super) fn of(known: &PodConfig) -> Option<Leftover> {
    let is_left = known.pod.flags & POD_STAND_INS == 0 || known.settings & LEFT_BY_MARKS != 0;
    is_left.then_some(Leftover { were_on: known.settings & !LEFT_BY_MARKS, netns: None })
}

impl Leftover {
    /// The same, in a namespace.
    pub(super) fn within(self, netns: &Netns) -> Self {
        Self { netns: Some(netns.downgrade()), ..self }
    }

    /// Tidies up, if nothing is needed any more.
    pub(super) fn clear(&self, netns: &Netns) -> Result<(), BpfError> {
        Ok(legacy::close_unused(netns, self.were_on).map(drop)?)
    }

    /// As [`PodConfig::settings`].
    pub(super) fn settings(&self) -> u32 {
        self.were_on | LEFT_BY_MARKS
    }
}

impl Kernel {
    /// Tidies up where nothing is needed any more; what fails is tried again.
    pub(super) fn clear_leftovers(&mut self) {
        let left: Vec<_> = self
            .leftovers
            .iter()
            .filter_map(|(uid, left)| Some((uid.clone(), left.netns.as_ref()?.upgrade())))
            .collect();
        for (uid, netns) in left {
            let Some(netns) = netns else {
                self.leftovers.remove(&uid);
                continue;
            };
            if let Err(error) = self.clear_leftover(&uid, &netns) {
                tracing::warn!(pod = %uid, %error, "failed to take back what an earlier version left");
            }
        }
    }

    /// Tidies up in one pod, if nothing is needed any more.
    pub(super) fn clear_leftover(&mut self, uid: &PodUid, netns: &Netns) -> Result<(), BpfError> {
        let Some(left) = self.leftovers.get(uid) else { return Ok(()) };
        if !legacy::close_unused(netns, left.were_on)? {
            return Ok(());
        }
        self.leftovers.remove(uid);
        forget(&self.pins.pod(uid)?)
    }
}

/// Nothing is left in the pod; it may be released by now.
fn forget(pins: &PodPins) -> Result<(), BpfError> {
    let Ok(data) = MapData::from_pin(pins.config()) else { return Ok(()) };
    let map = Map::Array(data);
    let mut pod: Array<_, PodConfig> = map.try_into().map_err(BpfError::map("open", names::POD))?;
    let known = pod.get(&0, 0).map_err(BpfError::map("read", names::POD))?;
    pod.set(0, PodConfig { settings: 0, ..known }, 0).map_err(BpfError::map("write", names::POD))
}
