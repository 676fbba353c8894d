//! The maps, and the reads and counts of the programs. One writer each: user space, but where it says otherwise.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_map_lookup_elem, bpf_sk_release};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, Queue, SockHash, SockMap,
};
use sotto_abi::{
    Address, AddressPort, Counter, Counts, ExcludedCidrKey, ExcludedPort, Flow, Global,
    MAX_CLOSED_PORTS, MAX_DESTINATION_CIDRS, MAX_DESTINATIONS, MAX_EXCLUSIONS, MAX_FREE_STAND_INS,
    MAX_PODS, MAX_PROBE_FLOWS, MAX_PROBE_PORTS, MAX_RESOLVERS, MAX_STAND_INS, Pod, PodConfig,
    Prefixes, ResolverKey, SOCK_SLOTS,
};

/// Network namespace cookie -> pod. The truth of who is enrolled.
/// Full: the enrolment of one more pod fails.
#[map]
static ENROLLED: HashMap<u64, Pod> = HashMap::pinned(MAX_PODS, BPF_F_NO_PREALLOC);

/// Configuration for all pods of the node.
#[map]
static GLOBAL: Array<Global> = Array::pinned(1, 0);

/// Network namespace cookie -> the agent's outbound listener there. The kernel removes an entry together with
/// the socket, so a hit means that the agent is alive.
#[map]
static OUT_LISTENERS: SockHash<u64> = SockHash::pinned(MAX_PODS, 0);

/// Where the kubelet may probe pods -> network namespace cookie of the pod. Full: other probes are captured.
#[map]
static PROBE_PORTS: HashMap<AddressPort, u64> = HashMap::pinned(MAX_PROBE_PORTS, BPF_F_NO_PREALLOC);

/// Connections of the kubelet, written by the `probe` program. Full: the oldest goes.
#[map]
static PROBE_FLOWS: LruHashMap<Flow, u32> = LruHashMap::pinned(MAX_PROBE_FLOWS, 0);

/// Addresses of workloads and services. Full: user space sets `GLOBAL_CAPTURE_UNKNOWN`.
#[map]
static DESTINATIONS: HashMap<Address, u32> = HashMap::pinned(MAX_DESTINATIONS, BPF_F_NO_PREALLOC);

/// Ranges of services. Full: user space sets `GLOBAL_CAPTURE_UNKNOWN`.
#[map]
static DESTINATION_CIDRS: LpmTrie<Address, u32> = LpmTrie::pinned(MAX_DESTINATION_CIDRS, 0);

/// Services' addresses and ports that nobody serves. Full: connections to others are reset by the agent.
#[map]
static CLOSED_PORTS: HashMap<AddressPort, u32> =
    HashMap::pinned(MAX_CLOSED_PORTS, BPF_F_NO_PREALLOC);

/// Ports that pods keep out of the mesh. Full: they are captured.
#[map]
static EXCLUDED_PORTS: HashMap<ExcludedPort, u32> =
    HashMap::pinned(MAX_EXCLUSIONS, BPF_F_NO_PREALLOC);

/// Ranges that pods keep out of the mesh. Full: they are captured.
#[map]
static EXCLUDED_CIDRS: LpmTrie<ExcludedCidrKey, u32> = LpmTrie::pinned(MAX_EXCLUSIONS, 0);

/// What happened on the node, written by the programs.
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::pinned(1, 0);

/// What happened to each pod: entries made by user space, counted by the programs.
#[map]
static POD_COUNTS: PerCpuHashMap<u64, Counts> = PerCpuHashMap::pinned(MAX_PODS, BPF_F_NO_PREALLOC);

/// Where stand-ins are.
#[map]
static PREFIXES: Array<Prefixes> = Array::pinned(1, 0);

/// Real address -> number of its stand-ins: by whoever meets an address first, program or user space, with a number
/// from `FREE_STAND_INS`. User space takes entries out. Full: as if that were empty.
#[map]
static STAND_INS: HashMap<Address, u32> = HashMap::pinned(MAX_STAND_INS, BPF_F_NO_PREALLOC);

