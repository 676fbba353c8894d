//! The BPF system calls that aya does not offer, or not without what the agent has no use for.
#![expect(unsafe_code, reason = "bpf(2) and ioctl(2) have no safe wrapper")]

mod programs;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

pub use programs::{
    Code, Instruction, ProgramInfo, ProgramKind, Refused, Source, create_link, load_program,
    load_types, program_info,
};

/// Commands of bpf(2), from `enum bpf_cmd` in linux/bpf.h.
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_FREEZE: libc::c_long = 22;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// What a link is attached to, of `struct bpf_link_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkTarget {
    /// The program that runs now.
    pub program: u32,
    /// `netns_ino` of a namespace link, `cgroup_id` of a cgroup link; 0 once the target is gone.
    pub target: u64,
}

/// The kind of target of a link: the kernel's record differs in width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// Attached to a network namespace.
    Netns,
    /// Attached to a cgroup.
    Cgroup,
}

/// Opens a pinned map, program or link.
///
/// # Errors
/// Nothing is pinned there, or the caller may not open it.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Pin { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    bpf(BPF_OBJ_GET, &mut attr).map(new_descriptor)
}

/// Pins a map, program or link, which stays as long as the pin.
///
/// # Errors
/// Something is pinned there, or the directory is not on a BPF file system.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Pin { path: path.as_ptr() as u64, fd: object.as_raw_fd(), flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

#[repr(C)]
struct Pin {
    path: u64,
    fd: i32,
    flags: u32,
}

/// Writes the one entry of an object's section of constants, which nobody changes from then on.
///
/// # Errors
/// The map is not an array of one entry of this size, or is written already.
pub fn set_constants(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: i32,
        _pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    #[repr(C)]
    struct Freeze {
        map: i32,
    }
    let (map, key) = (map.as_raw_fd(), 0_u32);
    let (key, value) = ((&raw const key) as u64, value.as_ptr() as u64);
    bpf(BPF_MAP_UPDATE_ELEM, &mut Update { map, _pad: 0, key, value, flags: 0 })?;
    bpf(BPF_MAP_FREEZE, &mut Freeze { map }).map(drop)
}

/// Replaces the program of a live link; no connection sees a moment without a program.
///
/// # Errors
/// The link's target is gone (`ENOLINK`), or the program is of another type.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct LinkUpdate {
        link: i32,
        program: i32,
        flags: u32,
        old_program: u32,
    }
    let mut attr = LinkUpdate {
        link: link.as_raw_fd(),
        program: program.as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link from its target; once this returns, its program no longer starts. Closing or
/// unpinning the last reference does it too, but at some later time.
///
/// # Errors
/// The descriptor is not a link that can be detached.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct LinkDetach {
        link: i32,
    }
    bpf(BPF_LINK_DETACH, &mut LinkDetach { link: link.as_raw_fd() }).map(drop)
}

/// What a link is attached to.
///
/// # Errors
/// The descriptor is not a link.
pub fn link_target(link: BorrowedFd<'_>, kind: LinkKind) -> io::Result<LinkTarget> {
    #[repr(C)]
    struct Info {
        r#type: u32,
        id: u32,
        program: u32,
        _pad: u32,
        /// `{ u32 netns_ino; u32 attach_type }` or `{ u64 cgroup_id; .. }`.
        target: u64,
        _rest: [u64; 13],
    }
    #[repr(C)]
    struct InfoByFd {
        fd: i32,
        len: u32,
        info: u64,
    }
    let mut info = Info { r#type: 0, id: 0, program: 0, _pad: 0, target: 0, _rest: [0; 13] };
    let len = u32::try_from(size_of::<Info>()).map_err(io::Error::other)?;
    let mut attr = InfoByFd { fd: link.as_raw_fd(), len, info: (&raw mut info) as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [a, b, c, d, ..] = info.target.to_ne_bytes();
    let target = match kind {
        LinkKind::Netns => u64::from(u32::from_ne_bytes([a, b, c, d])),
        LinkKind::Cgroup => info.target,
    };
    Ok(LinkTarget { program: info.program, target })
}

/// Makes sure that `directory` exists and lies on a BPF file system, which is mounted at
/// `/sys/fs/bpf` if nothing is there yet.
///
/// # Errors
/// The directory cannot be made, or is not on a BPF file system.
pub fn ensure_pin_directory(directory: &Path) -> io::Result<()> {
    let bpffs = Path::new("/sys/fs/bpf");
    if directory.starts_with(bpffs) && statfs(bpffs)?.filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), Some("mode=0700"))?;
    }
    std::fs::create_dir_all(directory)?;
    if statfs(directory)?.filesystem_type() != BPF_FS_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not on a bpf file system", directory.display()),
        ));
    }
    Ok(())
}

/// The `CLONE_NEW*` flag of a namespace's descriptor.
pub(super) fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: NS_GET_NSTYPE takes no argument and only reads the descriptor.
    // JUSTIFICATION: nix has no wrapper for the nsfs ioctls.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind) }
}

/// The descriptor that a call of bpf(2) made.
fn new_descriptor(fd: i32) -> OwnedFd {
    // SAFETY: called with what the kernel just returned as a new descriptor, which nothing else owns.
    // JUSTIFICATION: nix knows no bpf(2); aya keeps the descriptor private.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a live, initialised prefix of `union bpf_attr` for `command`, its size is given, and the
    // pointers inside refer to values that the callers keep alive over the call.
    // JUSTIFICATION: neither libc nor nix wraps bpf(2).
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        i32::try_from(result).map_err(io::Error::other)
    }
}
