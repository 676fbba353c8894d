//! Giving back memory that the start-up needed and nothing else does.
#![expect(unsafe_code, reason = "madvise(2) takes addresses")]

use std::io;
use std::ops::Range;

use nix::errno::Errno;

/// Unmaps the pages of code that are in memory: madvise(2), `MADV_DONTNEED`. What runs again is
/// mapped again from the page cache, a minor fault for each 64 KiB, so a long-running process holds
/// what it uses, not what its start used: most of a program that reads manifests, loads eBPF and
/// parses a command line.
///
/// # Errors
/// `/proc` is not mounted, or the kernel refuses; then nothing is lost but memory.
pub fn give_back_code() -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for range in maps.lines().filter_map(code) {
        let start = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: the range is a private mapping of a file that was never writable, so all its
        // pages are clean copies of the file's, and the next access maps the same bytes again.
        // JUSTIFICATION: nix's madvise is unsafe as well.
        let result = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
        Errno::result(result)?;
    }
    Ok(())
}

/// The addresses of a line of `maps` (proc_pid_maps(5)), if it is code of a file.
fn code(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (addresses, mode) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if mode != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_given_back() {
        let check = |line, expected| assert_eq!(code(line), expected, "{line}");
        check("1000-3000 r-xp 00001000 fe:00 77   /usr/bin/sotto", Some(0x1000..0x3000));
        check("1000-3000 r--p 00001000 fe:00 77   /usr/bin/sotto", None);
        check("1000-3000 rwxp 00001000 fe:00 77   /usr/bin/sotto", None);
        check("1000-3000 r-xp 00000000 00:00 0    [vdso]", None);
        check("1000-3000 r-xp 00000000 00:00 0", None);
        check("", None);
    }

    #[test]
    fn the_process_goes_on_after_its_code_was_given_back() {
        // Code alone: what is read meanwhile is mapped too.
        let mapped = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let (mut is_code, mut sum) = (false, 0);
            for line in smaps.lines() {
                match line.strip_prefix("Rss:") {
                    Some(size) if is_code => sum += kilobytes(size),
                    Some(_) => {}
                    None if line.contains('-') => is_code = code(line).is_some(),
                    None => {}
                }
            }
            sum
        };
        // The code that looks is in memory after its first run.
        mapped();
        let before = mapped();
        give_back_code().unwrap();
        let after = mapped();
        assert!(after < before, "{before} kB before, {after} kB after");
    }

    fn kilobytes(size: &str) -> u64 {
        size.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
