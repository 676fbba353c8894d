//! Typed handles of the maps that all pods share.

use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, Queue, SockHash,
};
use sotto_abi::{
    Address, AddressPort, Counts, ExcludedCidrKey, ExcludedPort, Flow, Global, MAX_RESOLVERS, Pod,
    Prefixes, ResolverKey, names,
};

use super::error::{BpfError, absent_is_fine};
use super::object::Instance;
use crate::capture::StandInRanges;
use crate::mesh::local::Exclusions;

/// The maps that all pods share. Each has this one writer, but for what the programs count and remember.
pub(super) struct Maps {
    pub(super) enrolled: HashMap<MapData, u64, Pod>,
    pub(super) out_listeners: SockHash<MapData, u64>,
    pub(super) questions: SockHash<MapData, u64>,
    resolvers: HashMap<MapData, ResolverKey, Address>,
    pub(super) destinations: HashMap<MapData, Address, u32>,
    pub(super) destination_cidrs: LpmTrie<MapData, Address, u32>,
    pub(super) closed_ports: HashMap<MapData, AddressPort, u32>,
    pub(super) counts: PerCpuArray<MapData, Counts>,
    pub(super) pod_counts: PerCpuHashMap<MapData, u64, Counts>,
    pub(super) shown: HashMap<MapData, u64, u32>,
    prefixes: Array<MapData, Prefixes>,
    global: Array<MapData, Global>,
    excluded_ports: HashMap<MapData, ExcludedPort, u32>,
    excluded_cidrs: LpmTrie<MapData, ExcludedCidrKey, u32>,
    pub(super) probe_ports: HashMap<MapData, AddressPort, u64>,
    pub(super) probe_flows: HashMap<MapData, Flow, u32>,
}

const COOKIE_BITS: u32 = 64;
const MAPPED_BITS: u32 = 96;

/// The maps of the table of stand-ins, for who cares for it.
pub(super) type TableMaps =
    (HashMap<MapData, Address, u32>, Array<MapData, Address>, Queue<MapData, u32>);

/// Takes them out of an instance of the object.
pub(super) fn take_table(object: &mut Instance) -> Result<TableMaps, BpfError> {
    Ok((
        take(object, names::STAND_INS)?,
        take(object, names::REAL)?,
        take(object, names::FREE_STAND_INS)?,
    ))
}

impl Maps {
    /// Takes them out of an instance of the object.
    pub(super) fn take(object: &mut Instance) -> Result<Self, BpfError> {
        Ok(Self {
            enrolled: take(object, names::ENROLLED)?,
            out_listeners: take(object, names::OUT_LISTENERS)?,
            questions: take(object, names::QUESTIONS)?,
            resolvers: take(object, names::RESOLVERS)?,
            destinations: take(object, names::DESTINATIONS)?,
            destination_cidrs: take(object, names::DESTINATION_CIDRS)?,
            closed_ports: take(object, names::CLOSED_PORTS)?,
            counts: take(object, names::COUNTS)?,
            pod_counts: take(object, names::POD_COUNTS)?,
            shown: take(object, names::SHOWN)?,
            prefixes: take(object, names::PREFIXES)?,
            global: take(object, names::GLOBAL)?,
            excluded_ports: take(object, names::EXCLUDED_PORTS)?,
            excluded_cidrs: take(object, names::EXCLUDED_CIDRS)?,
            probe_ports: take(object, names::PROBE_PORTS)?,
            probe_flows: take(object, names::PROBE_FLOWS)?,
        })
    }

    pub(super) fn agent_cgroups(&self) -> Result<[u64; 2], BpfError> {
        let global = self.global.get(&0, 0).map_err(BpfError::map("read", names::GLOBAL))?;
        Ok(global.agent_cgroups)
    }

    pub(super) fn set_global(&mut self, global: Global) -> Result<(), BpfError> {
        self.global.set(0, global, 0).map_err(BpfError::map("write", names::GLOBAL))
    }

    /// Where stand-ins are; all zero in a new map.
    pub(super) fn prefixes(&self) -> Result<Prefixes, BpfError> {
        self.prefixes.get(&0, 0).map_err(BpfError::map("read", names::PREFIXES))
    }

