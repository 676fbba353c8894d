//! The table at the end.

use std::fmt;

/// A step and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What was done.
    pub step: String,
    /// What was to be seen.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// Whether that is as expected.
    pub ok: bool,
}

/// All steps taken.
#[derive(Debug, Clone, Default)]
pub struct Table(pub Vec<Row>);

impl Table {
    /// Whether every step was as expected, and there were steps.
    pub fn all_as_expected(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|row| row.ok)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: fn(&Row) -> &String, title: &str| {
            let widest = self.0.iter().map(|row| column(row).chars().count()).max();
            widest.unwrap_or_default().max(title.len())
        };
        let (step, expected, seen) = (
            width(|row| &row.step, "step"),
            width(|row| &row.expected, "expected"),
            width(|row| &row.seen, "seen"),
        );
        let line = |a: &str, b: &str, c: &str, d: &str| {
            format!("{a:step$}  {b:expected$}  {c:seen$}  {d}")
        };
        writeln!(f, "{}", line("step", "expected", "seen", "ok"))?;
        let rule = |width| "-".repeat(width);
        writeln!(f, "{}", line(&rule(step), &rule(expected), &rule(seen), "--"))?;
        for row in &self.0 {
            let ok = if row.ok { "yes" } else { "NO" };
            writeln!(f, "{}", line(&row.step, &row.expected, &row.seen, ok))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest() {
        let row = |ok| Row {
            step: String::from("a long step"),
            expected: String::from("200"),
            seen: String::from("000"),
            ok,
        };
        let table = Table(vec![row(false)]);
        let text = table.to_string();
        assert_eq!(text.lines().nth(2), Some("a long step  200       000   NO"));
        assert!(!table.all_as_expected() && !Table::default().all_as_expected());
        assert!(Table(vec![row(true)]).all_as_expected());
    }
}
