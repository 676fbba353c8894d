//! One idea a file, and a function that fits on a screen: lines of code, comments and tests apart.

use super::Finding;
use super::source::{Line, Source, has_word, is_name, item_end};

/// Above: a warning. Lines of code.
const LONG_FILE: usize = 400;
/// Above: an error. Lines of code.
const TOO_LONG_FILE: usize = 500;
/// Above: a warning. Lines of code.
const LONG_FUNCTION: usize = 60;

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    // The kit is code like any other, though only tests are built from it.
    let in_kit = source.path.starts_with("tests/kit/");
    let counted = |line: &&Line| (in_kit || !line.test) && !line.code.trim().is_empty();
    let lines = source.lines.iter().filter(counted).count();
    let mut found = functions(source);
    if lines > TOO_LONG_FILE {
        found.push(Finding::error(
            &source.path,
            1,
            format!("{lines} lines of code: split it at {LONG_FILE}"),
        ));
    } else if lines > LONG_FILE {
        found.push(Finding::warn(
            &source.path,
            1,
            format!("{lines} lines of code, more than {LONG_FILE}"),
        ));
    }
    found
}

fn functions(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, line) in source.numbered() {
        let Some(name) = declared(&line.code) else { continue };
        let body = &source.lines[number - 1..=item_end(&source.lines, number - 1)];
        let lines = body.iter().filter(|line| !line.code.trim().is_empty()).count();
        if lines > LONG_FUNCTION {
            let message = format!("`{name}` has {lines} lines of code, more than {LONG_FUNCTION}");
            found.push(Finding::warn(&source.path, number, message));
        }
    }
    found
}

/// The function that is declared on this line: not a type `fn(..)`, not a closure.
fn declared(code: &str) -> Option<&str> {
    if !has_word(code, "fn") {
        return None;
    }
    let (_, rest) = code.split_once("fn ")?;
    let name = rest.split(|letter| !is_name(letter)).next()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::source::Source;

    fn found(text: &str) -> Vec<String> {
        check(&Source::scan("agent/src/x.rs", text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn short_files_pass_whatever_they_say_in_comments() {
        assert_eq!(found(&"// a\n\n".repeat(600)), [""; 0]);
        assert_eq!(found(&"const A: u8 = 1;\n".repeat(400)), [""; 0]);
    }

    #[test]
    fn long_files_warn_and_longer_fail() {
        let expected = ["agent/src/x.rs:1: warning: 401 lines of code, more than 400"];
        assert_eq!(found(&"const A: u8 = 1;\n".repeat(401)), expected);
        let expected = ["agent/src/x.rs:1: 501 lines of code: split it at 400"];
        assert_eq!(found(&"const A: u8 = 1;\n".repeat(501)), expected);
    }

    #[test]
    fn tests_do_not_count() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "const A: u8 = 1;\n".repeat(600));
        assert_eq!(found(&tests), [""; 0]);
    }

    #[test]
    fn long_functions_warn() {
        let of =
            |lines: usize| format!("\nfn a() {{\n{}}}\nfn b() {{}}\n", "    b();\n".repeat(lines));
        assert_eq!(found(&of(58)), [""; 0]);
        assert_eq!(
            found(&of(59)),
            ["agent/src/x.rs:2: warning: `a` has 61 lines of code, more than 60"]
        );
    }
}
