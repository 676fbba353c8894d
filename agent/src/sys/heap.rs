//! The C library's heap, which is the program's: how it grows, and when it gives back.
//!
//! By itself it keeps eight arenas a core, each with what was free at its worst moment, and learns
//! from every large buffer that is freed to keep the next ones too.
#![expect(unsafe_code, reason = "mallopt(3) and malloc_trim(3) have no safe wrappers")]

use std::ffi::c_int;
use std::io;

/// Blocks from this size on, in bytes, are mappings of their own, whose pages go when they are
/// freed. Buffers of half a MiB that come and go with every read stay below.
const MAPPED: c_int = 528 << 10;
/// What an arena keeps at its end, in bytes: more than is allocated and freed again at a time.
const KEPT: c_int = 256 << 10;

/// Bounds what the heap keeps. To be called before there are other threads; `threads` of those to
/// come use the heap all the time, and have arenas of their own if nobody comes before them.
///
/// # Errors
/// The C library refuses a bound.
pub fn bound(threads: usize) -> io::Result<()> {
    let arenas = c_int::try_from(threads.saturating_add(1)).unwrap_or(c_int::MAX);
    let bounds = [
        (libc::M_ARENA_MAX, arenas),
        (libc::M_MMAP_THRESHOLD, MAPPED),
        (libc::M_TRIM_THRESHOLD, KEPT),
    ];
    for (parameter, value) in bounds {
        // SAFETY: mallopt takes no pointers, and refuses what it does not know.
        // JUSTIFICATION: nix does not wrap mallopt(3).
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
    }
    Ok(())
}

/// Gives the kernel the pages on which nothing is allocated. Each arena is locked while it is
/// searched, a few microseconds for each MiB.
pub fn give_back() {
    // SAFETY: malloc_trim takes no pointers, and releases free memory only.
    // JUSTIFICATION: nix does not wrap malloc_trim(3).
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::sync::Barrier;

    use super::*;

    /// Anonymous memory of the process, in kB: proc_pid_status(5).
    fn anonymous() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// 16 MiB in blocks of 1 KiB.
    fn blocks() -> Vec<Vec<u8>> {
        (0..16 << 10).map(|_| vec![1; 1 << 10]).collect()
    }

    #[test]
    fn what_lies_free_between_blocks_in_use_is_given_back() {
        bound(1).unwrap();
        let mut blocks = blocks();
        let mut number = 0;
        // One in 32 stays: their pages are in use, most others are not.
        blocks.retain(|_| {
            number += 1;
            number % 32 == 0
        });
        let before = anonymous();
        give_back();
        let after = anonymous();
        assert!(after + (10 << 10) < before, "{before} kB before, {after} kB after");
        drop(blocks);
    }

    #[test]
    fn threads_share_the_arenas_there_may_be() {
        bound(1).unwrap();
        let all = Barrier::new(8);
        // At the same time: one after the other, they would take over each other's.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let block = vec![1_u8; 1 << 10];
                    all.wait();
                    drop(block);
                });
            }
        });
        assert_eq!(arenas(), 2, "the thread's own, and one for what else there is");
    }

    /// How many there are: malloc_info(3).
    fn arenas() -> usize {
        let (mut text, mut length) = (std::ptr::null_mut(), 0);
        // SAFETY: the stream is closed before its text, which ends with a 0, is read and freed.
        let report = unsafe {
            let stream = libc::open_memstream(&raw mut text, &raw mut length);
            assert!(!stream.is_null());
            assert_eq!(libc::malloc_info(0, stream), 0);
            assert_eq!(libc::fclose(stream), 0);
            let report = CStr::from_ptr(text).to_str().unwrap().to_owned();
            libc::free(text.cast());
            report
        };
        report.matches("<heap nr=").count()
    }
}
