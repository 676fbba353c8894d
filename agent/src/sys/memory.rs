//! Memory that the start needs and nothing else does: code, and the constants beside it.
//!
//! Most of the program reads manifests, loads eBPF, parses a command line: it runs once. And a fault maps all of the
//! 64 KiB around it that the page cache has (`do_fault_around` in mm/memory.c), so that a function of 200 bytes
//! holds 64 KiB. Both is undone here.
#![expect(unsafe_code, reason = "madvise(2) takes addresses")]

use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};

/// What a fault maps, once [`Files::split`] is done. Smaller pieces need more of the kernel's memory, some 200 bytes
/// each; what is mapped too much is about half a piece a function.
const PIECE: usize = 8 << 10;

/// What of this process is mapped from files and was never written: code and constants.
#[derive(Debug, Clone, Default)]
pub struct Files(Vec<Range<usize>>);

impl Files {
    /// Those mapped now. To be asked for once, before [`Self::split`], which makes the kernel's answer long.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn mapped() -> io::Result<Self> {
        std::fs::read_to_string("/proc/self/smaps").map(|smaps| Self(clean(&smaps)))
    }

    /// From now on a fault maps [`PIECE`] bytes at most: a fault stays within its mapping, and neighbours that differ
    /// in a flag are mappings of their own. The flag is `MADV_DONTDUMP`, which changes nothing here: core(5)
    /// leaves out what files hold. Takes two milliseconds for 20 MiB.
    ///
    /// # Errors
    /// The kernel refuses, or has no room for so many mappings (`vm.max_map_count`): the rest stays as it is.
    pub fn split(&self) -> io::Result<()> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|page| usize::try_from(page).ok());
        let piece = PIECE.max(page.unwrap_or_default());
        for range in &self.0 {
            let mut start = range.start.next_multiple_of(piece);
            while start < range.end {
                advise(start..range.end.min(start + piece), libc::MADV_DONTDUMP)?;
                start += 2 * piece;
            }
        }
        Ok(())
    }

    /// Unmaps their pages: `MADV_DONTNEED`. What is used again is mapped again from the page cache, a minor fault for
    /// each piece, so a long-running process holds what it uses, not what its start used.
    ///
    /// # Errors
    /// The kernel refuses; then nothing is lost but memory.
    pub fn give_back(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|range| advise(range.clone(), libc::MADV_DONTNEED))
    }
}

fn advise(range: Range<usize>, advice: libc::c_int) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the range is a private mapping of a file that is not writable and had no page of its own, so all its
    // pages are clean copies of the file's, and the next access maps the same bytes again.
    // JUSTIFICATION: nix's madvise is unsafe as well.
    let result = unsafe { libc::madvise(start, range.len(), advice) };
    Errno::result(result)?;
    Ok(())
}

/// The mappings in `smaps` (proc_pid_smaps(5)) that hold nothing but what a file does.
fn clean(smaps: &str) -> Vec<Range<usize>> {
    let (mut clean, mut mapping) = (Vec::new(), None);
    for line in smaps.lines() {
        match line.strip_prefix("Anonymous:") {
            Some(size) if size.trim() == "0 kB" => clean.extend(mapping.take()),
            Some(_) => mapping = None,
            None if line.split(' ').next().is_some_and(|first| first.contains('-')) => {
                mapping = of_file(line);
            }
            None => {}
        }
    }
    clean
}

/// The addresses of a mapping, if it is a file's and nobody writes to it.
fn of_file(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (addresses, mode) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if !matches!(mode, "r-xp" | "r--p") || !path.starts_with('/') {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn only_what_files_hold_is_given_back() {
        let check = |mapping: &str, own: u32, expected: Option<Range<usize>>| {
            let smaps = format!(
                "{mapping}\nSize: 8 kB\nRss: 8 kB\nAnonymous:      {own} kB\nVmFlags: rd mr mw me\n"
            );
            assert_eq!(clean(&smaps), Vec::from_iter(expected), "{smaps}");
        };
        let (code, constants) =
            ("r-xp 00001000 fe:00 77   /bin/a", "r--p 00000000 fe:00 77   /bin/a");
        check(&format!("1000-3000 {code}"), 0, Some(0x1000..0x3000));
        check(&format!("1000-3000 {constants}"), 0, Some(0x1000..0x3000));
        // Relocated, or a debugger's breakpoint: it would be lost.
        check(&format!("1000-3000 {code}"), 4, None);
        check(&format!("1000-3000 {constants}"), 8, None);
        check("1000-3000 rw-p 00001000 fe:00 77   /bin/a", 0, None);
        check("1000-3000 r--s 00001000 fe:00 77   /bin/a", 0, None);
        check("1000-3000 r-xp 00000000 00:00 0    [vdso]", 0, None);
        check("1000-3000 r-xp 00000000 00:00 0", 0, None);
    }

    #[test]
    fn the_process_goes_on_after_its_code_was_given_back() {
        let mut files = Files::mapped().unwrap();
        // The own code: other mappings may be other tests'.
        let own = (resident as fn(&Files) -> usize as *const ()).addr();
        files.0.retain(|range| range.contains(&own));
        assert_eq!(files.0.len(), 1);
        // The code that looks is in memory after its first run.
        resident(&files);
        let before = resident(&files);
        files.split().unwrap();
        files.give_back().unwrap();
        let after = resident(&files);
        assert!(after < before, "{before} bytes before, {after} bytes after");
    }

    #[test]
    fn a_fault_maps_no_more_than_a_piece() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 1 << 20]).unwrap();
        // SAFETY: a new mapping where the kernel likes, of a file that nobody else has.
        let start = unsafe {
            let (mode, kind) = (libc::PROT_READ, libc::MAP_PRIVATE);
            libc::mmap(std::ptr::null_mut(), 1 << 20, mode, kind, file.as_raw_fd(), 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        let range = start.addr()..start.addr() + (1 << 20);
        let mapping = Files(vec![range]);
        let after_a_fault = |_| {
            mapping.give_back().unwrap();
            assert_eq!(resident(&mapping), 0);
            // SAFETY: within the mapping, which stays.
            assert_eq!(unsafe { start.cast::<u8>().add(300 << 10).read_volatile() }, 7);
            resident(&mapping)
        };
        // The most of many: a page that is being written at the moment is mapped alone.
        let most = || (0..100).map(after_a_fault).max().unwrap();
        let whole = most();
        assert!(whole > PIECE, "{whole} bytes");
        mapping.split().unwrap();
        let split = most();
        assert!(split <= PIECE, "{split} bytes");
    }

    /// Bytes of the mappings that are in memory.
    fn resident(files: &Files) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut among, mut sum) = (false, 0);
        for line in smaps.lines() {
            if let Some(range) = line.split(' ').next().and_then(|first| first.split_once('-')) {
                let start = usize::from_str_radix(range.0, 16).unwrap();
                among = files.0.iter().any(|range| range.contains(&start));
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| among) {
                sum += size.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024;
            }
        }
        sum
    }
}
