//! Every byte shared between the kernel programs and the agent: map keys and values, ports, names.
//!
//! Layouts are fixed here by assertions; a change of any of them is a new [`PIN_DIRECTORY`],
//! of what each pod has its own of at least a new name: then the program of another version goes on with what it has
//! until it is replaced.
#![no_std]

mod address;
pub mod names;
mod records;
mod stand_in;

pub use address::Address;
pub use records::{
    AddressPort, CidrKey, Counter, Counts, ExcludedCidrKey, ExcludedPort, Flow, Global, Pod,
    PodConfig, ResolverKey,
};
pub use stand_in::{
    CANARY, CANARY_SHOWN, FIRST_RESOLVER, MAX_FREE_STAND_INS, MAX_RESOLVERS, MAX_STAND_IN_PREFIX,
    MAX_STAND_INS, Prefixes, RESERVED_STAND_INS, resolver_slot,
};

/// Where everything is pinned by default; the ABI's version is part of the path.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/sotto/v1";

/// The port of HBONE.
pub const HBONE_PORT: u16 = 15008;
/// The port of DNS.
pub const DNS_PORT: u16 = 53;

/// Role of a listener: plaintext from other pods and the outside.
pub const ROLE_PLAINTEXT: u32 = 0;
/// Role of a listener: what the pod itself opens.
pub const ROLE_OUTBOUND: u32 = 1;
/// Role of a listener: HBONE from other nodes' agents and proxies.
pub const ROLE_HBONE: u32 = 2;
/// Role of a socket: the datagrams by which the pod asks for names. It is bound to [`HBONE_PORT`], and so is what is
/// rewritten to it.
pub const ROLE_QUESTIONS: u32 = 3;
/// Slots of a pod's `SOCKS`: one for each role and family.
pub const SOCK_SLOTS: u32 = 4 * 2;

/// The slot of `SOCKS` for a role and family.
#[inline(always)]
pub const fn sock_slot(role: u32, is_v6: bool) -> u32 {
    role * 2 + is_v6 as u32
}

/// [`Pod::flags`]: connections go direct while the agent is away, instead of being refused.
pub const POD_FAIL_OPEN: u32 = 1;
/// [`Pod::flags`]: the pod has entries in `EXCLUDED_PORTS`.
pub const POD_EXCLUDES_PORTS: u32 = 2;
/// [`Pod::flags`]: the pod has entries in `EXCLUDED_CIDRS`.
pub const POD_EXCLUDES_CIDRS: u32 = 4;

/// [`Pod::flags`]: stand-ins are local in the pod. Without it, connections that are ours to carry are refused.
pub const POD_STAND_INS: u32 = 8;

/// [`Pod::flags`]: what the pod asks of resolvers is the agent's to answer, as long as it is there. While it is away,
/// resolvers are asked as without it, whatever [`POD_FAIL_OPEN`] says.
pub const POD_NAMES: u32 = 16;

/// [`PodConfig::settings`]: there is something left of it.
pub const LEFT_BY_MARKS: u32 = 1 << 31;

/// [`Global::flags`]: `DESTINATIONS` and `DESTINATION_CIDRS` are complete.
pub const GLOBAL_SYNCED: u64 = 1;
/// [`Global::flags`]: destinations outside the mesh are captured too, by choice or because a map is full.
pub const GLOBAL_CAPTURE_UNKNOWN: u64 = 2;

/// Entries of the maps that hold one per pod.
pub const MAX_PODS: u32 = 4096;
/// Entries of `DESTINATIONS`: addresses of workloads and services.
pub const MAX_DESTINATIONS: u32 = 262_144;
/// Entries of `DESTINATION_CIDRS`.
pub const MAX_DESTINATION_CIDRS: u32 = 16_384;
/// Entries of `CLOSED_PORTS`.
pub const MAX_CLOSED_PORTS: u32 = 65_536;
/// Entries of `EXCLUDED_PORTS` and of `EXCLUDED_CIDRS`, over all pods.
pub const MAX_EXCLUSIONS: u32 = 16_384;
/// Entries of `PROBE_PORTS`, over all pods.
pub const MAX_PROBE_PORTS: u32 = 16_384;
/// Entries of `PROBE_FLOWS`: connections of the kubelet at one time.
pub const MAX_PROBE_FLOWS: u32 = 4096;
