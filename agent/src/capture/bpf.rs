//! The kernel's side of the capture: programs, maps and pins. The only module that knows aya.
//!
//! [`Kernel`] is the one writer of the maps. All it does is pinned, so that connections stay captured (or
//! refused) when the agent goes, and the next agent adopts what it finds: the pins are the truth, not its memory.

mod counters;
mod destinations;
mod error;
mod hand;
mod leftovers;
mod log;
mod maps;
mod node;
mod object;
mod pins;
mod pods;
mod probes;
mod recent;
mod remove;
mod reuse;
mod stand_ins;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sotto_abi::{GLOBAL_CAPTURE_UNKNOWN, GLOBAL_SYNCED, Global, names};

use super::{PodCapture, PodListeners, StandInRanges, routing};
use crate::mesh::PodUid;
use crate::mesh::destinations::DestinationsDelta;
use crate::sys::bpf::program_info;
use crate::sys::netns::WeakNetns;

pub use counters::Counters;
pub use error::BpfError;
pub use hand::{HandLoaded, load, unload};
use leftovers::Leftover;
use log::Log;
use maps::Maps;
use pins::Pins;
pub use pods::AdoptedPod;
use recent::Epoch;
pub use remove::{captured_pods, remove_all};
use reuse::Reuse;
pub use stand_ins::{StandInError, StandIns};

/// What the kernel's side is installed with.
#[derive(Debug, Clone)]
pub struct KernelConfig {
    /// Where maps and links are pinned, on a BPF file system.
    pub pin_dir: PathBuf,
    /// The cgroup below which all pods of the node are.
    pub cgroup_root: PathBuf,
    /// The agent's own cgroup, whose connections are never captured.
    pub agent_cgroup_id: u64,
    /// Connections go direct while no agent runs, instead of being refused.
    pub fail_open: bool,
    /// Destinations outside the mesh are captured too.
    pub proxy_unknown: bool,
    /// Where stand-ins are.
    pub ranges: StandInRanges,
}

/// The installed programs and maps.
#[derive(Debug)]
pub struct Kernel {
    config: KernelConfig,
    pins: Pins,
    maps: Maps,
    /// Whose network namespace is whose, by cookies: one that a pod has is no other's.
    holders: HashMap<PodUid, u64>,
    /// The cgroup whose probes are exempt, once this agent has made it so.
    exempt: Option<u64>,
    stand_ins: StandIns,
    reuse: Reuse,
    /// Of pods whose sockets may have stand-ins, by cookie.
    netns: HashMap<u64, WeakNetns>,
    /// What is left in pods of agents that redirected by marks.
    leftovers: HashMap<PodUid, Leftover>,
    /// A map of destinations was full once, so it is not complete.
    overflowed: bool,
    synced: bool,
    /// What questions for names need is attached.
    answers_names: bool,
    /// The mesh is taken off the node: nothing is attached any more.
    leaves: bool,
    log: Log,
}

impl Kernel {
    /// Loads the programs and attaches them to the node, or adopts what an earlier agent left: its pods stay
    /// enrolled, its programs are replaced. Captures everything until [`Self::set_synced`].
    ///
    /// Must come before the agent opens any socket in a pod: only then is its cgroup known to the programs.
    ///
    /// # Errors
    /// The kernel lacks something, or the directories are not what they should be.
    pub fn install(config: KernelConfig) -> Result<Self, BpfError> {
        let pins = Pins::create(&config.pin_dir)?;
        let mut programs = object::load_node(&pins, node::PROGRAMS)?;
        let mut maps = Maps::take(&mut programs)?;
        let (prefixes, is_new) = maps.settle_prefixes(&config.ranges)?;
        let epoch = Epoch::new();
        let reuse = Reuse::new(maps::take_table(&mut programs)?, is_new, epoch.clone())?;
        let stand_ins = StandIns::open(&pins.maps(), prefixes, epoch)?;
        let program = program_info(programs.program(names::CONNECT4)?.as_fd());
        let log = Log::Unopened(program.map_err(BpfError::program("inspect", names::CONNECT4))?.id);
        let mut kernel = Self {
            config,
            pins,
            maps,
            holders: HashMap::new(),
            exempt: None,
            stand_ins,
            reuse,
            netns: HashMap::new(),
            leftovers: HashMap::new(),
            overflowed: false,
            synced: false,
            answers_names: false,
            leaves: false,
            log,
        };
        // First the programs must stop to trust the destinations: what is missing from them goes in the clear.
        kernel.write_global()?;
        kernel.maps.clear_destinations()?;
        kernel.collect_garbage()?;
        let adopted = kernel.adopted()?.into_iter();
        kernel.holders = adopted.map(|pod| (pod.uid, pod.cookie)).collect();
        kernel.attach_node(&programs)?;
        Ok(kernel)
    }

    /// The table of stand-ins.
    pub fn stand_ins(&self) -> StandIns {
        self.stand_ins.clone()
    }

