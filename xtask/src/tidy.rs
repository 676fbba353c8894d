//! `cargo xtask tidy`: the rules of this tree that no compiler checks.
//!
//! In: every text file that git knows or would take. Out: `path:line: message`, one a finding.
//! Rules look at one file at a time, but for the code map, which looks at the tree.

mod imports;
mod levels;
mod map;
mod reach;
mod size;
mod source;
mod unsafety;
mod words;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use self::source::Source;
use crate::shell;

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<()> {
    let sh = shell::at_root()?;
    let findings = findings(&sh)?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.weight == Weight::Error).count();
    if errors > 0 {
        bail!("{errors} things to tidy");
    }
    Ok(())
}

/// Something to tidy, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// From 1.
    line: usize,
    weight: Weight,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Warn,
    Error,
}

impl Finding {
    fn error(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, weight: Weight::Error, message: message.into() }
    }

    fn warn(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { weight: Weight::Warn, ..Self::error(path, line, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = if self.weight == Weight::Warn { "warning: " } else { "" };
        write!(f, "{}:{}: {weight}{}", self.path, self.line, self.message)
    }
}

/// All findings of the work tree at the shell's folder, in the order of their places.
fn findings(sh: &Shell) -> Result<Vec<Finding>> {
    let files = files(sh)?;
    let names: BTreeSet<&str> = files.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    for path in &files {
        let Ok(text) = std::fs::read_to_string(sh.current_dir().join(path)) else {
            continue; // deleted but not yet committed, or not text
        };
        found.extend(words::check(path, &text, &names));
        if path.ends_with(".rs") {
            found.extend(rust(&Source::scan(path, &text)));
        }
    }
    found.extend(map::check(sh.current_dir().as_path(), &names)?);
    found.sort();
    Ok(found)
}

fn rust(source: &Source) -> Vec<Finding> {
    let rules = [imports::check, reach::check, size::check, unsafety::check];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn files(sh: &Shell) -> Result<Vec<String>> {
    let listed = cmd!(sh, "git ls-files -z --cached --others --exclude-standard")
        .quiet()
        .read()
        .context("the files to look at are those that git knows")?;
    let kept = listed.split('\0').filter(|path| is_text(path)).map(str::to_owned);
    Ok(kept.collect::<BTreeSet<_>>().into_iter().collect())
}

fn is_text(path: &str) -> bool {
    const KINDS: [&str; 8] = ["rs", "toml", "md", "yaml", "yml", "json", "proto", "sh"];
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
    match extension {
        Some(extension) => KINDS.contains(&extension),
        None => path == ".ci/run",
    }
}

#[cfg(test)]
mod tests {
    use super::{Weight, findings};

    #[test]
    fn this_tree_is_tidy() {
        let sh = crate::shell::at_root().expect("the tests run under cargo");
        let mut errors = findings(&sh).expect("git lists the tree");
        errors.retain(|finding| finding.weight == Weight::Error);
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(errors.is_empty(), "\n{}", lines.join("\n"));
    }
}
