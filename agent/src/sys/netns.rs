//! Network namespaces. [`Netns::enter`] is the one place where this program calls `setns`.
//!
//! A namespace is entered by one thread, for one synchronous closure; a drop guard brings the thread
//! back even if the closure panics. As the closure is not a future it cannot span an await.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns, unshare};

use super::host::Host;

/// A network namespace, kept alive for as long as a clone of this exists.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
    inode: u64,
}

/// A network namespace that this does not keep alive.
#[derive(Debug, Clone)]
pub struct WeakNetns {
    file: Weak<File>,
    inode: u64,
}

impl WeakNetns {
    /// The namespace, if anything of this program keeps it alive.
    pub fn upgrade(&self) -> Option<Netns> {
        Some(Netns { file: self.file.upgrade()?, inode: self.inode })
    }
}

thread_local! {
    /// Where this thread is now. Filled at its first [`Netns::enter`], changed only there.
    static HERE: RefCell<Option<Netns>> = const { RefCell::new(None) };
}

impl Netns {
    /// Opens a namespace by a path such as `/run/netns/x` or `/proc/1/ns/net`.
    ///
    /// # Errors
    /// The path cannot be opened, or is not a network namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if super::bpf::namespace_type(file.as_fd())? != libc::CLONE_NEWNET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace"));
        }
        let inode = file.metadata()?.ino();
        Ok(Self { file: Arc::new(file), inode })
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// The process is gone, or may not be inspected.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// Looks for a namespace by its inode, in `/run/netns` and among the processes of `proc` (`/proc`, or where
    /// the host's is mounted).
    ///
    /// # Errors
    /// `proc` cannot be read. A namespace that nobody shows is `None`.
    pub fn find(inode: u64, proc: &Path) -> io::Result<Option<Self>> {
        let mut found = shown(proc)?.filter(|(shown, _)| *shown == inode);
        Ok(found.find_map(|(_, path)| Self::open(&path).ok()))
    }

    /// Every namespace that shows, once, where [`Self::find`] looks.
    ///
    /// # Errors
    /// `proc` cannot be read.
    pub fn all(proc: &Path) -> io::Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for (inode, path) in shown(proc)? {
            if all.iter().all(|known| known.inode != inode) {
                // Files in `/run/netns` that are no namespaces, and processes that end while we look.
                all.extend(Self::open(&path));
            }
        }
        Ok(all)
    }

    /// Makes a new, empty namespace; it ends with the last clone.
    ///
    /// # Errors
    /// No permission, or no thread can be started.
    pub fn create() -> io::Result<Self> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        };
        // The thread that leaves its namespace must not be used for anything else.
        let thread = std::thread::Builder::new().name("new-netns".to_owned()).spawn(make)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Something that finds it again as long as a clone of this lives.
    pub fn downgrade(&self) -> WeakNetns {
        WeakNetns { file: Arc::downgrade(&self.file), inode: self.inode }
    }

    /// The inode that `stat` and `lsns` show; unique among the namespaces alive.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The kernel's cookie for the namespace: never used twice between two boots.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel is older than 5.14.
    pub fn cookie(&self) -> io::Result<u64> {
        self.enter(super::socket::netns_cookie)?
    }

    /// The addresses of all devices in the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or does not tell.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let interfaces = self.enter(getifaddrs)??;
        let addresses = interfaces.filter_map(|interface| interface.address);
        let ip = |address: nix::sys::socket::SockaddrStorage| {
            let ip4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            ip4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        };
        Ok(addresses.filter_map(ip).collect())
    }

    /// Runs `f` on this thread, inside the namespace.
    ///
    /// Calls may nest. `f` sees only the network changed: files and processes are as before.
    ///
    /// # Errors
    /// The namespace cannot be entered (`f` has not run then).
    ///
    /// # Panics
    /// Aborts the process if the thread cannot return: it would serve one pod with another's network.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        let home = match HERE.with_borrow(Clone::clone) {
            Some(here) => here,
            None => Self::current()?,
        };
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        HERE.set(Some(self.clone()));
        let _back = Back(home);
        Ok(f())
    }
}

/// Where namespaces show, each with its inode.
fn shown(proc: &Path) -> io::Result<impl Iterator<Item = (u64, PathBuf)>> {
    let named = Path::new("/run/netns");
    let folders = [named.to_owned(), Host::find().path(named)];
    let named = folders.into_iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let named = named.flatten().flatten().map(|entry| entry.path());
    let of_processes = std::fs::read_dir(proc)?.flatten().map(|entry| entry.path().join("ns/net"));
    let all = named.chain(of_processes);
    Ok(all.filter_map(|path| Some((std::fs::metadata(&path).ok()?.ino(), path))))
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for Netns {}

/// Brings the thread back where it was.
struct Back(Netns);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0.file.as_fd(), CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "failed to return to the thread's own network namespace");
            std::process::abort();
        }
        HERE.set(Some(self.0.clone()));
    }
}
