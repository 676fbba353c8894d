//! The commands that give one answer: the CNI plugin, its installation, the node's check, eBPF by
//! hand. What they print is their purpose, so they print to standard output.
#![expect(clippy::print_stdout, reason = "these commands answer on standard output")]

use std::process::ExitCode;

use anyhow::Context as _;

use crate::capture::{bpf, check};
use crate::config::{BpfAction, BpfArgs, CheckArgs, CniInstallArgs};
use crate::enroll::install::{self, Node, Wanted};
use crate::enroll::plugin;
use crate::error::chain;
use crate::sys::shutdown;

/// Acts as the CNI plugin.
pub(super) fn cni_plugin() -> ExitCode {
    plugin::main()
}

/// Puts the plugin into the node's CNI configuration, or takes it out.
pub(super) fn cni_install(args: CniInstallArgs, wanted: Wanted) -> ExitCode {
    let watch = args.watch;
    let node = Node { bin_dir: args.bin_dir, conf_dir: args.conf_dir, socket: args.socket };
    let done = if watch {
        keep_installed(&node, wanted)
    } else {
        install::ensure(&node, wanted).map_err(Into::into).map(|changed| {
            println!("{}", if changed { "changed the node's CNI" } else { "nothing to change" });
        })
    };
    super::exit(done)
}

fn keep_installed(node: &Node, wanted: Wanted) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = tokio_util::sync::CancellationToken::new();
        let keep = install::keep(node, wanted, &stop);
        tokio::select! {
            asked = shutdown::requested() => asked.context("failed to listen for signals"),
            () = keep => Ok(()),
        }
    })
}

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
        BpfAction::Unload => match bpf::unload(&args.pin_dir) {
            Ok(()) => {
                println!("removed {}", args.pin_dir.display());
                ExitCode::SUCCESS
            }
            Err(errors) => {
                errors.iter().for_each(|error| eprintln!("sotto: {}", chain(error)));
                ExitCode::FAILURE
            }
        },
    }
}
