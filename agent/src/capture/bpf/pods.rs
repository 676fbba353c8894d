//! A pod's part: its program, sockets and entries.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::{Array, Map, MapData, PerCpuValues, SockMap};
use sotto_abi::{
    Address, Counts, POD_EXCLUDES_CIDRS, POD_EXCLUDES_PORTS, POD_FAIL_OPEN, POD_NAMES,
    POD_STAND_INS, Pod, PodConfig, ROLE_QUESTIONS, names, sock_slot,
};

use super::error::absent_is_fine;
use super::pins::{PodPins, remove_file};
use super::{BpfError, Kernel};
use super::{leftovers, object};
use crate::capture::{PodCapture, PodListeners, Questions, routing};
use crate::mesh::{LocalPod, PodUid};
use crate::sys::bpf::{LinkKind, create_link, link_target, open_pinned, pin, update_link};

/// A pod whose capture is in the kernel, whoever put it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedPod {
    /// Kubernetes UID.
    pub uid: PodUid,
    /// Inode of its network namespace.
    pub netns_inode: u64,
    /// Cookie of its network namespace.
    pub cookie: u64,
}

impl Kernel {
    /// The pods whose capture is in the kernel, and whose network namespace still exists.
    ///
    /// # Errors
    /// The pin directory cannot be read.
    pub fn adopted(&self) -> Result<Vec<AdoptedPod>, BpfError> {
        let mut adopted = Vec::new();
        for (uid, pins) in self.pins.all_pods()? {
            if let (Some(netns_inode), Some(config)) = (pinned_netns(&pins.link()), read(&pins)) {
                adopted.push(AdoptedPod { uid, netns_inode, cookie: config.cookie });
            }
        }
        Ok(adopted)
    }

    pub(super) fn enrol(
        &mut self,
        capture: &PodCapture,
        listeners: &PodListeners,
    ) -> Result<(), BpfError> {
        self.ensure_free(capture)?;
        let pod = &capture.pod;
        let cookie = capture.netns.cookie().map_err(BpfError::Cookie)?;
        let pins = self.pins.pod(&pod.uid)?;
        let known = read(&pins);
        if known.is_some_and(|known| known.cookie != cookie) {
            // The pod's sandbox was made anew.
            self.unenrol(&pod.uid)?;
            self.leftovers.remove(&pod.uid);
        }
        if let Some(left) =
            known.filter(|known| known.cookie == cookie).and_then(|k| leftovers::of(&k))
        {
            self.leftovers.insert(pod.uid.clone(), left.within(&capture.netns));
        }
        let device = routing::open(&capture.netns, pod, &self.config.ranges)?;
        self.netns.insert(cookie, capture.netns.downgrade());
        self.maps.shown.insert(cookie, 1, 0).map_err(BpfError::map("write", names::SHOWN))?;
        let record = record(pod, listeners, (device, self.config.fail_open));
        let settings = self.leftovers.get(&pod.uid).map_or(0, leftovers::Leftover::settings);
        pins.create()?;
        self.holders.insert(pod.uid.clone(), cookie);
        let config = PodConfig { cookie, pod: record, settings, _pad: 0 };
        self.steer(capture, &pins, listeners, config)?;
        self.maps
            .out_listeners
            .insert(cookie, listeners.token().as_raw_fd(), 0)
            .map_err(BpfError::map("write", names::OUT_LISTENERS))?;
        self.take_questions(cookie, listeners)?;
        self.maps.set_exclusions(cookie, &pod.exclusions)?;
        self.maps.set_probe_ports(cookie, pod)?;
        self.start_counting(cookie)?;
        self.maps
            .enrolled
            .insert(cookie, record, 0)
            .map_err(BpfError::map("write", names::ENROLLED))
    }

