//! Removes every trace, for the end of a node's membership.

use std::io::ErrorKind::{DirectoryNotEmpty, ResourceBusy};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use sotto_abi::{Address, Prefixes, names};

use super::pins::Pins;
use super::pods::{pinned_netns, read};
use super::{BpfError, leftovers};
use crate::capture::{StandInRanges, routing};
use crate::sys::Netns;
use crate::sys::bpf::{detach_link, open_pinned};

/// Detaches all programs and removes all pins below `pin_dir`, and the routes of pods whose network namespace shows in
/// `/run/netns` or `/proc`. Goes on after errors.
///
/// # Errors
/// All that went wrong.
pub fn remove_all(pin_dir: &Path) -> Result<(), Vec<BpfError>> {
    if !pin_dir.exists() {
        return Ok(());
    }
    let pins = Pins::below(pin_dir);
    let mut errors = Vec::new();
    let ranges = told_ranges(&pins).unwrap_or_default();
    // First of all and at once: the kernel lets go of what is only unpinned in its own time, and until then
    // connections would be sent to whom is no more.
    errors.extend(
        [names::CONNECT4, names::CONNECT6].into_iter().filter_map(|name| detach(&pins, name).err()),
    );
    match pins.all_pods() {
        Ok(pods) => {
            for (_, pod) in pods {
                let config = read(&pod);
                let netns = pinned_netns(&pod.link()).and_then(find);
                errors.extend(pod.remove().err());
                if let (Some(netns), Some(config)) = (netns, config) {
                    let addresses: Vec<IpAddr> = [config.pod.ip4, config.pod.ip6]
                        .into_iter()
                        .filter(|address| !address.is(&Address::NONE))
                        .map(IpAddr::from)
                        .collect();
                    let closed = routing::close(&netns, &addresses, &ranges);
                    errors.extend(closed.err().map(BpfError::from));
                    let cleared = leftovers::of(&config).map(|left| left.clear(&netns));
                    errors.extend(cleared.and_then(Result::err));
                }
            }
        }
        Err(error) => errors.push(error),
    }
    if let Err(error) = std::fs::remove_dir_all(pin_dir) {
        errors.push(BpfError::file("remove", pin_dir)(error));
    }
    errors.extend(pin_dir.parent().and_then(|parent| remove_if_empty(parent).err()));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The folder of all versions' pins goes with the last of them; the file system's own root stays.
fn remove_if_empty(folder: &Path) -> Result<(), BpfError> {
    match std::fs::remove_dir(folder) {
        Err(error) if !matches!(error.kind(), DirectoryNotEmpty | ResourceBusy) => {
            Err(BpfError::file("remove", folder)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn find(inode: u64) -> Option<Netns> {
    Netns::find(inode, Path::new("/proc")).ok().flatten()
}

/// Ends a program's work, if it is attached.
fn detach(pins: &Pins, name: &'static str) -> Result<(), BpfError> {
    let place = pins.link(name);
    if !place.exists() {
        return Ok(());
    }
    let link = open_pinned(&place).map_err(BpfError::file("open", &place))?;
    detach_link(link.as_fd()).map_err(BpfError::program("detach", name))
}

/// The ranges that the programs below a pin directory were told.
pub(super) fn told_ranges(pins: &Pins) -> Option<StandInRanges> {
    let pin = pins.maps().join(names::PREFIXES);
    let map = Map::Array(MapData::from_pin(pin).ok()?);
    let prefixes: Array<_, Prefixes> = map.try_into().ok()?;
    StandInRanges::of(&prefixes.get(&0, 0).ok()?)
}
