//! `cargo xtask bench`: an optimised build, without the wait for fat LTO unless it is wanted, then the
//! bench itself; with `--against` another revision of this tree is built first, to be measured beside.

mod against;

use anyhow::{Result, bail};
use xshell::cmd;

use crate::shell;

/// All other flags are the bench's own: `cargo xtask bench -- --help` lists them, as `--quick`,
/// `--only up-1,request-1`, `--json FILE`, and `--peer PROGRAM` for a ztunnel to measure beside.
///
/// All measures take about 7 minutes, with `--peer` or `--against` about 12; building comes before.
#[derive(clap::Args)]
#[command(
    after_help = "Of its own: --profile PROFILE (quick, as if none is given, or release) is \
what is built; --against REV builds that revision as well and measures it beside."
)]
pub(crate) struct Args {
    /// Flags, in any order.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    shell::require_root("the bench")?;
    let Flags { profile, against, mut rest } = Flags::of(&args.rest)?;
    let sh = shell::at_root()?;
    if let Some(revision) = against {
        let (name, program) = against::build(&sh, &revision, &profile)?;
        rest.extend([format!("--base={}", program.display()), format!("--name={name}")]);
    }
    cmd!(sh, "cargo build --profile {profile} --package sotto --package sotto-tests --bins")
        .run()?;
    shell::become_program(&shell::built(&profile)?.join("bench"), &rest)
}

/// The task's own flags, wherever they stand, and the bench's.
#[derive(Debug, PartialEq, Eq)]
struct Flags {
    profile: String,
    against: Option<String>,
    rest: Vec<String>,
}

impl Flags {
    fn of(words: &[String]) -> Result<Self> {
        let mut flags = Self { profile: String::from("quick"), against: None, rest: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if !["--profile", "--against"].contains(&name) {
                flags.rest.push(word.clone());
                continue;
            }
            let Some(value) = value.or_else(|| words.next().cloned()) else {
                bail!("{name} needs a value");
            };
            if name == "--profile" {
                flags.profile = value;
            } else {
                flags.against = Some(value);
            }
        }
        if !["quick", "release"].contains(&flags.profile.as_str()) {
            bail!("--profile is quick or release: others' figures say nothing");
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::Flags;

    fn flags(line: &str) -> Result<Flags, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Flags::of(&words).map_err(|error| error.to_string())
    }

    fn check(line: &str, profile: &str, against: Option<&str>, rest: &[&str]) {
        let expected = Flags {
            profile: profile.to_owned(),
            against: against.map(str::to_owned),
            rest: rest.iter().map(|word| (*word).to_owned()).collect(),
        };
        assert_eq!(flags(line), Ok(expected), "{line}");
    }

    #[test]
    fn own_flags_are_found_anywhere_and_the_rest_is_kept_in_order() {
        check("", "quick", None, &[]);
        check("--quick --only up-1", "quick", None, &["--quick", "--only", "up-1"]);
        check("--quick --profile release --json=a", "release", None, &["--quick", "--json=a"]);
        check("--against HEAD~3 --rounds=2", "quick", Some("HEAD~3"), &["--rounds=2"]);
        check("--profile=release --against=v1", "release", Some("v1"), &[]);
    }

    #[test]
    fn a_flag_without_value_and_an_unoptimised_build_are_refused() {
        assert!(flags("--quick --against").unwrap_err().contains("--against needs a value"));
        assert!(flags("--profile dev").unwrap_err().contains("quick or release"));
    }
}
