//! The tunnel on loopback, TCP and mutual TLS as in the mesh: against another HTTP/2, against peers
//! that mean harm, and with applications that stop reading.
//!
//! Everything of a test runs on one thread, in a process of its own: what the heap holds is counted.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::large_futures, reason = "a test is one future")]
#![expect(clippy::print_stdout, reason = "the figures behind what is asserted")]

mod across;
mod bytes;
mod clock;
mod ends;
mod frames;
mod hostile;
mod idle;
mod interop;
mod lapse;
mod largest;
mod names;
mod node;
mod openssl;
mod peer;
mod pki;
mod sinks;
mod slow;

#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Runs a test on a `LocalSet`, no longer than `seconds`.
async fn local<F: Future>(seconds: u64, test: F) -> F::Output {
    let patience = std::time::Duration::from_secs(seconds);
    let set = tokio::task::LocalSet::new();
    set.run_until(tokio::time::timeout(patience, test)).await.expect("the test hangs")
}
