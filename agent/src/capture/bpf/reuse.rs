//! Which numbers are free: those that no socket of any pod has any more.
//!
//! A number goes round: free (`REAL` says none), taken by whoever meets a new address, *retired* when many are taken
//! (new connections to its address get another number; its own sockets are shown the address still), and free again
//! when a list of all pods' sockets, made a while after, shows none that has it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, MapError, Queue};
use sotto_abi::{Address, MAX_FREE_STAND_INS, MAX_STAND_INS, Prefixes, RESERVED_STAND_INS, names};

use super::error::{BpfError, absent_is_fine};
use super::maps::TableMaps;
use super::recent::Epoch;
use crate::sys::netns::WeakNetns;
use crate::sys::sock_diag;

/// From a look at the table to the socket that has the number: far longer than any thread is kept from going on.
const UNDER_WAY: Duration = Duration::from_secs(10);
/// Numbers put into a new queue at once; the start does not wait for the rest.
const AT_FIRST: u32 = 2048;
/// So many numbers are out of use when there is no need to get any back.
const PLENTY: usize = MAX_STAND_INS as usize / 4;

/// The numbers, as far as this agent knows.
pub(super) struct Reuse {
    numbers: aya::maps::HashMap<MapData, Address, u32>,
    real: Array<MapData, Address>,
    queue: Queue<MapData, u32>,
    /// Of what threads remember of the table.
    epoch: Epoch,
    /// Never used, and with nobody but us.
    fresh: Range<u32>,
    /// Free again, and with nobody but us.
    free: Vec<u32>,
    /// Whether all numbers have been looked at that an agent before this one may have used.
    is_settled: bool,
    /// Seen neither free nor taken: free, unless they are taken by now.
    unclear: Option<(Instant, Vec<u32>)>,
    retired: HashMap<u32, Instant>,
}

impl Reuse {
    /// Takes possession of a table; of a new one, all numbers are free.
    pub(super) fn new(
        (numbers, real, queue): TableMaps,
        is_new: bool,
        epoch: Epoch,
    ) -> Result<Self, BpfError> {
        let end = if is_new { MAX_STAND_INS } else { RESERVED_STAND_INS };
        let mut reuse = Self {
            numbers,
            real,
            queue,
            epoch,
            fresh: RESERVED_STAND_INS..end,
            free: Vec::new(),
            is_settled: is_new,
            unclear: None,
            retired: HashMap::new(),
        };
        reuse.fill(AT_FIRST)?;
        Ok(reuse)
    }

    /// Finds out what is in use of a table that another agent has cared for.
    fn look_through(&mut self) -> Result<(), BpfError> {
        let queued = self.queued();
        let mut unclear = Vec::new();
        for number in RESERVED_STAND_INS..MAX_STAND_INS {
            let real = self.of(number)?;
            if real.is(&Address::NONE) {
                if !queued.contains(&number) {
                    unclear.push(number);
                }
            } else if self.numbers.get(&real, 0).ok() != Some(number) {
                self.retired.insert(number, Instant::now());
            }
        }
        self.unclear = Some((Instant::now(), unclear));
        self.is_settled = true;
        Ok(())
    }

    /// To be called every few seconds, with the network namespaces that may have stand-ins: none if there are
    /// such that cannot be looked at now.
    pub(super) fn tend(
        &mut self,
        prefixes: &Prefixes,
        pods: Option<&[WeakNetns]>,
    ) -> Result<(), BpfError> {
        if !self.is_settled {
            self.look_through()?;
        }
        self.settle()?;
        if self.fresh.len() + self.free.len() < PLENTY
            && self.retired.is_empty()
            && self.unclear.is_none()
        {
            self.retire()?;
        }
        if let Some(pods) = pods {
            self.free_unused(prefixes, pods)?;
        }
        self.fill(MAX_FREE_STAND_INS)
    }

