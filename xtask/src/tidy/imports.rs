//! Imports only go down: each path into the agent's own modules, against the table of levels.

use super::Finding;
use super::levels::LEVELS;
use super::source::{Source, is_name};

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let Some(module) = source.agent_module().filter(|module| !module.is_empty()) else {
        return Vec::new();
    };
    let name = module.join("::");
    let Some((_, may)) = LEVELS.iter().find(|(row, _)| is_within(&name, row)) else {
        return vec![Finding::error(
            &source.path,
            1,
            format!("`{name}` has no level: add it to tidy's table"),
        )];
    };
    let mut found = Vec::new();
    for (line, target) in paths(source, module.len()) {
        let known = LEVELS.iter().any(|(row, _)| *row == target);
        if known && target != module[0] && !may.contains(&target.as_str()) {
            found.push(Finding::error(
                &source.path,
                line,
                format!("`{name}` may not import `{target}`"),
            ));
        }
    }
    found
}

fn is_within(module: &str, row: &str) -> bool {
    module.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The outermost modules that shipped code names by a path from the crate's root, with their lines.
fn paths(source: &Source, depth: usize) -> Vec<(usize, String)> {
    let text = Text::of(source);
    let mut found = Vec::new();
    for root in ["crate", "sotto", "super"] {
        for (at, _) in text.code.match_indices(root) {
            let before = text.code[..at].trim_end();
            if before.ends_with("::")
                || before.ends_with(is_name) && text.code[..at].ends_with(is_name)
            {
                continue;
            }
            if let Some(rest) = past_root(&text.code[at..], depth) {
                let start = text.code.len() - rest.len();
                found.extend(
                    heads(rest).into_iter().map(|(ahead, head)| (text.line(start + ahead), head)),
                );
            }
        }
    }
    found
}

/// What follows the crate's root in a path: behind `crate::`, or behind as many `super::` as lead there.
fn past_root(path: &str, depth: usize) -> Option<&str> {
    if let Some(rest) = path.strip_prefix("crate::").or_else(|| path.strip_prefix("sotto::")) {
        return Some(rest);
    }
    let mut rest = path;
    for _ in 0..depth {
        rest = rest.strip_prefix("super::")?;
    }
    Some(rest)
}

/// The first names of a path or of a braced group of paths, with where they stand.
fn heads(path: &str) -> Vec<(usize, String)> {
    if !path.starts_with('{') {
        let head: String = path.chars().take_while(|letter| is_name(*letter)).collect();
        return vec![(0, head)];
    }
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut fresh = false;
    for (at, letter) in path.char_indices() {
        match letter {
            '{' => {
                depth += 1;
                fresh = depth == 1;
            }
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' => fresh = depth == 1,
            letter if fresh && is_name(letter) => {
                fresh = false;
                found
                    .push((at, path[at..].chars().take_while(|letter| is_name(*letter)).collect()));
            }
            _ => {}
        }
    }
    found
}

/// The shipped code of a file in one piece, with the way back to its lines.
struct Text {
    code: String,
    /// Where each line starts in `code`.
    starts: Vec<usize>,
}

impl Text {
    fn of(source: &Source) -> Self {
        let mut code = String::new();
        let mut starts = Vec::new();
        for line in &source.lines {
            starts.push(code.len());
            if !line.test {
                code.push_str(&line.code);
            }
            code.push('\n');
        }
        Self { code, starts }
    }

    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::source::Source;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Source::scan(path, text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn down_and_within_pass() {
        assert_eq!(
            found(
                "agent/src/tunnel/pool.rs",
                "use crate::mesh::SpiffeId;\nuse crate::tunnel::hbone;"
            ),
            [""; 0]
        );
        assert_eq!(found("agent/src/app.rs", "use crate::{config, control_plane};"), [""; 0]);
    }

    #[test]
    fn up_fails() {
        let expected = ["agent/src/mesh/store.rs:2: `mesh` may not import `tunnel`"
            .replace("`mesh`", "`mesh::store`")];
        assert_eq!(found("agent/src/mesh/store.rs", "\nuse crate::tunnel::Pool;"), expected);
    }

    #[test]
    fn sideways_fails_in_groups_and_expressions() {
        let text = "use crate::{\n    mesh::{Mesh, xds},\n    enroll::pods,\n};\nfn a() { crate::identify::svid() }";
        let expected = [
            "agent/src/tunnel.rs:3: `tunnel` may not import `enroll`",
            "agent/src/tunnel.rs:5: `tunnel` may not import `identify`",
        ];
        assert_eq!(found("agent/src/tunnel.rs", text), expected);
    }

    #[test]
    fn super_that_leaves_the_module_is_seen() {
        assert_eq!(found("agent/src/xds/client.rs", "use super::delta;"), [""; 0]);
        let expected = ["agent/src/xds/client.rs:1: `xds::client` may not import `enroll`"];
        assert_eq!(found("agent/src/xds/client.rs", "use super::super::enroll;"), expected);
        assert_eq!(found("agent/src/capture.rs", "use super::enroll::pods;").len(), 1);
    }

    #[test]
    fn the_control_plane_stands_aside() {
        assert_eq!(found("agent/src/control_plane/ca.rs", "use crate::identify::tls;").len(), 1);
        assert_eq!(found("agent/src/connection.rs", "use crate::control_plane::run;").len(), 1);
    }

    #[test]
    fn comments_and_tests_may_name_anything() {
        let text = "//! See `crate::app`.\n#[cfg(test)]\nmod tests {\n    use crate::app;\n}\n";
        assert_eq!(found("agent/src/mesh.rs", text), [""; 0]);
    }

    #[test]
    fn a_module_without_a_level_fails() {
        let expected = ["agent/src/gossip.rs:1: `gossip` has no level: add it to tidy's table"];
        assert_eq!(found("agent/src/gossip.rs", ""), expected);
    }
}
