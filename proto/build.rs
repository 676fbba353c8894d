//! Compiles the messages with a pure-Rust compiler, so that a fresh machine needs no protoc.

use std::error::Error;

/// What is handed on as it is.
const SHARED: &str = ".envoy.service.discovery.v3.DeltaDiscoveryResponse.resources";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let files =
        ["workload.proto", "authorization.proto", "ca.proto", "ads.proto", "handover.proto"];
    let descriptors = protox::compile(files, ["protos"])?;
    let configured = tonic_prost_build::configure().bytes(SHARED);
    configured.compile_fds(descriptors)?;
    Ok(())
}
