#![no_main]

use sotto_fuzz::{drive, headers};

libfuzzer_sys::fuzz_target!(|data: &[u8]| headers::decode(drive::blocks(data)));
