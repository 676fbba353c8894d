//! Names of maps, programs and pins.

/// Hash: network namespace cookie -> [`crate::Pod`].
pub const ENROLLED: &str = "ENROLLED";
/// Array of one: [`crate::Global`].
pub const GLOBAL: &str = "GLOBAL";
/// Sock hash: network namespace cookie -> the agent's outbound listener there.
pub const OUT_LISTENERS: &str = "OUT_LISTENERS";
/// Hash: [`crate::AddressPort`] -> network namespace cookie of the pod that declares it.
pub const PROBE_PORTS: &str = "PROBE_PORTS";
/// LRU hash: [`crate::Flow`] -> 1.
pub const PROBE_FLOWS: &str = "PROBE_FLOWS";
/// Hash: [`crate::Address`] -> 1.
pub const DESTINATIONS: &str = "DESTINATIONS";
/// Hash: [`crate::AddressPort`] of a service that nobody serves -> 1.
pub const CLOSED_PORTS: &str = "CLOSED_PORTS";
/// LPM trie: [`crate::CidrKey`] -> 1.
pub const DESTINATION_CIDRS: &str = "DESTINATION_CIDRS";
/// Hash: [`crate::ExcludedPort`] -> 1.
pub const EXCLUDED_PORTS: &str = "EXCLUDED_PORTS";
/// LPM trie: [`crate::ExcludedCidrKey`] -> 1.
pub const EXCLUDED_CIDRS: &str = "EXCLUDED_CIDRS";
/// Per-CPU array of one: [`crate::Counts`] of the node.
pub const COUNTS: &str = "COUNTS";
/// Per-CPU hash: network namespace cookie -> [`crate::Counts`] of the pod.
pub const POD_COUNTS: &str = "POD_COUNTS";
/// Array of one: [`crate::Prefixes`].
pub const PREFIXES: &str = "PREFIXES";
/// Hash: real [`crate::Address`] -> its number.
pub const STAND_INS: &str = "STAND_INS";
/// Array: number -> real [`crate::Address`].
pub const REAL: &str = "REAL";
/// Queue of numbers that stand for no address.
pub const FREE_STAND_INS: &str = "FREE_STAND_INS";
/// Hash: cookie of a network namespace whose sockets may have stand-ins -> 1.
pub const SHOWN: &str = "SHOWN";
/// Sock hash: network namespace cookie -> the agent's socket there for questions for names.
pub const QUESTIONS: &str = "QUESTIONS";
/// Hash: [`crate::ResolverKey`] -> real [`crate::Address`] of a resolver that the pod has asked.
pub const RESOLVERS: &str = "RESOLVERS";
/// Sock map, one for each pod: [`crate::sock_slot`] -> listener.
pub const SOCKS: &str = "SOCKS";
/// Array of one, one for each pod: [`crate::PodConfig`].
pub const POD: &str = "POD";

/// Maps shared by all pods of the node, pinned by name in [`MAPS_DIRECTORY`].
pub const SHARED_MAPS: [&str; 19] = [
    ENROLLED,
    GLOBAL,
    OUT_LISTENERS,
    PROBE_PORTS,
    PROBE_FLOWS,
    DESTINATIONS,
    DESTINATION_CIDRS,
    CLOSED_PORTS,
    EXCLUDED_PORTS,
    EXCLUDED_CIDRS,
    COUNTS,
    POD_COUNTS,
    PREFIXES,
    STAND_INS,
    REAL,
    FREE_STAND_INS,
    SHOWN,
    QUESTIONS,
    RESOLVERS,
];

/// Program on connect(2) to IPv4, attached to the node's cgroup root.
pub const CONNECT4: &str = "connect4";
/// Program on connect(2) to IPv6, attached to the node's cgroup root.
pub const CONNECT6: &str = "connect6";
/// Program on getpeername(2) and accept(2) of IPv4 sockets, attached to the node's cgroup root.
pub const GETPEERNAME4: &str = "getpeername4";
/// Program on getpeername(2) and accept(2) of IPv6 sockets, attached to the node's cgroup root.
pub const GETPEERNAME6: &str = "getpeername6";
/// Program on datagrams sent to an IPv4 address by sockets without a peer, attached to the node's cgroup root.
pub const SENDMSG4: &str = "sendmsg4";
/// Program on datagrams sent to an IPv6 address by sockets without a peer, attached to the node's cgroup root.
pub const SENDMSG6: &str = "sendmsg6";
/// Program on whom datagrams come from, of IPv4 sockets, attached to the node's cgroup root.
pub const RECVMSG4: &str = "recvmsg4";
/// Program on whom datagrams come from, of IPv6 sockets, attached to the node's cgroup root.
pub const RECVMSG6: &str = "recvmsg6";
/// Program on the lookup of listeners, one for each pod, attached to its network namespace.
pub const STEER: &str = "steer";
/// Program on the kubelet's sockets, attached to its cgroup.
pub const PROBE: &str = "probe";

/// Below the pin directory: shared maps.
pub const MAPS_DIRECTORY: &str = "maps";
/// Below the pin directory: the node's links, named as their programs.
pub const LINKS_DIRECTORY: &str = "links";
/// Below the pin directory: one directory for each pod, named by its UID.
pub const PODS_DIRECTORY: &str = "pods";
/// In a pod's directory: the link of [`STEER`].
pub const POD_LINK: &str = "link";
/// In a pod's directory: its [`SOCKS`], one socket for each role and family.
pub const POD_SOCKS: &str = "sockets";
/// In a pod's directory: its [`POD`].
pub const POD_CONFIG: &str = "pod";
