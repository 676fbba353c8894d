//! A Rust file split into code and comments, line by line, without the contents of its literals.
//!
//! Not a parser: enough of the lexer that a rule never takes a comment or a string for code.

/// A scanned file.
pub(crate) struct Source {
    /// From the root of the work tree.
    pub(crate) path: String,
    pub(crate) lines: Vec<Line>,
}

/// One line of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    /// Without comments and the contents of literals.
    pub(crate) code: String,
    /// What its comments say, markers included.
    pub(crate) comment: String,
    /// Built for tests only.
    pub(crate) test: bool,
}

impl Source {
    pub(crate) fn scan(path: &str, text: &str) -> Self {
        let mut lines = Scanner::new(text).scan();
        if is_test_file(path) {
            lines.iter_mut().for_each(|line| line.test = true);
        } else {
            mark_tests(&mut lines);
        }
        Self { path: path.to_owned(), lines }
    }

    /// Lines with their numbers, from 1.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The module of the agent this file is, outermost first; empty for its crate roots.
    pub(crate) fn agent_module(&self) -> Option<Vec<&str>> {
        let inner = self.path.strip_prefix("agent/src/")?.strip_suffix(".rs")?;
        Some(if inner == "lib" { Vec::new() } else { inner.split('/').collect() })
    }
}

/// Whether `word` stands in `code`, not as a part of a longer name.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

pub(crate) fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("tests.rs")
}

/// Marks what `#[cfg(test)]` stands before, up to its closing brace or semicolon.
fn mark_tests(lines: &mut [Line]) {
    let mut at = 0;
    while at < lines.len() {
        if !lines[at].code.contains("#[cfg(test)]") {
            at += 1;
            continue;
        }
        let end = item_end(lines, at);
        lines[at..=end].iter_mut().for_each(|line| line.test = true);
        at = end + 1;
    }
}

/// The last line of the item that starts at `start`.
pub(crate) fn item_end(lines: &[Line], start: usize) -> usize {
    let mut depth = 0_usize;
    // Brackets as in `[u8; 4]`: their semicolon ends nothing.
    let mut nested = 0_usize;
    for (index, line) in lines.iter().enumerate().skip(start) {
        for letter in line.code.chars() {
            match letter {
                '(' | '[' => nested += 1,
                ')' | ']' => nested = nested.saturating_sub(1),
                '{' => depth += 1,
                '}' if depth <= 1 => return index,
                '}' => depth -= 1,
                ';' if depth == 0 && nested == 0 => return index,
                _ => {}
            }
        }
    }
    lines.len() - 1
}

struct Scanner {
    text: Vec<char>,
    at: usize,
    lines: Vec<Line>,
}

impl Scanner {
    fn new(text: &str) -> Self {
        Self { text: text.chars().collect(), at: 0, lines: vec![Line::default()] }
    }

