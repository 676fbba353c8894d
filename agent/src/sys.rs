//! What the kernel gives us: namespaces, sockets, lists of them, cgroups, crowds, netlink, BPF links, capabilities,
//! descriptors, heap, memory, priorities, files, where the node's are, shutdown; and patience.
//!
//! The only module with `unsafe`, and the bottom of the import order: it knows nothing of pods or meshes.

pub mod backoff;
pub mod bpf;
pub mod cgroup;
pub mod crowd;
pub mod descriptors;
pub mod doorstep;
pub mod file;
pub mod files;
pub mod heap;
pub mod host;
pub mod memory;
pub mod netlink;
pub mod netns;
pub mod passing;
pub mod priority;
pub mod privileges;
pub mod shutdown;
pub mod sock_diag;
pub mod socket;
pub mod sysctl;

pub use host::Host;
pub use netns::Netns;
pub use shutdown::Shutdown;