    /// Takes those for free that were unclear, and still are.
    fn settle(&mut self) -> Result<(), BpfError> {
        let Some((_, unclear)) = self.unclear.take_if(|(since, _)| since.elapsed() > UNDER_WAY)
        else {
            return Ok(());
        };
        for number in unclear {
            if self.of(number)?.is(&Address::NONE) {
                self.free.push(number);
            }
        }
        Ok(())
    }

    /// From now on nobody gets any of those in use.
    fn retire(&mut self) -> Result<(), BpfError> {
        let taken: Vec<_> = self.numbers.iter().filter_map(Result::ok).collect();
        for (address, number) in taken {
            absent_is_fine(self.numbers.remove(&address))
                .map_err(BpfError::map("clear", names::STAND_INS))?;
            self.retired.insert(number, Instant::now());
        }
        Ok(())
    }

    /// Frees those retired that no socket has.
    fn free_unused(&mut self, prefixes: &Prefixes, pods: &[WeakNetns]) -> Result<(), BpfError> {
        let due = |since: &Instant| since.elapsed() > UNDER_WAY;
        if !self.retired.values().any(due) {
            return Ok(());
        }
        let Some(used) = used(prefixes, pods) else { return Ok(()) };
        let unused: Vec<u32> = self
            .retired
            .iter()
            .filter(|(number, since)| due(since) && !used.contains(number))
            .map(|(number, _)| *number)
            .collect();
        for number in unused {
            let real = self.of(number)?;
            if self.numbers.get(&real, 0).ok() == Some(number) {
                // It was about to be taken when we started.
                self.retired.remove(&number);
                continue;
            }
            self.epoch.advance();
            self.real.set(number, Address::NONE, 0).map_err(BpfError::map("write", names::REAL))?;
            self.retired.remove(&number);
            self.free.push(number);
        }
        Ok(())
    }

    /// Fills the queue up, with so many at most.
    fn fill(&mut self, most: u32) -> Result<(), BpfError> {
        for _ in 0..most {
            let Some(number) = self.free.pop().or_else(|| self.fresh.next()) else { break };
            match self.queue.push(number, 0) {
                Ok(()) => {}
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
                {
                    self.free.push(number);
                    break;
                }
                Err(error) => {
                    self.free.push(number);
                    return Err(BpfError::map("write", names::FREE_STAND_INS)(error));
                }
            }
        }
        Ok(())
    }

    /// What is in the queue. It is turned once, so that others never find it empty.
    fn queued(&mut self) -> HashSet<u32> {
        let mut queued = HashSet::new();
        for _ in 0..MAX_FREE_STAND_INS {
            let Ok(number) = self.queue.pop(0) else { break };
            let is_new = queued.insert(number);
            if self.queue.push(number, 0).is_err() {
                self.free.push(number);
            }
            if !is_new {
                break;
            }
        }
        queued
    }

    fn of(&self, number: u32) -> Result<Address, BpfError> {
        self.real.get(&number, 0).map_err(BpfError::map("read", names::REAL))
    }
}

/// The numbers that sockets have; none if not all can be looked at.
fn used(prefixes: &Prefixes, pods: &[WeakNetns]) -> Option<HashSet<u32>> {
    let mut used = HashSet::new();
    let mut note = |ip: IpAddr| {
        let address = Address::from(ip);
        if prefixes.is_out(&address) || prefixes.is_client(&address) {
            used.insert(prefixes.index(&address));
        }
    };
    for pod in pods {
        let netns = pod.upgrade()?;
        let listed = netns.enter(|| {
            sock_diag::connections(|one| {
                note(one.own);
                note(one.peer);
            })
        });
        if let Err(error) | Ok(Err(error)) = listed {
            tracing::warn!(%error, "stand-ins cannot be used again: a pod's sockets cannot be listed");
            return None;
        }
    }
    Some(used)
}

impl std::fmt::Debug for Reuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (free, retired) = (self.free.len(), self.retired.len());
        f.debug_struct("Reuse").field("free", &free).field("retired", &retired).finish()
    }
}
