//! Tables for people: columns as wide as they have to be, two spaces between.

use std::fmt::{self, Write as _};

/// Rows under a head.
#[derive(Debug)]
pub(super) struct Table<const COLUMNS: usize>(Vec<[String; COLUMNS]>);

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(head: [&str; COLUMNS]) -> Self {
        Self(vec![head.map(str::to_owned)])
    }

    pub(super) fn with(mut self, rows: impl IntoIterator<Item = [String; COLUMNS]>) -> Self {
        self.0.extend(rows);
        self
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.0.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..COLUMNS).map(width).collect();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned);
        let table = Table::new(["A", "B"]).with([row(["aaa", "b"]), row(["ä", ""])]);
        assert_eq!(table.to_string(), "A    B\naaa  b\nä\n");
    }
}