    /// Tells the programs whether the maps of destinations are complete.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_synced(&mut self, synced: bool) -> Result<(), BpfError> {
        self.synced = synced;
        self.write_global()
    }

    /// Captures destinations outside the mesh too, or no more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn capture_unknown(&mut self, too: bool) -> Result<(), BpfError> {
        self.config.proxy_unknown = too;
        self.write_global()
    }

    /// Brings the maps of destinations up to date. If one is full, everything is captured from then on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn update_destinations(&mut self, delta: &DestinationsDelta) -> Result<(), BpfError> {
        self.warn_of_unreachable(delta);
        let complete = self.maps.apply(delta)?;
        if !complete && !self.overflowed {
            tracing::warn!("too many destinations: connections to unknown ones are captured too");
            self.overflowed = true;
            self.write_global()?;
        }
        Ok(())
    }

    /// Enrolled pods cannot reach a destination whose address is one that stands for others.
    fn warn_of_unreachable(&self, delta: &DestinationsDelta) {
        let hits = |ip: &&IpAddr| self.config.ranges.holds(**ip).is_some();
        let mut unreachable = delta.added.iter().filter(hits);
        if let Some(first) = unreachable.next() {
            let (others, ranges) = (unreachable.count(), self.config.ranges.all());
            tracing::warn!(%first, others, ?ranges, "enrolled pods cannot reach destinations whose addresses are of the ranges for stand-ins: choose others (--stand-ins)");
        }
    }

    /// Whether a pod's network namespace is no other pod's.
    ///
    /// # Errors
    /// It is, or it is gone.
    pub fn ensure_free(&self, pod: &PodCapture) -> Result<(), BpfError> {
        let cookie = pod.netns.cookie().map_err(BpfError::Cookie)?;
        match self.holder(cookie, &pod.pod.uid) {
            Some(holder) => Err(BpfError::Held(holder.clone())),
            None => Ok(()),
        }
    }

    /// Redirects a pod's connections to its listeners; the order is such that nothing is redirected before
    /// somebody takes it. Repeating it, also for an adopted pod, switches to the new listeners at once.
    ///
    /// # Errors
    /// The namespace is gone or another pod's, or the kernel refuses; [`Self::release`] takes back what was done.
    pub fn capture(&mut self, pod: &PodCapture, listeners: &PodListeners) -> Result<(), BpfError> {
        self.enrol(pod, listeners)
    }

    /// Stops redirecting what a pod opens, the first half of [`Self::release`]. A connect(2) that was redirected a
    /// moment ago may still have to find the listeners, so the second half should come a little later.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn let_out(&mut self, uid: &PodUid) -> Result<(), BpfError> {
        self.stop_taking(uid)
    }

    /// Stops redirecting a pod's connections, those that exist go on. [`Self::finish_release`] follows when they
    /// are drained. Unknown pods are fine.
    ///
    /// # Errors
    /// The kernel refuses; all that can be taken back is.
    pub fn release(&mut self, uid: &PodUid) -> Result<(), BpfError> {
        self.unenrol(uid)
    }

    /// Takes back the rest, on which released connections depend: routes, and what applications are shown; nothing of a
    /// namespace that another pod holds.
    ///
    /// # Errors
    /// The kernel refuses. A namespace that is gone has nothing to take back.
    pub fn finish_release(&mut self, pod: &PodCapture) -> Result<(), BpfError> {
        let cookie = pod.netns.cookie().map_err(BpfError::Cookie)?;
        if self.holder(cookie, &pod.pod.uid).is_some() {
            return Ok(());
        }
        let addresses = routing::addresses(&pod.pod);
        let closed = routing::close(&pod.netns, &addresses, &self.config.ranges);
        self.maps.show_no_more(cookie)?;
        self.netns.remove(&cookie);
        self.clear_leftover(&pod.pod.uid, &pod.netns)?;
        Ok(closed?)
    }

    /// Looks after what changes on its own: pods that are gone, what the programs have to say. To be called every
    /// few seconds.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn maintain(&mut self) -> Result<(), BpfError> {
        self.log.pass_on();
        if self.leaves {
            return Ok(());
        }
        self.collect_garbage()?;
        self.attend_pods()?;
        self.attend_stand_ins()?;
        self.clear_leftovers();
        Ok(())
    }

    /// Gets stand-ins back that no socket has any more, unless another agent has come to do that.
    fn attend_stand_ins(&mut self) -> Result<(), BpfError> {
        if !self.is_ours()? {
            return Ok(());
        }
        let shown = self.maps.shown.keys().filter_map(Result::ok);
        let pods: Option<Vec<_>> = shown.map(|cookie| self.netns.get(&cookie).cloned()).collect();
        self.reuse.tend(&self.maps.prefixes()?, pods.as_deref())
    }

    /// Whether no other agent has installed itself since.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn is_ours(&self) -> Result<bool, BpfError> {
        let [current, _] = self.maps.agent_cgroups()?;
        Ok(current == self.config.agent_cgroup_id)
    }

    fn write_global(&mut self) -> Result<(), BpfError> {
        let own = self.config.agent_cgroup_id;
        let [current, previous] = self.maps.agent_cgroups()?;
        // A predecessor drains while we start: its connections are not to be captured either.
        let agent_cgroups = if current == own { [own, previous] } else { [own, current] };
        let mut flags = 0;
        if self.synced {
            flags |= GLOBAL_SYNCED;
        }
        if self.config.proxy_unknown || self.overflowed {
            flags |= GLOBAL_CAPTURE_UNKNOWN;
        }
        self.maps.set_global(Global { agent_cgroups, flags })
    }

    /// Where maps and links are pinned.
    pub fn pin_dir(&self) -> &Path {
        &self.config.pin_dir
    }
}
