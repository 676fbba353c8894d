//! The code map of the README, under a heading with the word `code`, names every package and every module of the agent.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

use super::Finding;
use super::source::{Source, has_word};

const README: &str = "README.md";
const ROOT: &str = "agent/src/lib.rs";

pub(crate) fn check(root: &Path, tree: &BTreeSet<&str>) -> Result<Vec<Finding>> {
    if !tree.contains(README) {
        return Ok(vec![Finding::error(README, 1, "is missing: it has the code map")]);
    }
    let read = |path: &str| {
        std::fs::read_to_string(root.join(path)).with_context(|| format!("failed to read {path}"))
    };
    let mut names = modules(&read(ROOT)?);
    names.extend(["agent", "ebpf", "proto", "tests", "xtask", "deploy"].map(str::to_owned));
    Ok(missing(&read(README)?, &names))
}

/// The modules that a crate root declares.
fn modules(text: &str) -> Vec<String> {
    let source = Source::scan(ROOT, text);
    let declared = source.lines.iter().filter_map(|line| line.code.trim().strip_prefix("pub mod "));
    declared.filter_map(|rest| rest.strip_suffix(';')).map(str::to_owned).collect()
}

fn missing(readme: &str, names: &[String]) -> Vec<Finding> {
    let heading = |line: &str| line.starts_with('#');
    let Some(start) =
        readme.lines().position(|line| heading(line) && has_word(&line.to_lowercase(), "code"))
    else {
        return vec![Finding::error(README, 1, "has no heading with the word `code`")];
    };
    let map: Vec<&str> = readme.lines().skip(start + 1).take_while(|line| !heading(line)).collect();
    let unnamed = names.iter().filter(|name| !map.iter().any(|line| has_word(line, name)));
    unnamed
        .map(|name| {
            Finding::error(README, start + 1, format!("the code map does not name `{name}`"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{missing, modules};

    fn found(readme: &str, names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        missing(readme, &names).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn modules_are_those_declared() {
        assert_eq!(modules("/// pub mod a;\npub mod b;\nmod c;\npub mod d;\n"), ["b", "d"]);
    }

    #[test]
    fn a_full_map_passes() {
        assert_eq!(found("# A\n## Code map\n- `b/`: c\n- `d`: e\n## F\n", &["b", "d"]), [""; 0]);
    }

    #[test]
    fn what_the_map_leaves_out_fails() {
        let expected = ["README.md:2: the code map does not name `f`"];
        assert_eq!(found("# A\n## Code map\n- `b/`: c\n## F\nf\n", &["b", "f"]), expected);
        assert_eq!(found("# A\n", &["b"]), ["README.md:1: has no heading with the word `code`"]);
    }
}
