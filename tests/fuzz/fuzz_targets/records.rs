#![no_main]

use sotto_fuzz::records::{Ends, records};

thread_local! {
    static ENDS: Ends = Ends::default();
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| ENDS.with(|ends| records(ends, data)));
