//! The commands that give one answer: the node's check, eBPF by hand. What they print is their
//! purpose, so they print to standard output.
#![expect(clippy::print_stdout, reason = "these commands answer on standard output")]

use std::path::Path;
use std::process::ExitCode;

use crate::capture::{bpf, check};
use crate::config::{BpfAction, BpfArgs, CheckArgs};
use crate::error::chain;
use crate::sys::Netns;

/// Tells what this node can do for the agent.
pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let kubelet = args.kubelet_cgroup.clone();
    let report = check::check(args.cgroup_root.as_deref(), &args.proc, kubelet);
    print!("{report}");
    if report.is_usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Loads or removes the programs by hand.
pub(super) fn bpf(args: &BpfArgs) -> ExitCode {
    match args.action {
        BpfAction::Load => {
            let loaded = bpf::load(&args.pin_dir, args.cgroup_root.as_deref());
            super::exit(loaded.map(|loaded| print!("{loaded}")).map_err(Into::into))
        }
        BpfAction::Unload => unload(args),
    }
}

fn unload(args: &BpfArgs) -> ExitCode {
    let node = match Netns::open(Path::new("/proc/1/ns/net")) {
        Ok(node) => node,
        Err(error) => {
            eprintln!("sotto: failed to find the node's network namespace: {error}");
            return ExitCode::FAILURE;
        }
    };
    match bpf::unload(&args.pin_dir, &node) {
        Ok(()) => {
            println!("removed {}", args.pin_dir.display());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("sotto: {}", chain(error)));
            ExitCode::FAILURE
        }
    }
}
