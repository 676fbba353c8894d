//! What the suite ends with: a line a row, and whether all is well.

use std::time::Duration;

/// How a row ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As expected; what was seen.
    Holds(String),
    /// Not as expected; what was seen instead.
    Fails(String),
    /// This cluster, or this call, cannot show it: why.
    NotRun(String),
}

/// A row that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) row: &'static str,
    pub(super) expected: &'static str,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

impl Line {
    fn seen(&self) -> &str {
        match &self.outcome {
            Outcome::Holds(seen) | Outcome::Fails(seen) | Outcome::NotRun(seen) => seen,
        }
    }

    const fn verdict(&self) -> &'static str {
        match self.outcome {
            Outcome::Holds(_) => "ok",
            Outcome::Fails(_) => "FAILED",
            Outcome::NotRun(_) => "not run",
        }
    }
}

/// The rows that failed.
pub(super) fn failed(lines: &[Line]) -> Vec<&'static str> {
    let failed = lines.iter().filter(|line| matches!(line.outcome, Outcome::Fails(_)));
    failed.map(|line| line.row).collect()
}

/// The rows that were not run.
pub(super) fn not_run(lines: &[Line]) -> Vec<&'static str> {
    let left = lines.iter().filter(|line| matches!(line.outcome, Outcome::NotRun(_)));
    left.map(|line| line.row).collect()
}

/// The table: row, expected, seen, and the verdict, in columns as wide as they need.
pub(super) fn render(lines: &[Line]) -> String {
    const WIDEST: usize = 64;
    let head = ["ROW", "EXPECTED", "SEEN", "OK", "TOOK"].map(String::from);
    let mut cells: Vec<[String; 5]> = vec![head];
    for line in lines {
        let took = format!("{} s", line.took.as_secs());
        let (expected, seen) = (wrap(line.expected, WIDEST), wrap(line.seen(), WIDEST));
        for at in 0..expected.len().max(seen.len()) {
            let part = |parts: &[String]| parts.get(at).cloned().unwrap_or_default();
            let once = |text: &str| if at == 0 { text.to_owned() } else { String::new() };
            cells.push([
                once(line.row),
                part(&expected),
                part(&seen),
                once(line.verdict()),
                once(&took),
            ]);
        }
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 5] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let mut text = String::new();
    for row in &cells {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The words of `text`, on lines of at most `width` letters unless a word is longer.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Line, Outcome, failed, not_run, render, wrap};

    fn line(row: &'static str, outcome: Outcome) -> Line {
        Line { row, expected: "exit 56", outcome, took: Duration::from_secs(3) }
    }

    #[test]
    fn columns_are_aligned_and_verdicts_plain() {
        let lines = [
            line("strict", Outcome::Holds("exit 56".into())),
            line("alone", Outcome::Fails("exit 0: it answered".into())),
            line("reboot", Outcome::NotRun("no --reboot".into())),
        ];
        let expected = "\
ROW     EXPECTED  SEEN                 OK       TOOK
strict  exit 56   exit 56              ok       3 s
alone   exit 56   exit 0: it answered  FAILED   3 s
reboot  exit 56   no --reboot          not run  3 s
";
        assert_eq!(render(&lines), expected);
        assert_eq!(failed(&lines), ["alone"]);
        assert_eq!(not_run(&lines), ["reboot"]);
    }

    #[test]
    fn long_cells_go_on_below() {
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
        assert_eq!(wrap("", 6), [""]);
    }
}