    /// Makes the agent's socket known to the programs that send questions for names there, or that there is none.
    fn take_questions(&mut self, cookie: u64, listeners: &PodListeners) -> Result<(), BpfError> {
        let Some(questions) = listeners.questions() else {
            return absent_is_fine(self.maps.questions.remove(&cookie))
                .map_err(BpfError::map("clear", names::QUESTIONS));
        };
        self.attach_of_names()?;
        self.maps
            .questions
            .insert(cookie, questions.token().as_raw_fd(), 0)
            .map_err(BpfError::map("write", names::QUESTIONS))
    }

    pub(super) fn stop_taking(&mut self, uid: &PodUid) -> Result<(), BpfError> {
        let pins = self.pins.pod(uid)?;
        let Some(known) = read(&pins) else { return Ok(()) };
        if self.holder(known.cookie, uid).is_some() {
            return Ok(());
        }
        absent_is_fine(self.maps.enrolled.remove(&known.cookie))
            .map_err(BpfError::map("clear", names::ENROLLED))
    }

    /// Who else holds a network namespace. Only an agent of an earlier version gave one to two pods.
    pub(super) fn holder(&self, cookie: u64, except: &PodUid) -> Option<&PodUid> {
        let mut others = self.holders.iter().filter(|(uid, _)| *uid != except);
        others.find(|(_, held)| **held == cookie).map(|(uid, _)| uid)
    }

    pub(super) fn unenrol(&mut self, uid: &PodUid) -> Result<(), BpfError> {
        let pins = self.pins.pod(uid)?;
        let Some(known) = read(&pins) else {
            self.holders.remove(uid);
            return pins.remove();
        };
        // First nothing more goes out to the agent, then nothing more comes in to it.
        self.stop_taking(uid)?;
        let detached = pins.detach();
        let shared = self.holder(known.cookie, uid).is_some();
        let forgotten = if shared { Ok(()) } else { self.maps.forget(known.cookie) };
        if let Some(left) = leftovers::of(&known) {
            self.leftovers.entry(uid.clone()).or_insert(left);
        }
        let removed = pins.remove();
        if removed.is_ok() {
            self.holders.remove(uid);
        }
        detached.and(forgotten).and(removed)
    }

    /// Forgets pods whose network namespace is gone, and entries that no pod has.
    pub(super) fn collect_garbage(&mut self) -> Result<(), BpfError> {
        let mut alive = Vec::new();
        for (uid, pins) in self.pins.all_pods()? {
            match (pinned_netns(&pins.link()), read(&pins)) {
                (Some(_), Some(config)) => alive.push(config.cookie),
                _ => {
                    tracing::info!(pod = %uid, "the pod's network namespace is gone");
                    pins.remove()?;
                    self.holders.remove(&uid);
                }
            }
        }
        let enrolled: Vec<_> = self.maps.enrolled.keys().filter_map(Result::ok).collect();
        for cookie in enrolled.into_iter().filter(|cookie| !alive.contains(cookie)) {
            self.maps.forget(cookie)?;
        }
        let shown: Vec<_> = self.maps.shown.keys().filter_map(Result::ok).collect();
        for cookie in shown.into_iter().filter(|cookie| !alive.contains(cookie)) {
            // A pod that is released stays, as long as its release is not finished.
            if self.netns.get(&cookie).is_none_or(|netns| netns.upgrade().is_none()) {
                self.maps.show_no_more(cookie)?;
                self.netns.remove(&cookie);
            }
        }
        Ok(())
    }

