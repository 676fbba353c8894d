//! Removes every trace, for the end of a node's membership.

use std::collections::HashMap;
use std::io::ErrorKind::{DirectoryNotEmpty, ReadOnlyFilesystem, ResourceBusy};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use sotto_abi::{PodConfig, Prefixes, names};

use super::pins::Pins;
use super::pods::read;
use super::{BpfError, Kernel, leftovers};
use crate::capture::{StandInRanges, routing};
use crate::mesh::PodUid;
use crate::sys::Netns;
use crate::sys::bpf::{detach_link, open_pinned};

/// What redirects new connections of pods.
const CONNECT: [&str; 4] = [names::CONNECT4, names::CONNECT6, names::SENDMSG4, names::SENDMSG6];

/// Detaches all programs and removes all pins below `pin_dir`, and the routes of pods whose network namespace shows in
/// `/run/netns` or `/proc`, also of those that were released a moment ago. Goes on after errors.
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
    errors.extend(CONNECT.into_iter().filter_map(|name| detach(&pins, name).err()));
    // What is known of the pods whose namespaces have routes, by cookie.
    let mut routed: HashMap<u64, Option<PodConfig>> =
        shown(&pins).into_iter().map(|cookie| (cookie, None)).collect();
    match pins.all_pods() {
        Ok(pods) => {
            for (_, pod) in pods {
                routed.extend(read(&pod).map(|config| (config.cookie, Some(config))));
                errors.extend(pod.remove().err());
            }
        }
        Err(error) => errors.push(error),
    }
    errors.extend(close(&routed, &ranges));
    if let Err(error) = std::fs::remove_dir_all(pin_dir) {
        errors.push(BpfError::file("remove", pin_dir)(error));
    }
    errors.extend(pin_dir.parent().and_then(|parent| remove_if_empty(parent).err()));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Takes the routes out of the namespaces with these cookies. One that does not show is gone, or nobody's to enter.
fn close(routed: &HashMap<u64, Option<PodConfig>>, ranges: &StandInRanges) -> Vec<BpfError> {
    let proc = Path::new("/proc");
    if routed.is_empty() {
        return Vec::new();
    }
    let all = match Netns::all(proc) {
        Ok(all) => all,
        Err(error) => return vec![BpfError::file("read", proc)(error)],
    };
    let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let mut errors = Vec::new();
    for netns in all {
        let Some(config) = netns.cookie().ok().and_then(|cookie| routed.get(&cookie)) else {
            continue;
        };
        errors.extend(routing::close(&netns, &both, ranges).err().map(BpfError::from));
        let left = config.and_then(|config| leftovers::of(&config));
        errors.extend(left.and_then(|left| left.clear(&netns).err()));
    }
    errors
}

/// The pods that are captured below a pin directory, whoever put them there; none if there is no such directory.
///
/// # Errors
/// It cannot be read.
pub fn captured_pods(pin_dir: &Path) -> Result<Vec<PodUid>, BpfError> {
    let pods = Pins::below(pin_dir).all_pods();
    match pods {
        Ok(pods) => Ok(pods.into_iter().map(|(uid, _)| uid).collect()),
        Err(BpfError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

impl Kernel {
    /// Stops redirecting new connections, of all pods and for good: they go as they would without a mesh. What is open
    /// goes on; [`remove_all`] follows when that is drained. From now on nothing is attached again, by this agent.
    ///
    /// # Errors
    /// All that went wrong; all that can be detached is.
    pub fn let_all_out(&mut self) -> Result<(), Vec<BpfError>> {
        self.leaves = true;
        let mut errors: Vec<_> =
            CONNECT.into_iter().filter_map(|name| detach(&self.pins, name).err()).collect();
        match self.pins.all_pods() {
            Ok(pods) => errors.extend(pods.iter().filter_map(|(_, pod)| pod.detach().err())),
            Err(error) => errors.push(error),
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

/// The folder of all versions' pins goes with the last of them; the file system's own root stays.
fn remove_if_empty(folder: &Path) -> Result<(), BpfError> {
    match std::fs::remove_dir(folder) {
        // A container's mount of it is busy, and in a folder that is not to be written.
        Err(error)
            if !matches!(error.kind(), DirectoryNotEmpty | ResourceBusy | ReadOnlyFilesystem) =>
        {
            Err(BpfError::file("remove", folder)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
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

/// The cookies of namespaces that have routes, also of pods that are released and drain.
fn shown(pins: &Pins) -> Vec<u64> {
    let open = || {
        let map = Map::HashMap(MapData::from_pin(pins.maps().join(names::SHOWN)).ok()?);
        let shown: aya::maps::HashMap<_, u64, u32> = map.try_into().ok()?;
        Some(shown.keys().filter_map(Result::ok).collect())
    };
    open().unwrap_or_default()
}
