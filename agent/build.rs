//! Refuses to embed a prebuilt eBPF object that was built from other sources than those at hand.

use std::path::Path;

mod fingerprint {
    include!("../ebpf/fingerprint.rs");
}

const RECORD: &str = "ebpf/prebuilt/sources.sha256";
const OBJECT: &str = "ebpf/prebuilt/sotto.o";

fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&manifest).parent().expect("the agent is a folder of the work tree");
    for path in fingerprint::FINGERPRINTED.iter().chain(&[RECORD, OBJECT, "ebpf/fingerprint.rs"]) {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rustc-env=SOTTO_EBPF_OBJECT={}", root.join(OBJECT).display());
    let sources = fingerprint::fingerprint(root).expect("the eBPF sources can be read");
    let recorded = std::fs::read_to_string(root.join(RECORD)).unwrap_or_default();
    if recorded.trim() != sources {
        println!(
            "cargo::error={OBJECT} was not built from the sources at hand: run `cargo xtask ebpf`"
        );
    }
}