/// Number -> real address, written before `STAND_INS` is; `NONE` where there is none. It outlasts the entry of
/// `STAND_INS`: a number is free only when no socket has it any more.
#[map]
static REAL: Array<Address> = Array::pinned(MAX_STAND_INS, 0);

/// Numbers that stand for no address, filled up by user space. Whoever takes one has it alone.
/// Empty: a connection with a new address is refused.
#[map]
static FREE_STAND_INS: Queue<u32> = Queue::pinned(MAX_FREE_STAND_INS, 0);

/// Cookie of a network namespace -> 1, of pods that are enrolled or were, and may have open connections from then.
/// Full: the enrolment of one more pod fails.
#[map]
static SHOWN: HashMap<u64, u32> = HashMap::pinned(MAX_PODS, BPF_F_NO_PREALLOC);

/// Network namespace cookie -> the agent's socket there for questions for names. As `OUT_LISTENERS`, a hit means that the
/// agent is alive.
#[map]
static QUESTIONS: SockHash<u64> = SockHash::pinned(MAX_PODS, 0);

/// A pod's resolver -> its real address, written by the programs, cleared by user space. Each pod may have
/// `MAX_RESOLVERS`. Full: what is asked of others goes to them directly.
#[map]
static RESOLVERS: HashMap<ResolverKey, Address> =
    HashMap::pinned(MAX_PODS * MAX_RESOLVERS, BPF_F_NO_PREALLOC);

/// The agent's listeners in this pod. One map for each pod.
#[map]
pub static SOCKS: SockMap = SockMap::with_max_entries(SOCK_SLOTS, 0);

/// This pod. One map for each pod.
#[map]
static POD: Array<PodConfig> = Array::with_max_entries(1, 0);

const ADDRESS_BITS: u32 = 128;
const COOKIE_BITS: u32 = 64;

/// The pod of a network namespace, if it is enrolled.
#[inline(always)]
pub fn enrolled(cookie: u64) -> Option<&'static Pod> {
    // SAFETY: entries are replaced whole and freed after an RCU grace period, which outlasts the program.
    unsafe { ENROLLED.get(cookie) }
}

/// The pod of this instance.
#[inline(always)]
pub fn pod() -> Option<&'static PodConfig> {
    POD.get(0)
}

/// The node's configuration.
#[inline(always)]
pub fn global() -> Option<&'static Global> {
    GLOBAL.get(0)
}

/// Whether the agent listens for what the pod opens.
#[inline(always)]
pub fn agent_listens(cookie: u64) -> bool {
    has_socket(&OUT_LISTENERS, cookie)
}

/// Whether the agent answers what the pod asks of resolvers.
#[inline(always)]
pub fn agent_answers(cookie: u64) -> bool {
    has_socket(&QUESTIONS, cookie)
}

#[inline(always)]
fn has_socket(map: &'static SockHash<u64>, cookie: u64) -> bool {
    // SAFETY: the map and the key outlive the call; the socket's reference is given back at once.
    unsafe {
        let socket =
            bpf_map_lookup_elem((&raw const *map).cast_mut().cast(), (&raw const cookie).cast());
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket);
        true
    }
}

/// The place of a resolver among those of the pod, a new one if there is none; `None` if all are taken.
#[inline(always)]
pub fn resolver(cookie: u64, address: &Address) -> Option<u32> {
    for slot in 0..MAX_RESOLVERS {
        let known = match real_resolver(cookie, slot) {
            Some(known) => known,
            None if RESOLVERS
                .insert(ResolverKey::new(cookie, slot), address, BPF_NOEXIST.into())
                .is_ok() =>
            {
                return Some(slot);
            }
            // Somebody else took the place at the same moment; or there is no memory.
            None => real_resolver(cookie, slot)?,
        };
        if known.is(address) {
            return Some(slot);
        }
    }
    None
}

/// The real address of a resolver of the pod.
#[inline(always)]
pub fn real_resolver(cookie: u64, slot: u32) -> Option<Address> {
    // SAFETY: entries are never changed, and freed after an RCU grace period, which outlasts the program.
    unsafe { RESOLVERS.get(ResolverKey::new(cookie, slot)) }.copied()
}

