//! `sotto status` and `sotto certs`: how the mesh is, what is wrong, and what to do.
#![expect(clippy::print_stdout, reason = "these commands answer on standard output")]

pub(super) mod answer;
#[cfg(test)]
mod tests;
mod wrong;

use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::table::Table;
use super::{EXIT_DENIED, ask};
use crate::config::AskArgs;
use answer::{Answer, Certificate};
use wrong::Wrong;

/// Asks all agents and prints how they are.
pub(super) fn run(args: &AskArgs) -> ExitCode {
    tell(args, |answers| {
        let asked_for_all = args.admin.len() > 1;
        let report = Report::new(answers, asked_for_all)?;
        let is_well = report.wrong.is_empty();
        Ok((
            if args.json { serde_json::to_string_pretty(&report)? } else { report.to_string() },
            is_well,
        ))
    })
}

/// Asks all agents and prints their certificates.
pub(super) fn certs(args: &AskArgs) -> ExitCode {
    tell(args, |answers| {
        let certs = Certificates::new(answers);
        let is_well = certs.certificates.iter().all(|of| of.certificate.usable);
        Ok((
            if args.json { serde_json::to_string_pretty(&certs)? } else { certs.to_string() },
            is_well,
        ))
    })
}

fn tell(
    args: &AskArgs,
    report: impl FnOnce(Vec<Answer>) -> anyhow::Result<(String, bool)>,
) -> ExitCode {
    let asked = ask::block_on(ask::each(&args.admin, async |admin| {
        ask::get::<Answer>(admin, "/status").await
    }));
    match asked.and_then(report) {
        Ok((text, is_well)) => {
            println!("{}", text.trim_end());
            if is_well { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DENIED) }
        }
        Err(error) => super::exit(Err(error)),
    }
}

/// An agent that was asked twice counts once; nodes are in order.
fn distinct(mut answers: Vec<Answer>) -> Vec<Answer> {
    answers.sort_by(|a, b| a.node.cmp(&b.node));
    answers.dedup_by(|a, b| a.node == b.node);
    answers
}

/// What all agents told, together.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    nodes: Vec<Answer>,
    wrong: Vec<Wrong>,
    /// Nodes with enrolled pods whose agents were not asked.
    not_asked: BTreeSet<String>,
}

impl Report {
    /// Puts answers together.
    ///
    /// # Errors
    /// All of the mesh is asked for, and a node with enrolled pods was left out.
    fn new(answers: Vec<Answer>, asked_for_all: bool) -> anyhow::Result<Self> {
        let nodes = distinct(answers);
        let asked: BTreeSet<_> = nodes.iter().map(|answer| answer.node.clone()).collect();
        let needed = || nodes.iter().flat_map(|answer| answer.enrolled.keys());
        if asked_for_all {
            ask::ensure_all(&asked, needed())?;
        }
        let not_asked = needed().filter(|node| !asked.contains(*node)).cloned().collect();
        Ok(Self { wrong: wrong::wrong(&nodes), nodes, not_asked })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["NODE", "VERSION", "READY", "CAPTURED", "OPEN", "CERTIFICATES", "CONTROL PLANE"];
        write!(f, "{}", Table::new(head).with(self.nodes.iter().map(row)))?;
        let alone: Vec<_> = self
            .nodes
            .iter()
            .flat_map(|answer| {
                let pods = answer.left_alone.iter();
                pods.map(|(pod, why)| [pod.clone(), answer.node.clone(), why.clone()])
            })
            .collect();
        if !alone.is_empty() {
            writeln!(f, "\nAsked for and never captured; reached in the clear:")?;
            write!(f, "{}", Table::new(["POD", "NODE", "WHY"]).with(alone))?;
        }
        if !self.not_asked.is_empty() {
            let nodes: Vec<_> = self.not_asked.iter().map(String::as_str).collect();
            writeln!(f, "\nNot asked, though enrolled pods run there: {}", nodes.join(", "))?;
        }
        match self.wrong.len() {
            0 => writeln!(f, "\nAll is well."),
            1 => writeln!(f, "\n1 thing is wrong:"),
            many => writeln!(f, "\n{many} things are wrong:"),
        }?;
        self.wrong.iter().try_for_each(|wrong| wrong.fmt(f))
    }
}

fn row(answer: &Answer) -> [String; 7] {
    let captured = answer.pods.iter().filter(|pod| pod.state == "captured").count();
    let open: usize = answer.pods.iter().map(|pod| pod.inbound + pod.outbound).sum();
    let usable = answer.certificates.iter().filter(|one| one.usable).count();
    let first = answer.certificates.iter().filter_map(|one| one.not_after).min();
    let first = first.map(|at| format!(", next expires {}", until(at, answer.now)));
    let control_plane = &answer.control_plane;
    let answered = control_plane.last_answer.map_or_else(
        || String::from("has never answered"),
        |at| format!("answered {} ago", lasting(answer.now.saturating_sub(at))),
    );
    let connected = if control_plane.connected { "connected" } else { "AWAY" };
    [
        answer.node.clone(),
        answer.version.clone(),
        if answer.pending.is_empty() { "yes" } else { "NO" }.to_owned(),
        format!("{captured} of {}", answer.pods.len()),
        open.to_string(),
        format!("{usable} of {}{}", answer.certificates.len(), first.unwrap_or_default()),
        format!("{connected}, {answered}"),
    ]
}

/// When it is, seen from `now`.
fn until(at: u64, now: u64) -> String {
    match at.checked_sub(now) {
        Some(left) if left > 0 => format!("in {}", lasting(left)),
        _ => format!("EXPIRED {} ago", lasting(now - at)),
    }
}

/// A span of time, by its two largest units.
fn lasting(seconds: u64) -> String {
    let coarse = match seconds {
        0..3600 => seconds,
        3600..86400 => seconds - seconds % 60,
        _ => seconds - seconds % 3600,
    };
    humantime::format_duration(Duration::from_secs(coarse)).to_string()
}

/// The certificates of all nodes.
#[derive(Debug, Serialize)]
struct Certificates {
    certificates: Vec<OfNode>,
}

/// A certificate, and where it is used.
#[derive(Debug, Serialize)]
struct OfNode {
    node: String,
    #[serde(flatten)]
    certificate: Certificate,
    #[serde(skip)]
    now: u64,
}

impl Certificates {
    fn new(answers: Vec<Answer>) -> Self {
        let of_node = |answer: Answer| {
            let (node, now) = (answer.node, answer.now);
            let all = answer.certificates.into_iter();
            all.map(move |certificate| OfNode { node: node.clone(), certificate, now })
        };
        Self { certificates: distinct(answers).into_iter().flat_map(of_node).collect() }
    }
}

impl fmt::Display for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["NODE", "IDENTITY", "STATE", "EXPIRES", "SERIAL NUMBER"];
        let rows = self.certificates.iter().map(|of| {
            let Certificate { identity, trouble, not_after, serial_number, .. } = &of.certificate;
            let state =
                trouble.as_ref().map_or_else(|| "usable".to_owned(), |why| format!("NONE: {why}"));
            let expires = not_after.map_or_else(String::new, |at| until(at, of.now));
            let serial = serial_number.clone().unwrap_or_default();
            [of.node.clone(), identity.clone(), state, expires, serial]
        });
        write!(f, "{}", Table::new(head).with(rows))
    }
}