    fn scan(mut self) -> Vec<Line> {
        while let Some(letter) = self.peek(0) {
            match (letter, self.peek(1)) {
                ('/', Some('/')) => self.line_comment(),
                ('/', Some('*')) => self.block_comment(),
                ('"', _) => self.text(),
                ('\'', _) => self.quote(),
                ('r', Some('"' | '#')) if self.starts_literal() => self.raw_text(),
                _ => self.take_code(),
            }
        }
        self.lines
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn line(&mut self) -> &mut Line {
        if self.lines.is_empty() {
            self.lines.push(Line::default());
        }
        let last = self.lines.len() - 1;
        &mut self.lines[last]
    }

    /// Consumes a letter, into a new line or by `keep`.
    fn take(&mut self, keep: fn(&mut Line, char)) {
        let Some(letter) = self.peek(0) else { return };
        self.at += 1;
        if letter == '\n' {
            self.lines.push(Line::default());
        } else {
            keep(self.line(), letter);
        }
    }

    fn take_code(&mut self) {
        self.take(|line, letter| line.code.push(letter));
    }

    fn take_comment(&mut self) {
        self.take(|line, letter| line.comment.push(letter));
    }

    fn skip(&mut self) {
        self.take(|_, _| {});
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|letter| letter != '\n') {
            self.take_comment();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth -= 1,
                (None, _) => return,
                _ => {
                    self.take_comment();
                    continue;
                }
            }
            self.take_comment();
            self.take_comment();
            if depth == 0 {
                return;
            }
        }
    }

    fn text(&mut self) {
        self.take_code();
        while let Some(letter) = self.peek(0) {
            match letter {
                '"' => return self.take_code(),
                '\\' => {
                    self.skip();
                    self.skip();
                }
                _ => self.skip(),
            }
        }
    }

    /// A character literal, or the mark of a lifetime.
    fn quote(&mut self) {
        self.take_code();
        if self.peek(0) == Some('\\') {
            self.skip();
            self.skip();
            while self.peek(0).is_some_and(|letter| letter != '\'' && letter != '\n') {
                self.skip();
            }
        } else if self.peek(1) == Some('\'') {
            self.skip();
        } else {
            return;
        }
        self.take_code();
    }

    /// Whether the `r` here is a prefix, not the end of a name.
    fn starts_literal(&self) -> bool {
        let name_before = |back: usize| {
            self.at.checked_sub(back).and_then(|at| self.text.get(at)).copied().is_some_and(is_name)
        };
        let prefixed = matches!(self.at.checked_sub(1).map(|at| self.text[at]), Some('b' | 'c'));
        if prefixed { !name_before(2) } else { !name_before(1) }
    }

    fn raw_text(&mut self) {
        let hashes = (1..).take_while(|ahead| self.peek(*ahead) == Some('#')).count();
        if self.peek(hashes + 1) != Some('"') {
            return self.take_code(); // a raw name: r#type
        }
        (0..hashes + 2).for_each(|_| self.take_code());
        while self.peek(0).is_some() {
            let closes = self.peek(0) == Some('"')
                && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#'));
            if closes {
                return (0..=hashes).for_each(|_| self.take_code());
            }
            self.skip();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, has_word};

    fn code(text: &str) -> Vec<String> {
        Source::scan("agent/src/x.rs", text).lines.into_iter().map(|line| line.code).collect()
    }

    fn comments(text: &str) -> Vec<String> {
        Source::scan("agent/src/x.rs", text).lines.into_iter().map(|line| line.comment).collect()
    }

    fn tested(path: &str, text: &str) -> Vec<bool> {
        Source::scan(path, text).lines.iter().map(|line| line.test).collect()
    }

    #[test]
    fn comments_are_not_code() {
        assert_eq!(code("a // b\nc /* d /* e */ f\n g */ h"), ["a ", "c ", " h"]);
        assert_eq!(comments("a // b\n/// c"), ["// b", "/// c"]);
    }

    #[test]
    fn literals_lose_their_contents() {
        assert_eq!(code(r#"a("b \" // c", 'd', '\'', '"', 'x')"#), [r#"a("", '', '', '', '')"#]);
        assert_eq!(code("r#\"a \" b\"# c br\"d\" e"), ["r#\"\"# c br\"\" e"]);
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        assert_eq!(code("fn a<'b>(r#type: &'b str) {}"), ["fn a<'b>(r#type: &'b str) {}"]);
    }

    #[test]
    fn test_modules_are_marked_to_their_end() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}";
        assert_eq!(tested("agent/src/x.rs", text), [false, true, true, true, true, false]);
        let text = "#[cfg(test)]\nmod tests;\nfn c() {}";
        assert_eq!(tested("agent/src/x.rs", text), [true, true, false]);
        assert_eq!(tested("agent/src/x/tests.rs", "fn a() {}"), [true]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("let a = unsafe { 1 };", "unsafe"));
        assert!(!has_word("deny(unsafe_code)", "unsafe"));
    }
}
