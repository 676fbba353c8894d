//! `cargo xtask test`: what the tests need, the binaries they start, then nextest.

use anyhow::{Context, Result};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::{needs, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Levels to run (unit, direct, bpf, netns; none: all), then parts of test names.
    words: Vec<String>,
    /// Passed on to nextest.
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// What a test needs to run, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Pure code and parsers.
    Unit,
    /// Tunnels on loopback, TCP and TLS as in the mesh.
    Direct,
    /// Programs loaded and attached in throw-away cgroups and namespaces.
    Bpf,
    /// The pocket cluster.
    Netns,
}

impl Level {
    /// The nextest filter that selects this level. Each test is of exactly one.
    const fn filter(self) -> &'static str {
        match self {
            Self::Unit => "not kind(test) or (package(sotto-tests) and binary(deploy))",
            Self::Direct => "kind(test) and binary(/^direct/)",
            Self::Bpf => "kind(test) and binary(/^bpf/)",
            Self::Netns => "kind(test) and not binary(/^(deploy$|direct|bpf)/)",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    shell::require_root("the test suite")?;
    let sh = shell::at_root()?;
    needs::for_tests(&sh)?;
    run_with(&sh, args, "default")
}

/// All tests, with the nextest profile of that name.
pub(crate) fn all(sh: &Shell, profile: &str) -> Result<()> {
    shell::require_root("the test suite")?;
    run_with(sh, &Args { words: Vec::new(), nextest: Vec::new() }, profile)
}

/// The tests that passed at the second try only, in the last run with that nextest profile.
pub(crate) fn second_tries(sh: &Shell, profile: &str) -> Result<Vec<String>> {
    let path = shell::built("nextest")?.join(profile).join("junit.xml");
    let report = sh.read_file(&path).context("nextest left no report")?;
    Ok(flaky(&report))
}

/// Of a report in JUnit's format as nextest writes it: a case holds a `flakyFailure` for each try that failed.
fn flaky(report: &str) -> Vec<String> {
    let cases = report.split("<testcase ").skip(1).filter(|case| case.contains("<flakyFailure"));
    let name = |case: &str| Some(case.split_once("name=\"")?.1.split_once('"')?.0.to_owned());
    cases.map(|case| name(case).unwrap_or_else(|| "one without a name".to_owned())).collect()
}

fn run_with(sh: &Shell, args: &Args, profile: &str) -> Result<()> {
    // Together, so that both builds share the features of the dev-dependencies; and first,
    // because tests start the agent, which no test target builds by itself.
    cmd!(sh, "cargo build --bins --tests").run()?;
    let chosen = Chosen::new(&args.words);
    let Chosen { filter, names } = &chosen;
    let more = &args.nextest;
    cmd!(sh, "cargo nextest run --profile {profile} {filter...} {more...} {names...}").run()?;
    Ok(())
}

/// What the words on the command line select.
#[derive(Debug, PartialEq)]
struct Chosen {
    filter: Vec<String>,
    names: Vec<String>,
}

impl Chosen {
    fn new(words: &[String]) -> Self {
        let mut filter = Vec::new();
        let mut names = Vec::new();
        for word in words {
            match Level::from_str(word, false) {
                Ok(level) => filter.extend(["-E".to_owned(), level.filter().to_owned()]),
                Err(_) => names.push(word.clone()),
            }
        }
        Self { filter, names }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chosen, Level, flaky};

    fn chosen(words: &[&str]) -> Chosen {
        Chosen::new(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_test_that_failed_once_is_named() {
        let report = r#"<testsuite name="sotto-tests::mesh" tests="2">
            <testcase name="pods::one_is_late" classname="sotto-tests::mesh" time="1.2">
                <flakyFailure type="test failure" time="0.9">thread panicked</flakyFailure>
            </testcase>
            <testcase name="pods::one_is_not" classname="sotto-tests::mesh" time="0.1">
            </testcase></testsuite>"#;
        assert_eq!(flaky(report), ["pods::one_is_late"]);
        assert!(flaky("<testsuites/>").is_empty());
    }

    #[test]
    fn no_words_select_all() {
        assert_eq!(chosen(&[]), Chosen { filter: vec![], names: vec![] });
    }

    #[test]
    fn levels_become_filters_and_the_rest_names() {
        let expected = Chosen {
            filter: vec!["-E".to_owned(), Level::Netns.filter().to_owned()],
            names: vec!["strict".to_owned()],
        };
        assert_eq!(chosen(&["strict", "netns"]), expected);
    }
}
