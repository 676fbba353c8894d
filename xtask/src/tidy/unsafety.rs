//! `unsafe` stands in two places, and each says why it holds.

use super::Finding;
use super::source::{Line, Source, has_word};

const PLACES: [&str; 3] = ["agent/src/sys.rs", "agent/src/sys/", "ebpf/"];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, line) in source.numbered() {
        if !has_word(&line.code, "unsafe") {
            continue;
        }
        let mut say = |message: &str| found.push(Finding::error(&source.path, number, message));
        if !PLACES.iter().any(|place| source.path.starts_with(place)) {
            say("`unsafe` belongs in agent/src/sys or ebpf");
        }
        if opens_block(&line.code) && !is_justified(&source.lines[..number]) {
            say("an unsafe block says why it holds: `// SAFETY: ..`");
        }
    }
    found
}

/// A block or an impl: `unsafe fn` and `#[unsafe(..)]` put the duty on others.
fn opens_block(code: &str) -> bool {
    code.match_indices("unsafe").any(|(at, word)| {
        let after = code[at + word.len()..].trim_start();
        after.is_empty() || after.starts_with('{') || after.starts_with("impl")
    })
}

/// Whether the last line, or what stands directly above its statement, has the comment.
fn is_justified(lines: &[Line]) -> bool {
    let Some((last, above)) = lines.split_last() else { return false };
    let continued = above.iter().rev().take_while(|line| !ends_statement(line));
    std::iter::once(last).chain(continued).any(|line| line.comment.contains("SAFETY"))
}

fn ends_statement(line: &Line) -> bool {
    let code = line.code.trim();
    let attribute = code.starts_with("#[");
    let empty = code.is_empty() && line.comment.is_empty();
    empty || !attribute && [';', '{', '}', ','].iter().any(|end| code.ends_with(*end))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::source::Source;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Source::scan(path, text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_justified_block_passes() {
        let text = "// SAFETY: the descriptor is open.\nlet a =\n    unsafe { b() };";
        assert_eq!(found("agent/src/sys/socket.rs", text), [""; 0]);
        assert_eq!(found("ebpf/src/main.rs", "unsafe { a() } // SAFETY: in bounds"), [""; 0]);
        assert_eq!(found("ebpf/src/main.rs", "#[unsafe(no_mangle)]\nunsafe fn a() {}"), [""; 0]);
    }

    #[test]
    fn a_bare_block_fails() {
        let expected =
            ["agent/src/sys/socket.rs:2: an unsafe block says why it holds: `// SAFETY: ..`"];
        assert_eq!(
            found("agent/src/sys/socket.rs", "// SAFETY: of another\nb(); unsafe { a() };\n").len(),
            0
        );
        assert_eq!(
            found("agent/src/sys/socket.rs", "b(); // SAFETY: of another\nlet a = unsafe { a() };"),
            expected
        );
        assert_eq!(found("agent/src/sys/socket.rs", "\nunsafe impl Send for A {}"), expected);
    }

    #[test]
    fn elsewhere_it_fails_even_with_a_reason() {
        let expected = ["agent/src/app.rs:1: `unsafe` belongs in agent/src/sys or ebpf"];
        assert_eq!(found("agent/src/app.rs", "unsafe { a() } // SAFETY: so they say"), expected);
        assert_eq!(found("agent/src/app.rs", "#![forbid(unsafe_code)] // unsafe"), [""; 0]);
    }
}
