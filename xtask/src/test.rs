//! `cargo xtask test`: what the tests need, the binaries they start, then nextest.

use anyhow::Result;
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
    use super::{Chosen, Level};

    fn chosen(words: &[&str]) -> Chosen {
        Chosen::new(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
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
