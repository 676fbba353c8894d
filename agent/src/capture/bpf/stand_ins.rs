//! The table of real addresses and their stand-ins, as data threads use it.
//!
//! Whoever meets an address first, a program or a thread, takes a number for it from the queue of free ones. That
//! numbers come back to the queue only when no socket has them is [`super::reuse`]'s work.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Array, HashMap, Map, MapData, MapError, Queue};
use parking_lot::Mutex;
use sotto_abi::{Address, CANARY, CANARY_SHOWN, Prefixes, ResolverKey, names, resolver_slot};

use super::error::BpfError;
use super::recent::Epoch;
use crate::sys::socket::Canary;

/// The table. The default is one that knows nobody and takes in nobody.
#[derive(Clone, Default)]
pub struct StandIns(Option<Arc<Table>>);

struct Table {
    prefixes: Prefixes,
    numbers: HashMap<MapData, Address, u32>,
    real: Array<MapData, Address>,
    epoch: Epoch,
    resolvers: HashMap<MapData, ResolverKey, Address>,
    /// For who meets a new address.
    writing: Mutex<Writing>,
    canary: Canary,
}

struct Writing {
    numbers: HashMap<MapData, Address, u32>,
    real: Array<MapData, Address>,
    free: Queue<MapData, u32>,
}

/// Why an address has no stand-in.
#[derive(Debug, thiserror::Error)]
pub enum StandInError {
    /// The application would see a stand-in where it asks for the client.
    #[error(
        "applications cannot be shown who their client is: the programs on getpeername(2) are not attached"
    )]
    NotShown,
    /// None is free.
    #[error("no address is left to stand for another: too many are in use")]
    Full,
    /// A map refuses.
    #[error("failed to look up the stand-in")]
    Map(#[source] MapError),
}

impl StandIns {
    /// The table below a pin directory.
    pub(super) fn open(maps: &Path, prefixes: Prefixes, epoch: Epoch) -> Result<Self, BpfError> {
        let canary = canary(&prefixes)?;
        let (writing, reading) = (Writing::open(maps)?, Writing::open(maps)?);
        let Writing { numbers, real, .. } = reading;
        let writing = Mutex::new(writing);
        let resolvers = MapData::from_pin(maps.join(names::RESOLVERS));
        let resolvers = Map::HashMap(resolvers.map_err(BpfError::map("open", names::RESOLVERS))?);
        let resolvers = resolvers.try_into().map_err(BpfError::map("open", names::RESOLVERS))?;
        let table = Table { prefixes, numbers, real, epoch, resolvers, writing, canary };
        Ok(Self(Some(Arc::new(table))))
    }

    /// Where stand-ins are.
    pub(in crate::capture) fn prefixes(&self) -> Option<&Prefixes> {
        self.0.as_deref().map(|table| &table.prefixes)
    }

    /// The address that something stands for which a pod connected to.
    pub fn real(&self, stand_in: IpAddr) -> Option<IpAddr> {
        let table = self.0.as_deref()?;
        let address = Address::from(stand_in);
        if !table.prefixes.is_out(&address) {
            return None;
        }
        table.epoch.real(stand_in, || {
            let real = table.real.get(&table.prefixes.index(&address), 0).ok()?;
            (!real.is(&Address::NONE)).then(|| real.into())
        })
    }

    /// The resolver that something stands for in the pod with this cookie, which has asked it.
    pub fn resolver(&self, cookie: u64, stand_in: IpAddr) -> Option<IpAddr> {
        let table = self.0.as_deref()?;
        let address = Address::from(stand_in);
        if !table.prefixes.is_out(&address) {
            return None;
        }
        let slot = resolver_slot(table.prefixes.index(&address))?;
        table.resolvers.get(&ResolverKey::new(cookie, slot), 0).ok().map(IpAddr::from)
    }

    /// An address that is local in pods, and by which they reach another as if they had connected to that.
    ///
    /// # Errors
    /// None is free.
    pub fn of_destination(&self, destination: IpAddr) -> Result<IpAddr, StandInError> {
        let table = self.0.as_deref().ok_or(StandInError::Full)?;
        let address = Address::from(destination);
        Ok(table.prefixes.out(address.is_v4(), table.number(destination)?).into())
    }

    /// An address that is local in pods, and that applications there are shown as the client's. Use it at once.
    ///
    /// # Errors
    /// They would not be shown it, or there are too many clients.
    pub fn of_client(&self, client: IpAddr) -> Result<IpAddr, StandInError> {
        let table = self.0.as_deref().ok_or(StandInError::NotShown)?;
        if !table.canary.sings() {
            return Err(StandInError::NotShown);
        }
        let address = Address::from(client);
        Ok(table.prefixes.client(address.is_v4(), table.number(client)?).into())
    }

    /// Whether the agent may have dialled in the name of this client: who accepts that is shown the client. Asks the
    /// kernel.
    pub fn has_client(&self, client: IpAddr) -> bool {
        self.0.as_deref().is_some_and(|table| table.numbers.get(&Address::from(client), 0).is_ok())
    }

    /// Whether the programs show the other ends of connections at this moment.
    pub fn are_shown(&self) -> bool {
        self.0.as_deref().is_some_and(|table| table.canary.sings())
    }
}

impl Table {
    /// The number of an address, a new one if there is none.
    fn number(&self, ip: IpAddr) -> Result<u32, StandInError> {
        let address = Address::from(ip);
        self.epoch.number(ip, || match self.numbers.get(&address, 0) {
            Ok(number) => Ok(number),
            Err(MapError::KeyNotFound) => self.writing.lock().take(address),
            Err(error) => Err(StandInError::Map(error)),
        })
    }
}

impl Writing {
    fn open(maps: &Path) -> Result<Self, BpfError> {
        let pinned = |name: &'static str| {
            MapData::from_pin(maps.join(name)).map_err(BpfError::map("open", name))
        };
        let numbers = Map::HashMap(pinned(names::STAND_INS)?);
        let real = Map::Array(pinned(names::REAL)?);
        let free = Map::Queue(pinned(names::FREE_STAND_INS)?);
        Ok(Self {
            numbers: numbers.try_into().map_err(BpfError::map("open", names::STAND_INS))?,
            real: real.try_into().map_err(BpfError::map("open", names::REAL))?,
            free: free.try_into().map_err(BpfError::map("open", names::FREE_STAND_INS))?,
        })
    }

    /// A new number for an address; the programs do the same.
    fn take(&mut self, address: Address) -> Result<u32, StandInError> {
        let new = self.free.pop(0).map_err(|_| StandInError::Full)?;
        self.real.set(new, address, 0).map_err(StandInError::Map)?;
        if self.numbers.insert(address, new, NO_EXIST).is_ok() {
            return Ok(new);
        }
        // A program met the address at the same moment.
        self.real.set(new, Address::NONE, 0).map_err(StandInError::Map)?;
        if self.free.push(new, 0).is_err() {
            tracing::debug!(new, "a number goes back to the queue when that has room");
        }
        self.numbers.get(&address, 0).map_err(|_| StandInError::Full)
    }
}

/// `BPF_NOEXIST` of linux/bpf.h.
const NO_EXIST: u64 = 1;

fn canary(prefixes: &Prefixes) -> Result<Canary, BpfError> {
    let address = match IpAddr::from(prefixes.out(true, CANARY)) {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("a stand-in of IPv4 is of IPv4"),
    };
    Canary::new(address, CANARY_SHOWN.into()).map_err(BpfError::Canary)
}

impl std::fmt::Debug for StandIns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StandIns").field(&self.prefixes()).finish()
    }
}
