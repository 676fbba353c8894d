//! What an application is shown as the other end of a connection: the real one.

use sotto_abi::{Address, CANARY, CANARY_SHOWN, resolver_slot};

use crate::maps;

/// The real address behind the other end of a socket, if that is a stand-in.
#[inline(always)]
pub fn real(cookie: u64, peer: &Address) -> Option<Address> {
    let prefixes = maps::prefixes()?;
    if !prefixes.is_out(peer) && !prefixes.is_client(peer) {
        return None;
    }
    let index = prefixes.index(peer);
    if index == CANARY {
        return Some(CANARY_SHOWN);
    }
    if !maps::is_shown(cookie) {
        return None;
    }
    let real = match resolver_slot(index) {
        Some(slot) => maps::real_resolver(cookie, slot)?,
        None => maps::real(index)?,
    };
    (!real.is(&Address::NONE) && real.is_v4() == peer.is_v4()).then_some(real)
}