    /// Makes stand-ins be in `ranges`, with the secret that they have already, or a new one; tells whether there were
    /// none before.
    pub(super) fn settle_prefixes(
        &mut self,
        ranges: &StandInRanges,
    ) -> Result<(Prefixes, bool), BpfError> {
        let known = self.prefixes()?;
        let is_new = known.out4_mask_be == 0;
        let kept = ranges.record(known.secret_be);
        if kept == known {
            return Ok((known, false));
        }
        if !is_new && self.shown.keys().next().is_some() {
            return Err(BpfError::OtherRanges(*ranges));
        }
        let settled = ranges.record(rand::random());
        self.prefixes.set(0, settled, 0).map_err(BpfError::map("write", names::PREFIXES))?;
        Ok((settled, is_new))
    }

    /// No socket of a network namespace has a stand-in any more.
    pub(super) fn show_no_more(&mut self, cookie: u64) -> Result<(), BpfError> {
        for slot in 0..MAX_RESOLVERS {
            absent_is_fine(self.resolvers.remove(&ResolverKey::new(cookie, slot)))
                .map_err(BpfError::map("clear", names::RESOLVERS))?;
        }
        absent_is_fine(self.shown.remove(&cookie)).map_err(BpfError::map("clear", names::SHOWN))
    }

    /// Makes a pod's exclusions those given. An exclusion too many is captured, which is safe.
    pub(super) fn set_exclusions(
        &mut self,
        cookie: u64,
        wanted: &Exclusions,
    ) -> Result<(), BpfError> {
        self.clear_exclusions(cookie)?;
        for &port in &wanted.outbound_ports {
            let key = ExcludedPort { cookie, port: port.into(), _pad: 0 };
            warn_if_full(self.excluded_ports.insert(key, 1, 0), names::EXCLUDED_PORTS);
        }
        for range in &wanted.outbound_cidrs {
            let (address, bits) = prefix(*range);
            let key = Key::new(COOKIE_BITS + bits, ExcludedCidrKey::new(cookie, address));
            warn_if_full(self.excluded_cidrs.insert(&key, 1, 0), names::EXCLUDED_CIDRS);
        }
        Ok(())
    }

    /// Removes all that is kept for a network namespace.
    pub(super) fn forget(&mut self, cookie: u64) -> Result<(), BpfError> {
        absent_is_fine(self.enrolled.remove(&cookie))
            .map_err(BpfError::map("clear", names::ENROLLED))?;
        absent_is_fine(self.out_listeners.remove(&cookie))
            .map_err(BpfError::map("clear", names::OUT_LISTENERS))?;
        absent_is_fine(self.questions.remove(&cookie))
            .map_err(BpfError::map("clear", names::QUESTIONS))?;
        absent_is_fine(self.pod_counts.remove(&cookie))
            .map_err(BpfError::map("clear", names::POD_COUNTS))?;
        self.keep_probe_ports(cookie, &[])?;
        self.clear_exclusions(cookie)
    }

    fn clear_exclusions(&mut self, cookie: u64) -> Result<(), BpfError> {
        let ports: Vec<_> = self.excluded_ports.keys().filter_map(Result::ok).collect();
        for key in ports.into_iter().filter(|key| key.cookie == cookie) {
            absent_is_fine(self.excluded_ports.remove(&key))
                .map_err(BpfError::map("clear", names::EXCLUDED_PORTS))?;
        }
        let own = ExcludedCidrKey::new(cookie, Address::NONE).cookie;
        let ranges: Vec<_> = self.excluded_cidrs.keys().filter_map(Result::ok).collect();
        for key in ranges.into_iter().filter(|key| key.data().cookie == own) {
            absent_is_fine(self.excluded_cidrs.remove(&key))
                .map_err(BpfError::map("clear", names::EXCLUDED_CIDRS))?;
        }
        Ok(())
    }
}

/// A range in the mapped form: its address and the bits of its prefix.
pub(super) fn prefix(range: ipnet::IpNet) -> (Address, u32) {
    let bits = u32::from(range.prefix_len());
    let bits = if range.addr().is_ipv4() { MAPPED_BITS + bits } else { bits };
    (Address::from(range.network()), bits)
}

fn take<M>(object: &mut Instance, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(object.take_map(name)?).map_err(BpfError::map("open", name))
}

fn warn_if_full(result: Result<(), MapError>, map: &'static str) {
    if let Err(error) = result {
        tracing::warn!(%error, map, "an excluded destination is captured nevertheless");
    }
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}
