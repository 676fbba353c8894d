//! The commands that give one answer: the node's check, eBPF by hand. What they print is their
//! purpose, so they print to standard output.
#![expect(clippy::print_stdout, reason = "these commands answer on standard output")]

use std::path::Path;
use std::process::ExitCode;

use crate::capture::bpf;
use crate::capture::check::{self, Finding, Verdict};
use crate::config::{BpfAction, BpfArgs, CheckArgs, DEFAULT_PIN_DIR};
use crate::enroll::install::layout::{self, Layout, LayoutError};
use crate::enroll::install::rival;
use crate::error::chain;
use crate::sys::{Host, Netns};

/// Tells what this node can do for the agent.
pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let kubelet = args.kubelet_cgroup.clone();
    let host = Host::find();
    let proc = args.proc.clone().unwrap_or_else(|| host.proc());
    let mut report = check::check(args.cgroup_root.as_deref(), &proc, kubelet);
    let found = layout::find(&host);
    report.0.extend([network(&found), rival(&host, &found), captured()]);
    if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => return super::exit(Err(error.into())),
        }
    } else {
        print!("{report}");
    }
    if report.is_usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where the CNI plugin goes.
fn network(found: &Result<Layout, LayoutError>) -> Finding {
    let (detail, verdict) = match found {
        Ok(found) => (found.to_string(), Verdict::Good),
        Err(LayoutError::NoFiles) => {
            let detail = "this container does not have the node's files; the one called cni has";
            (detail.to_owned(), Verdict::Unseen)
        }
        Err(error) => (chain(error), Verdict::Limited),
    };
    Finding { subject: "cni", detail, verdict }
}

/// Whether Istio's own node agent takes this node's pods.
fn rival(host: &Host, found: &Result<Layout, LayoutError>) -> Finding {
    let unseen = |detail: &str| (detail.to_owned(), Verdict::Unseen);
    let (detail, verdict) = match found.as_ref().map(|found| &found.conf_dir) {
        Err(_) => unseen("where the network's configuration is, is not known"),
        Ok(dir) => match rival::ambient(&host.path(dir)) {
            Ok(None) => ("none".to_owned(), Verdict::Good),
            Ok(Some(path)) => {
                let path = path.display();
                let detail = format!(
                    "istio-cni takes pods into Istio's ambient mesh ({path}): keep its DaemonSet and ztunnel's off \
                     this node, or the agent (deploy/MIGRATION.md)"
                );
                (detail, Verdict::Missing)
            }
            Err(error) => unseen(&chain(&error)),
        },
    };
    Finding { subject: "other mesh", detail, verdict }
}

/// Whether an agent is at work here.
fn captured() -> Finding {
    let pins = Path::new(DEFAULT_PIN_DIR);
    let (detail, verdict) = match bpf::captured_pods(pins) {
        Ok(_) if !pins.exists() => ("none has run here".to_owned(), Verdict::Good),
        Ok(pods) => (format!("has captured {} pods of this node", pods.len()), Verdict::Good),
        Err(error) => (chain(&error), Verdict::Unseen),
    };
    Finding { subject: "agent", detail, verdict }
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
