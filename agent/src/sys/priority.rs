//! Which threads go first when there are more of them than cores.
#![expect(unsafe_code, reason = "setpriority(2) has no safe wrapper")]

use std::io;

use nix::errno::Errno;

/// What [`step_back`] adds to a thread's nice value: a third of the weight of the others, so that
/// it is preempted when one of them wakes, and still gets its share of a busy machine.
pub const STEP_BACK: i32 = 5;

/// Lets other threads go before the calling one, for good: setpriority(2) of a thread. Threads that
/// it makes inherit it.
///
/// # Errors
/// The kernel does not allow it.
pub fn step_back() -> io::Result<()> {
    // SAFETY: setpriority takes no pointers; 0 is the calling thread.
    // JUSTIFICATION: nix does not wrap setpriority(2).
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, STEP_BACK) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    /// The calling thread's nice value, the 19th field of proc_pid_stat(5).
    pub(crate) fn nice() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        after_name.split_whitespace().nth(16).unwrap().parse().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::nice;
    use super::*;

    #[test]
    fn a_thread_steps_back_alone() {
        let before = nice();
        let stepped = std::thread::spawn(|| {
            step_back().unwrap();
            nice()
        });
        assert_eq!(stepped.join().unwrap(), STEP_BACK);
        assert_eq!(nice(), before);
    }
}
