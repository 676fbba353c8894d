//! Compiles the messages with a pure-Rust compiler, so that a fresh machine needs no protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let files =
        ["workload.proto", "authorization.proto", "ca.proto", "ads.proto", "handover.proto"];
    let descriptors = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