    /// Hands what arrives in the pod to the listeners.
    fn steer(
        &self,
        capture: &PodCapture,
        pins: &PodPins,
        listeners: &PodListeners,
        config: PodConfig,
    ) -> Result<(), BpfError> {
        let mut object = object::load_pod(&self.pins, pins)?;
        let map = object.take_map(names::POD)?;
        let mut pod: Array<_, PodConfig> =
            map.try_into().map_err(BpfError::map("open", names::POD))?;
        let map = object.take_map(names::SOCKS)?;
        let mut socks = SockMap::try_from(map).map_err(BpfError::map("open", names::SOCKS))?;
        for (role, listener) in listeners.all() {
            let is_v6 = listener.local_addr().is_ok_and(|address| address.is_ipv6());
            socks
                .set(sock_slot(role.number(), is_v6), listener, 0)
                .map_err(BpfError::map("write", names::SOCKS))?;
        }
        for (socket, is_v6) in listeners.questions().into_iter().flat_map(Questions::all) {
            socks
                .set(sock_slot(ROLE_QUESTIONS, is_v6), socket, 0)
                .map_err(BpfError::map("write", names::SOCKS))?;
        }
        pod.set(0, config, 0).map_err(BpfError::map("write", names::POD))?;
        let steer = object.program(names::STEER)?.as_fd();
        let place = pins.link();
        if pinned_netns(&place) == Some(capture.netns.inode()) {
            let link = open_pinned(&place).map_err(BpfError::file("open", &place))?;
            return update_link(link.as_fd(), steer)
                .map_err(BpfError::program("replace", names::STEER));
        }
        remove_file(&place)?;
        let link = create_link(steer, capture.netns.as_fd(), object::kind(names::STEER)?)
            .map_err(BpfError::program("attach", names::STEER))?;
        pin(link.as_fd(), &place).map_err(BpfError::program("pin", names::STEER))
    }

    fn start_counting(&mut self, cookie: u64) -> Result<(), BpfError> {
        if self.maps.pod_counts.get(&cookie, 0).is_ok() {
            return Ok(());
        }
        let failed = BpfError::map("write", names::POD_COUNTS);
        let cpus = aya::util::nr_cpus()
            .map_err(|(file, source)| BpfError::file("read", Path::new(file))(source))?;
        let zero = PerCpuValues::try_from(vec![Counts::default(); cpus]).map_err(|source| {
            BpfError::file("count", Path::new("/sys/devices/system/cpu"))(source)
        })?;
        self.maps.pod_counts.insert(cookie, zero, 0).map_err(failed)
    }
}

/// What the programs know of a pod. A family that the agent cannot listen on counts as one that the pod has not:
/// its connections are refused rather than lost.
fn record(
    pod: &LocalPod,
    listeners: &PodListeners,
    (device, fail_open): (Option<u32>, bool),
) -> Pod {
    let listens_v6 = listeners.all().any(|(_, one)| one.local_addr().is_ok_and(|at| at.is_ipv6()));
    let address = |ip: Option<std::net::IpAddr>| ip.map_or(Address::NONE, Address::from);
    let mut flags = POD_STAND_INS;
    if fail_open {
        flags |= POD_FAIL_OPEN;
    }
    if listeners.questions().is_some() {
        flags |= POD_NAMES;
    }
    if !pod.exclusions.outbound_ports.is_empty() {
        flags |= POD_EXCLUDES_PORTS;
    }
    if !pod.exclusions.outbound_cidrs.is_empty() {
        flags |= POD_EXCLUDES_CIDRS;
    }
    Pod {
        ip4: address(pod.ip4.map(Into::into)),
        ip6: address(pod.ip6.filter(|_| listens_v6).map(Into::into)),
        flags,
        device: device.unwrap_or_default(),
    }
}

/// A pod's pinned configuration.
pub(super) fn read(pins: &PodPins) -> Option<PodConfig> {
    let map = Map::Array(MapData::from_pin(pins.config()).ok()?);
    let pod: Array<_, PodConfig> = map.try_into().ok()?;
    pod.get(&0, 0).ok()
}

/// The network namespace that a pinned link is attached to, if there is such a link and namespace.
pub(super) fn pinned_netns(pin: &Path) -> Option<u64> {
    let link = open_pinned(pin).ok()?;
    let target = link_target(link.as_fd(), LinkKind::Netns).ok()?;
    (target.target != 0).then_some(target.target)
}
