//! Keys and values of the maps.

use crate::Address;

/// What a program knows of an enrolled pod; value of `ENROLLED`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Pod {
    /// IPv4 address, or [`Address::NONE`].
    pub ip4: Address,
    /// IPv6 address, or [`Address::NONE`]: also if the pod has one that the agent cannot listen on.
    pub ip6: Address,
    /// `POD_*`.
    pub flags: u32,
    /// Index of the one device that its addresses are on; 0 if there are several.
    pub device: u32,
}

impl Pod {
    /// Whether an address is the pod's own.
    #[inline(always)]
    pub const fn owns(&self, address: &Address) -> bool {
        self.ip4.is(address) || self.ip6.is(address)
    }

    /// Whether the agent listens for the family of an address.
    #[inline(always)]
    pub const fn has_family_of(&self, address: &Address) -> bool {
        let own = if address.is_v4() { &self.ip4 } else { &self.ip6 };
        !own.is(&Address::NONE)
    }
}

/// What the pod's own program knows; value of the pod's `POD`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PodConfig {
    /// The network namespace's cookie.
    pub cookie: u64,
    /// The pod.
    pub pod: Pod,
    /// What an agent that redirected by marks has left in the pod; for user space only. One bit for each setting that
    /// was on before it came, and [`crate::LEFT_BY_MARKS`].
    pub settings: u32,
    /// Zero.
    pub _pad: u32,
}

/// Configuration for all pods of the node; value of `GLOBAL`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Global {
    /// Cgroups whose connections are never captured: the agent's, and its predecessor's while it drains.
    pub agent_cgroups: [u64; 2],
    /// `GLOBAL_*`.
    pub flags: u64,
}

/// Where a connection goes; key of `PROBE_PORTS` and of `CLOSED_PORTS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AddressPort {
    /// Whose it is.
    pub address: Address,
    /// Port in host order.
    pub port: u32,
}

/// A connection by its ends; key of `PROBE_FLOWS`. Ports in host order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Who opened it.
    pub source: Address,
    /// Whom it reached.
    pub destination: Address,
    /// Port of the source.
    pub source_port: u16,
    /// Port of the destination.
    pub destination_port: u16,
}

/// Key of `DESTINATION_CIDRS`, after the prefix length, which counts from the first bit of the mapped form.
pub type CidrKey = Address;

/// Key of `EXCLUDED_PORTS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExcludedPort {
    /// The pod's network namespace.
    pub cookie: u64,
    /// Destination port in host order.
    pub port: u32,
    /// Zero.
    pub _pad: u32,
}

/// Key of `EXCLUDED_CIDRS`, after the prefix length, which is 64 more than that of the mapped form.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExcludedCidrKey {
    /// The pod's network namespace, in two words so that the record needs no alignment of eight.
    pub cookie: [u32; 2],
    /// Destination.
    pub address: Address,
}

impl ExcludedCidrKey {
    /// A key for a pod and address.
    #[inline(always)]
    pub const fn new(cookie: u64, address: Address) -> Self {
        Self { cookie: [cookie as u32, (cookie >> 32) as u32], address }
    }
}

/// Key of `RESOLVERS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ResolverKey {
    /// The pod's network namespace.
    pub cookie: u64,
    /// Which of the pod's resolvers, from 0.
    pub slot: u32,
    /// Zero.
    pub _pad: u32,
}

impl ResolverKey {
    /// A key for a pod and slot.
    #[inline(always)]
    pub const fn new(cookie: u64, slot: u32) -> Self {
        Self { cookie, slot, _pad: 0 }
    }
}

/// What is counted, an index of [`Counts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// connect(2) handed to the agent.
    Captured = 0,
    /// connect(2) let go: the destination is not in the mesh.
    Unknown = 1,
    /// connect(2) let go: the pod's annotations exclude the destination.
    Excluded = 2,
    /// connect(2) refused: the agent does not listen, there is no stand-in, or nobody serves the port.
    Refused = 3,
    /// connect(2) let go although the agent does not listen.
    FailedOpen = 4,
    /// A connection from outside handed to the agent as plaintext.
    Plaintext = 5,
    /// A connection from outside handed to the agent as HBONE.
    Hbone = 6,
    /// A probe of the kubelet let through.
    Probe = 7,
    /// A connection from outside, or a looped one, that no listener of the agent took.
    Dropped = 8,
}

/// How often each [`Counter`] happened.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts(pub [u64; 9]);

impl Counts {
    /// One of them.
    pub const fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }
}

const _: () = assert!(size_of::<Pod>() == 40 && align_of::<Pod>() == 4);
const _: () = assert!(size_of::<PodConfig>() == 56 && align_of::<PodConfig>() == 8);
const _: () = assert!(size_of::<Global>() == 24 && align_of::<Global>() == 8);
const _: () = assert!(size_of::<AddressPort>() == 20 && align_of::<AddressPort>() == 4);
const _: () = assert!(size_of::<Flow>() == 36 && align_of::<Flow>() == 4);
const _: () = assert!(size_of::<ExcludedPort>() == 16 && align_of::<ExcludedPort>() == 8);
const _: () = assert!(size_of::<ExcludedCidrKey>() == 24 && align_of::<ExcludedCidrKey>() == 4);
const _: () = assert!(size_of::<ResolverKey>() == 16 && align_of::<ResolverKey>() == 8);
const _: () = assert!(size_of::<Counts>() == 72 && align_of::<Counts>() == 8);

/// Plain records: any bit pattern is valid, none has padding.
#[cfg(not(target_arch = "bpf"))]
mod plain {
    use super::*;
    use crate::Prefixes;

    macro_rules! plain {
        ($($record:ty),*) => { $(
            // SAFETY: repr(C) of integers only, without padding, as the size assertions above show.
            unsafe impl aya::Pod for $record {}
        )* };
    }
    plain!(Address, Pod, PodConfig, Global, AddressPort, Flow);
    plain!(ExcludedPort, ExcludedCidrKey, ResolverKey, Counts, Prefixes);
}
