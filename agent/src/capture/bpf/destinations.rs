//! The mesh's destinations, so that the programs leave all others alone.

use std::net::SocketAddr;

use aya::maps::lpm_trie::Key;
use sotto_abi::{Address, AddressPort, names};

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
        self.apply_closed(delta)?;
        Ok(complete)
    }

    /// Which ports nobody serves. One too many is still reset, only later.
    fn apply_closed(&mut self, delta: &DestinationsDelta) -> Result<(), BpfError> {
        for &port in &delta.opened {
            absent_is_fine(self.closed_ports.remove(&key(port)))
                .map_err(BpfError::map("clear", names::CLOSED_PORTS))?;
        }
        let refused = delta.closed.iter();
        let refused = refused.filter_map(|&port| self.closed_ports.insert(key(port), 1, 0).err());
        let refused: Vec<_> = refused.collect();
        if let Some(error) = refused.first() {
            let ports = refused.len();
            tracing::warn!(%error, ports, "connect(2) to some ports that nobody serves succeeds before it is reset");
        }
        Ok(())
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
        let ports: Vec<_> = self.closed_ports.keys().filter_map(Result::ok).collect();
        for port in ports {
            absent_is_fine(self.closed_ports.remove(&port))
                .map_err(BpfError::map("clear", names::CLOSED_PORTS))?;
        }
        Ok(())
    }
}

fn key(port: SocketAddr) -> AddressPort {
    AddressPort { address: port.ip().into(), port: port.port().into() }
}
