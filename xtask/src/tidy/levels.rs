//! Who may import whom in the agent: the one place that says it.

/// A module, and the others it may import. Within itself a module may import anything.
pub(crate) type Row = (&'static str, &'static [&'static str]);

/// A file belongs to the first row that it is in.
pub(crate) const LEVELS: [Row; 20] = [
    ("error", &[]),
    ("sys", &["error"]),
    ("door", &["error", "sys"]),
    ("mesh", &["error", "sys"]),
    ("authorize", &["error", "sys", "mesh"]),
    ("route", &["error", "sys", "mesh"]),
    ("dns", &["error", "sys", "mesh"]),
    ("xds::delta", &["error", "sys", "mesh"]),
    ("enroll", BELOW),
    ("capture", BELOW),
    ("identify", BELOW),
    ("tunnel", BELOW),
    ("xds", BELOW),
    ("observe", &["error", "sys", "mesh", "authorize", "route", "door"]),
    ("control_plane", &["error", "sys", "mesh", "door"]),
    ("connection", STORY),
    ("config", EVERYTHING),
    ("app", EVERYTHING),
    ("lib", &[]),
    ("main", EVERYTHING),
];

/// What the five steps and their feeders stand on. They never import each other.
const BELOW: &[&str] = &["error", "sys", "mesh", "authorize", "route"];

/// What the story of a connection is told with.
const STORY: &[&str] = &[
    "error",
    "sys",
    "mesh",
    "authorize",
    "route",
    "dns",
    "enroll",
    "capture",
    "identify",
    "tunnel",
    "xds",
    "observe",
];

const EVERYTHING: &[&str] = &[
    "error",
    "sys",
    "door",
    "mesh",
    "authorize",
    "route",
    "dns",
    "enroll",
    "capture",
    "identify",
    "tunnel",
    "xds",
    "observe",
    "connection",
    "control_plane",
    "config",
    "app",
];

/// Files that do no IO, read no clock and cannot fail for outside reasons, by the start of their path.
pub(crate) const PURE: [&str; 7] = [
    "agent/src/mesh",
    "agent/src/authorize",
    "agent/src/route",
    "agent/src/dns",
    "agent/src/xds/delta",
    "agent/src/xds/decode",
    "ebpf/abi/src",
];

/// But for these, which wait for changes, and no longer than they are told.
pub(crate) const NOT_PURE: [&str; 1] = ["agent/src/authorize/watch"];

/// What a pure file does not name. `tokio::sync` is memory, not IO.
pub(crate) const IMPURE: [&str; 12] = [
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::Read",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "tokio::net",
    "tokio::fs",
];

/// Crates that only some files may see, by the starts of their paths.
pub(crate) const CRATES: [Row; 6] = [
    ("aya", &["agent/src/capture/bpf"]),
    ("aya_log", &["agent/src/capture/bpf"]),
    ("aya_obj", &["agent/src/capture/bpf"]),
    ("kube", KUBERNETES),
    ("k8s_openapi", KUBERNETES),
    ("sotto_proto", PROTOCOLS),
];

/// Where messages are read and written.
const PROTOCOLS: &[&str] = &[
    "agent/src/xds",
    "agent/src/identify/ca",
    "agent/src/control_plane",
    "agent/src/tunnel",
    "agent/src/connection/moved",
    "agent/src/app/handover",
];

const KUBERNETES: &[&str] =
    &["agent/src/enroll", "agent/src/control_plane/cluster", "agent/src/app"];
