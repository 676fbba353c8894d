//! The mesh's destinations, so that the programs leave all others alone.

use aya::maps::lpm_trie::Key;
use sotto_abi::{Address, names};

use super::error::{BpfError, absent_is_fine};
use super::maps::{Maps, prefix};
use crate::mesh::destinations::DestinationsDelta;

impl Maps {
    /// Applies a change; false if something did not fit.
    pub(super) fn apply(&mut self, delta: &DestinationsDelta) -> Result<bool, BpfError> {
        // What goes makes room for what comes.
        for &ip in &delta.removed {
            absent_is_fine(self.destinations.remove(&Address::from(ip)))
                .map_err(BpfError::map("clear", names::DESTINATIONS))?;
        }
        for &range in &delta.removed_cidrs {
            let (address, bits) = prefix(range);
            absent_is_fine(self.destination_cidrs.remove(&Key::new(bits, address)))
                .map_err(BpfError::map("clear", names::DESTINATION_CIDRS))?;
        }
        let mut complete = true;
        for &ip in &delta.added {
            complete &= self.destinations.insert(Address::from(ip), 1, 0).is_ok();
        }
        for &range in &delta.added_cidrs {
            let (address, bits) = prefix(range);
            complete &= self.destination_cidrs.insert(&Key::new(bits, address), 1, 0).is_ok();
        }
        Ok(complete)
    }

    /// Forgets what an earlier agent knew; it may not have known all.
    pub(super) fn clear_destinations(&mut self) -> Result<(), BpfError> {
        let addresses: Vec<_> = self.destinations.keys().filter_map(Result::ok).collect();
        for address in addresses {
            absent_is_fine(self.destinations.remove(&address))
                .map_err(BpfError::map("clear", names::DESTINATIONS))?;
        }
        let ranges: Vec<_> = self.destination_cidrs.keys().filter_map(Result::ok).collect();
        for range in ranges {
            absent_is_fine(self.destination_cidrs.remove(&range))
                .map_err(BpfError::map("clear", names::DESTINATION_CIDRS))?;
        }
        Ok(())
    }
}
