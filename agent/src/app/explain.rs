//! `sotto explain`: what policy says of one pod calling another, and why.
#![expect(clippy::print_stdout, reason = "this command answers on standard output")]

pub(super) mod answer;

use std::fmt::{self, Write as _};
use std::process::ExitCode;

use super::{EXIT_DENIED, ask};
use crate::config::ExplainArgs;
use answer::{Answer, Judgement, Peer, Step};

/// Asks the agent and prints its report.
pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    let report = ask::block_on(ask::get::<Answer>(&args.admin, &query(args)));
    let printed = report.and_then(|report| {
        let text =
            if args.json { serde_json::to_string_pretty(&report)? } else { report.to_string() };
        Ok((text, report.is_allowed()))
    });
    match printed {
        Ok((text, allowed)) => {
            println!("{}", text.trim_end());
            if allowed { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DENIED) }
        }
        Err(error) => super::exit(Err(error)),
    }
}

fn query(args: &ExplainArgs) -> String {
    let (to, port) = match args.to.rsplit_once(':') {
        Some((to, port)) => (to, format!("&port={port}")),
        None => (args.to.as_str(), String::new()),
    };
    format!("/explain?source={}&destination={to}{port}", args.from)
}

impl Answer {
    /// Whether everything that comes as things are now is let in.
    fn is_allowed(&self) -> bool {
        self.judgements.iter().filter(|judgement| judgement.now).all(|judged| judged.allowed)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "from   {}", self.source)?;
        writeln!(f, "to     {}", self.destination)?;
        write!(f, "asked  the agent of {}", self.node)?;
        if self.destination.enrolled && self.node != self.destination.node {
            write!(f, "; the agent of {} is the one that decides", self.destination.node)?;
        }
        writeln!(f)?;
        self.judgements.iter().try_for_each(|judgement| write!(f, "\n{judgement}"))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ip, enrolled, node, .. } = self;
        f.write_str(name)?;
        if *name != ip.to_string() {
            write!(f, " ({ip})")?;
        }
        f.write_str(if *enrolled { ", enrolled" } else { ", not enrolled" })?;
        if node.is_empty() { Ok(()) } else { write!(f, ", on {node}") }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "ALLOWED" } else { "DENIED" };
        let how = if self.now { "as it comes now" } else { "were the source enrolled" };
        writeln!(f, "{verdict}  port {}, {}, {how}", self.port, self.way)?;
        write!(f, "  {}", self.reason)?;
        writeln!(f, "{}", Rule(self.rule))?;
        if self.considered.is_empty() {
            return writeln!(f, "  no policy governs the destination");
        }
        self.considered.iter().try_for_each(|step| step.fmt(f))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action.as_deref().unwrap_or("?");
        let mut line = format!("    {action:<5} {} ({} scope", self.policy, self.scope);
        line.push_str(if self.dry_run { ", dry run)" } else { ")" });
        if self.matched {
            write!(line, ": matches{}", Rule(self.rule))?;
        } else {
            write!(line, ": does not match: {}", self.why.join("; "))?;
        }
        writeln!(f, "{line}")
    }
}

/// A rule, if it is known.
struct Rule(Option<usize>);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |rule| write!(f, ", rule {rule}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(from: &str, to: &str) -> ExplainArgs {
        let (from, to) = (from.to_owned(), to.to_owned());
        ExplainArgs { from, to, admin: String::new(), json: false }
    }

    #[test]
    fn the_port_may_be_left_out() {
        let check = |to: &str, rest: &str| {
            assert_eq!(query(&args("a/b", to)), format!("/explain?source=a/b&destination={rest}"));
        };
        check("c/d", "c/d");
        check("c/d:80", "c/d&port=80");
    }

    #[test]
    fn a_report_reads_like_an_answer() {
        let peer = |name: &str, ip: &str, enrolled| Peer {
            name: name.into(),
            ip: ip.parse().unwrap(),
            identity: None,
            enrolled,
            node: "node2".into(),
        };
        let strict = String::from("istio-system/istio_converted_static_strict");
        let report = Answer {
            node: "node1".into(),
            source: peer("legacy/sleep-1", "10.0.0.4", false),
            destination: peer("bookinfo/details-1", "10.0.0.2", true),
            judgements: vec![Judgement {
                port: 9080,
                way: "plaintext".into(),
                now: true,
                allowed: false,
                reason: format!("explicitly denied by: {strict}"),
                policy: Some(strict.clone()),
                rule: Some(0),
                considered: vec![Step {
                    policy: strict,
                    scope: "workload".into(),
                    action: Some("DENY".into()),
                    dry_run: false,
                    matched: true,
                    rule: Some(0),
                    why: vec![],
                }],
            }],
        };
        let expected = concat!(
            "from   legacy/sleep-1 (10.0.0.4), not enrolled, on node2\n",
            "to     bookinfo/details-1 (10.0.0.2), enrolled, on node2\n",
            "asked  the agent of node1; the agent of node2 is the one that decides\n",
            "\n",
            "DENIED  port 9080, plaintext, as it comes now\n",
            "  explicitly denied by: istio-system/istio_converted_static_strict, rule 0\n",
            "    DENY  istio-system/istio_converted_static_strict (workload scope): ",
            "matches, rule 0\n",
        );
        assert_eq!(report.to_string(), expected);
        assert!(!report.is_allowed());
    }
}
