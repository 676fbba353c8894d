//! Capabilities: the agent starts as root and keeps only what it needs.
#![expect(unsafe_code, reason = "capset(2) and prctl(2) have no safe wrapper")]

use std::io;

/// A capability, by its number in linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// Read any file: token files, namespaces of other users' processes.
    DacReadSearch = 2,
    /// A client's own port may be one of the first 1024.
    NetBindService = 10,
    /// Routes, attaching programs to namespaces.
    NetAdmin = 12,
    /// Find a pod's namespace through `/proc/<pid>/ns/net`.
    SysPtrace = 19,
    /// `setns`, and BPF on kernels that tie it to this.
    SysAdmin = 21,
    /// Load type information and verified programs.
    Perfmon = 38,
    /// Load programs, make maps.
    Bpf = 39,
}

/// What the agent keeps.
pub const AGENT: &[Capability] = &[
    Capability::DacReadSearch,
    Capability::NetBindService,
    Capability::NetAdmin,
    Capability::SysPtrace,
    Capability::SysAdmin,
    Capability::Perfmon,
    Capability::Bpf,
];

/// The highest capability number asked for in the bounding set (`CAP_LAST_CAP` is 40 in Linux 6).
const LAST: u32 = 63;
/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

/// Whether the process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Gives up, for good, every capability but `keep`. Those in `keep` that the process never had stay missing.
///
/// Capabilities belong to threads: call it before any other thread starts.
///
/// # Errors
/// The kernel refuses; nothing may have been dropped then.
pub fn drop_all_but(keep: &[Capability]) -> io::Result<()> {
    let wanted = keep.iter().fold(0_u64, |mask, capability| mask | 1 << (*capability as u32));
    let [effective, permitted, _] = capabilities()?;
    for number in (0..=LAST).filter(|number| wanted & (1 << number) == 0) {
        drop_from_bounding_set(number)?;
    }
    set_capabilities([effective & wanted, permitted & wanted, 0])?;
    set_no_new_privileges()
}

/// Keeps the process's memory, and the keys in it, from dumps of any kind: no core file is written (limit and flag), and
/// other processes of the same user can neither attach nor read `/proc/<pid>/mem`, unless they may trace any
/// (`PR_SET_DUMPABLE`). Its own `/proc/self` stays as open to itself as before: a process may always look at itself
/// (`__ptrace_may_access` in kernel/ptrace.c).
///
/// # Errors
/// The kernel refuses.
pub fn conceal() -> io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // SAFETY: PR_SET_DUMPABLE takes numbers and touches no memory of ours.
    // JUSTIFICATION: nix's wrapper is not in its enabled features.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())
}

/// Whether the calling thread has a capability.
///
/// # Errors
/// The kernel does not tell.
pub fn has(capability: Capability) -> io::Result<bool> {
    let [effective, ..] = capabilities()?;
    Ok(effective & (1 << (capability as u32)) != 0)
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Effective, permitted and inheritable set of the calling thread.
fn capabilities() -> io::Result<[u64; 3]> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [[0_u32; 3]; 2];
    // SAFETY: both pointers are to live values of the layout that version 3 asks for (two records of three words).
    // JUSTIFICATION: nix and libc do not wrap capget(2).
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check(result)?;
    let [low, high] = data;
    let mut sets = [0; 3];
    for (set, (low, high)) in sets.iter_mut().zip(low.into_iter().zip(high)) {
        *set = u64::from(low) | u64::from(high) << 32;
    }
    Ok(sets)
}

fn set_capabilities(sets: [u64; 3]) -> io::Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "the set is split into its two words")]
    let data = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: as in `capabilities`; the kernel only reads `data`.
    // JUSTIFICATION: nix and libc do not wrap capset(2).
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })
}

fn drop_from_bounding_set(number: u32) -> io::Result<()> {
    // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory of ours.
    // JUSTIFICATION: nix does not wrap this prctl.
    let result =
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
    match check(result.into()) {
        // A number that this kernel does not know.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers and touches no memory of ours.
    // JUSTIFICATION: nix's wrapper is not in its enabled features.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Netns;
    use crate::sys::memory::Files;

    #[test]
    fn a_concealed_process_leaves_no_core_and_still_sees_itself() {
        conceal().unwrap();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        // SAFETY: PR_GET_DUMPABLE takes numbers and touches no memory of ours.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 0);
        // What the agent reads of itself: its namespace, its mappings, its cgroup, its mounts, its threads' names.
        Netns::current().unwrap();
        Files::mapped().unwrap();
        for file in ["cgroup", "mountinfo", "status", "ns/net", "ns/pid", "task"] {
            std::fs::metadata(format!("/proc/self/{file}")).unwrap();
        }
        let thread =
            std::thread::spawn(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap());
        thread.join().unwrap();
    }
}
