//! How many descriptors this process may have open, and has: two for most connections of the node's pods.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is asked for: the kernel's own default limit (`fs.nr_open`).
const WANTED: u64 = 1 << 20;

/// Raises the limit as far as the kernel lets us. Container runtimes start processes with as few as 1024, for the
/// sake of programs that use select(2).
///
/// # Errors
/// The kernel does not tell the limit.
pub fn raise_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = hard.max(WANTED);
    if setrlimit(Resource::RLIMIT_NOFILE, most, most).is_err() {
        // Beyond the hard limit only who may administrate resources goes.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// The limit.
///
/// # Errors
/// The kernel does not tell.
pub fn limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// How many are open.
///
/// # Errors
/// There is no /proc.
pub fn open() -> io::Result<u64> {
    const OWN: &str = "/proc/self/fd";
    // Since Linux 6.2 the directory's size tells it: there may be a million.
    match std::fs::metadata(OWN)?.len() {
        0 => Ok(std::fs::read_dir(OWN)?.count() as u64),
        open => Ok(open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_counted() {
        // Other tests of this process open and close some, too.
        let before = open().unwrap();
        let files: Vec<_> = (0..500).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let after = open().unwrap();
        assert!(after > before + 300, "{before} and {after}");
        drop(files);
    }

    #[test]
    fn the_limit_is_raised_to_the_hard_one_at_least() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(1024), hard).unwrap();
        raise_limit().unwrap();
        assert!(limit().unwrap() >= hard);
    }
}