/// Where stand-ins are.
#[inline(always)]
pub fn prefixes() -> Option<&'static Prefixes> {
    PREFIXES.get(0)
}

/// The number of an address's stand-ins, a new one if there is none; `None` if all are taken.
#[inline(always)]
pub fn stand_in(address: &Address) -> Option<u32> {
    if let Some(index) = index(address) {
        return Some(index);
    }
    let Ok(Some(new)) = FREE_STAND_INS.pop() else { return None };
    REAL.set(new, address, 0).ok()?;
    if STAND_INS.insert(address, new, BPF_NOEXIST.into()).is_ok() {
        return Some(new);
    }
    // Somebody else met the address at the same moment; or there is no memory.
    if REAL.set(new, Address::NONE, 0).is_ok() {
        let _full_is_filled_up_later = FREE_STAND_INS.push(new, 0);
    }
    index(address)
}

#[inline(always)]
fn index(address: &Address) -> Option<u32> {
    // SAFETY: entries are never changed, and freed after an RCU grace period, which outlasts the program.
    unsafe { STAND_INS.get(address) }.copied()
}

/// The real address of a number.
#[inline(always)]
pub fn real(index: u32) -> Option<Address> {
    REAL.get(index).copied()
}

/// Whether sockets of a network namespace may have stand-ins.
#[inline(always)]
pub fn is_shown(cookie: u64) -> bool {
    SHOWN.get_ptr(cookie).is_some()
}

/// Whether an address belongs to the mesh.
#[inline(always)]
pub fn is_destination(address: &Address) -> bool {
    DESTINATIONS.get_ptr(address).is_some()
        || DESTINATION_CIDRS.get(Key::new(ADDRESS_BITS, *address)).is_some()
}

/// Whether nobody serves a port of a service.
#[inline(always)]
pub fn is_closed(address: &Address, port: u16) -> bool {
    CLOSED_PORTS.get_ptr(AddressPort { address: *address, port: port.into() }).is_some()
}

/// Whether a pod keeps a destination port out of the mesh.
#[inline(always)]
pub fn excludes_port(cookie: u64, port: u16) -> bool {
    EXCLUDED_PORTS.get_ptr(ExcludedPort { cookie, port: port.into(), _pad: 0 }).is_some()
}

/// Whether a pod keeps a destination address out of the mesh.
#[inline(always)]
pub fn excludes_address(cookie: u64, address: &Address) -> bool {
    let key = ExcludedCidrKey::new(cookie, *address);
    EXCLUDED_CIDRS.get(Key::new(COOKIE_BITS + ADDRESS_BITS, key)).is_some()
}

/// Whether the kubelet may probe where a connection goes.
#[inline(always)]
pub fn may_be_probed(flow: &Flow) -> bool {
    let key = AddressPort { address: flow.destination, port: flow.destination_port.into() };
    PROBE_PORTS.get_ptr(key).is_some()
}

/// Remembers a connection of the kubelet.
#[inline(always)]
pub fn remember(flow: &Flow) -> Result<(), i32> {
    PROBE_FLOWS.insert(flow, 1, 0)
}

/// Forgets a connection of the kubelet; it may be evicted already.
#[inline(always)]
pub fn forget(flow: &Flow) {
    let _absent_is_fine = PROBE_FLOWS.remove(flow);
}

/// Whether a connection is the kubelet's.
#[inline(always)]
pub fn is_probe(flow: &Flow) -> bool {
    PROBE_FLOWS.get_ptr(flow).is_some()
}

/// Counts for the node and the pod.
#[inline(always)]
pub fn count(cookie: u64, counter: Counter) {
    // SAFETY: per-CPU values, and programs are not preempted by themselves on one CPU.
    unsafe {
        if let Some(counts) = COUNTS.get_ptr_mut(0) {
            (*counts).0[counter as usize] += 1;
        }
        if let Some(counts) = POD_COUNTS.get_ptr_mut(cookie) {
            (*counts).0[counter as usize] += 1;
        }
    }
}
