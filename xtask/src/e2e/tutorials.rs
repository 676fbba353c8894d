//! The tutorials that users of service meshes follow: their own commands, with what their text says beside what is
//! seen.
//!
//! What they start with (httpbin, Bookinfo, sleep) is there, as pods of the suite that answer on the same names and
//! ports. What they do with a gateway, with Kiali or in a sidecar's container is left out: there is none.

mod fixtures;
mod texts;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::objects::{MODE, OURS};
use super::process::{self, Said};
use super::rows::{Row, row};
use super::suite::{Suite, name};
use super::table::Outcome;

pub(super) const ROWS: &[Row] = &[
    row("httpbin", "as the text says", 240, |suite| follow(suite, texts::HTTPBIN)),
    row("sleep-default", "as the text says", 240, |suite| follow(suite, texts::SLEEP)),
    row("bookinfo", "as the text says", 240, |suite| follow(suite, texts::BOOKINFO)),
    row("three-levels", "as the text says", 300, |suite| follow(suite, texts::LEVELS)),
    row("rules", "as the text says", 240, |suite| follow(suite, texts::RULES)),
];

/// A tutorial: where it plays, and what its reader does.
struct Tutorial {
    fixtures: fn(&Suite) -> Vec<Value>,
    steps: &'static [Step],
}

/// A command, as the text has it, and what the text says comes of it.
struct Step {
    text: &'static str,
    /// For a shell that has kubectl.
    command: &'static str,
    expected: Expected,
}

enum Expected {
    /// Exit 0, and this in what it prints; empty: whatever.
    Prints(&'static str),
    /// This exit code, and this in what it prints.
    Exits(i32, &'static str),
}

impl Expected {
    fn fits(&self, said: &Said) -> bool {
        let printed = |words: &str| said.out.contains(words) || said.err.contains(words);
        match self {
            Self::Prints(words) => said.code == 0 && printed(words),
            Self::Exits(code, words) => said.code == *code && printed(words),
        }
    }

    /// What of all that was printed is worth telling: the line that was expected, if there is one.
    fn line_of<'a>(&self, said: &'a Said) -> &'a str {
        let (Self::Prints(words) | Self::Exits(_, words)) = self;
        let mut lines = said.out.lines().chain(said.err.lines());
        lines
            .find(|line| !words.is_empty() && line.contains(words))
            .unwrap_or_else(|| said.last_line())
    }
}

fn follow(suite: &Suite, tutorial: Tutorial) -> Result<Outcome> {
    if let Some(why) = used_by_others(suite)? {
        return Ok(Outcome::NotRun(why));
    }
    let outcome = follow_steps(suite, &tutorial);
    remove(suite)?;
    outcome
}

fn follow_steps(suite: &Suite, tutorial: &Tutorial) -> Result<Outcome> {
    let objects = (tutorial.fixtures)(suite);
    suite.kubectl.apply(&objects)?;
    for pod in objects.iter().filter(|object| object["kind"] == "Pod") {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        suite.ready(namespace, &name(pod))?;
    }
    let mut differ = Vec::new();
    for step in tutorial.steps {
        let said = try_step(suite, step)?;
        let verdict = if step.expected.fits(&said) { "as said" } else { "DIFFERS" };
        eprintln!(
            "$ {}\n  text: {}\n  seen: exit {}: {} ({verdict})",
            step.command,
            step.text,
            said.code,
            step.expected.line_of(&said)
        );
        if verdict == "DIFFERS" {
            differ.push(format!("{}: exit {}: {}", step.text, said.code, said.last_line()));
        }
    }
    let all = tutorial.steps.len();
    if differ.is_empty() {
        return Ok(Outcome::Holds(format!("{all} of {all} commands as the text says")));
    }
    Ok(Outcome::Fails(format!("{} of {all} differ: {}", differ.len(), differ.join("; "))))
}

/// Runs a command until it says what it should: a reader, too, tries again after a moment.
fn try_step(suite: &Suite, step: &Step) -> Result<Said> {
    let end = Instant::now() + Duration::from_secs(25);
    loop {
        let said = shell(suite, step.command)?;
        if step.expected.fits(&said) || Instant::now() > end {
            return Ok(said);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn shell(suite: &Suite, command: &str) -> Result<Said> {
    let script = format!("kubectl() {{ \"$0\" \"$@\"; }}\n{command}\n");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, suite.kubectl.program()]);
    process::run(&mut shell, "", Duration::from_secs(60).min(suite.kubectl.left()))
}

/// Two tutorials play in the namespace `default`. Where others' pods are in it, they are not closed to plaintext for
/// the sake of a tutorial; nor are others' namespaces taken, that have a name of the tutorials'.
fn used_by_others(suite: &Suite) -> Result<Option<String>> {
    let pods = suite.kubectl.list(&format!("pods -n default -l {OURS}!=true"))?;
    if let Some(pod) = pods.first() {
        return Ok(Some(format!("the namespace default has pods of others: {}", name(pod))));
    }
    let others = suite.kubectl.list(&format!("namespaces -l {OURS}!=true"))?;
    let taken = others.iter().map(name).find(|name| fixtures::NAMESPACES.contains(&name.as_str()));
    Ok(taken.map(|name| format!("there is a namespace {name} already")))
}

/// Removes what the tutorials make.
pub(super) fn remove(suite: &Suite) -> Result<()> {
    let policies = "peerauthentications,destinationrules";
    if suite.kubectl.get("crd peerauthentications.security.istio.io")?.is_some() {
        for namespace in ["istio-system", "default"] {
            suite.kubectl.ok(&format!("delete {policies} -n {namespace} -l {OURS}=true"))?;
        }
    }
    let kinds = "pods,services,configmaps";
    suite.kubectl.ok(&format!("delete {kinds} -n default -l {OURS}=true"))?;
    suite.kubectl.ok(&format!("label namespace default {MODE}-"))?;
    for namespace in fixtures::NAMESPACES {
        let found = suite.kubectl.list(&format!(
            "namespaces -l {OURS}=true --field-selector metadata.name={namespace}"
        ))?;
        if !found.is_empty() {
            suite.kubectl.ok(&format!("delete namespace {namespace} --timeout=50s"))?;
        }
    }
    Ok(())
}
