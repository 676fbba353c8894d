//! The results for people.

use std::fmt;

use super::measure::{self, Target};
use super::report::{Ratio, Results, Row, Spread};

const SOTTO: &str = "sotto";

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(f, "{} CPUs ({}), Linux {}", machine.cpus, machine.model, machine.kernel)?;
        write!(f, "congestion control: pods {}", machine.congestion_control)?;
        for (side, used) in &machine.tunnels {
            write!(f, ", tunnels of {} {used}", self.name(side))?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "programs of profile {}; {} rounds of {} s a load, {} s of churn",
            machine.profile, self.rounds, self.seconds, self.churn_seconds
        )?;
        let outside = Target::Outside;
        let mut taken = self.rows.iter().filter_map(|row| measure::parse(&row.measure).ok());
        if taken.any(|measure| measure.target == outside) {
            let (parts, seconds) = (outside.parts(), outside.seconds(self.seconds));
            writeln!(f, "outside the mesh each round takes {parts} samples of {seconds} s")?;
        }
        writeln!(
            f,
            "median (least..most); ratios sotto's to the others', medians of the rounds', ± standard error if known\n"
        )?;
        rows(f, &self.rows, self.other.as_deref())?;
        writeln!(f)?;
        self.proven(f)?;
        self.left_out(f)?;
        self.failed(f)
    }
}

impl Results {
    /// What a side is called in the table.
    fn name<'a>(&'a self, side: &'a str) -> &'a str {
        match side {
            "mesh" => SOTTO,
            "other" => self.other.as_deref().unwrap_or(side),
            _ => side,
        }
    }

    fn proven(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let gb = |bytes: u64| bytes as f64 / 1e9;
        self.crossed.iter().try_for_each(|one| {
            let (sent, crossed) = (gb(one.sent_bytes), gb(one.crossed_bytes));
            writeln!(
                f,
                "{}: {sent:.2} GB of streams, {crossed:.2} GB on port 15008",
                self.name(&one.side)
            )
        })
    }

    fn left_out(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.disturbed.is_empty() {
            return writeln!(f, "no round was disturbed by other programs");
        }
        // A measure's rounds in one word: on a busy machine there are many.
        let mut each = Vec::new();
        for (at, first) in self.disturbed.iter().enumerate() {
            if self.disturbed.iter().take(at).any(|one| one.measure == first.measure) {
                continue;
            }
            let same = self.disturbed.iter().filter(|one| one.measure == first.measure);
            let most = same.clone().map(|one| one.foreign_percent).fold(0.0, f64::max);
            each.push(format!("{} {}x (up to {most:.0} %)", first.measure, same.count()));
        }
        writeln!(f, "disturbed by other programs (CPU above 5 %), left out: {}", each.join(", "))?;
        if self.rows.iter().any(|row| row.disturbed) {
            writeln!(f, "! every round of this measure was disturbed: do not quote it")?;
        }
        Ok(())
    }

    fn failed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failures.is_empty() {
            return writeln!(f, "errors: 0");
        }
        writeln!(f, "errors: {}", self.failures.iter().map(|one| one.errors).sum::<u64>())?;
        self.failures.iter().try_for_each(|one| {
            let (measure, round, side) = (&one.measure, one.round, self.name(&one.side));
            writeln!(
                f,
                "  {measure} round {round} {side}: {}, the first: {}",
                one.errors, one.first
            )
        })
    }
}

/// Words to the left, numbers to the right; the other's columns only if there is one.
fn rows(f: &mut fmt::Formatter<'_>, rows: &[Row], other: Option<&str>) -> fmt::Result {
    let mut head: Vec<String> = ["measure", "figure", "plain TCP", SOTTO].map(String::from).into();
    head.extend(other.map(String::from));
    head.push(String::from("/plain"));
    head.extend(other.map(|other| format!("/{other}")));
    let mut lines = vec![head];
    let mut last = "";
    for row in rows {
        let title = if row.title == last { "" } else { &row.title };
        lines.push(cells(row, title, other.is_some()));
        last = &row.title;
    }
    let columns = lines.first().map_or(0, Vec::len);
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in &lines {
        let mut padded = String::new();
        for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            let left = at < 2;
            padded +=
                &if left { format!("{gap}{cell:width$}") } else { format!("{gap}{cell:>width$}") };
        }
        writeln!(f, "{}", padded.trim_end())?;
    }
    Ok(())
}

fn cells(row: &Row, title: &str, other: bool) -> Vec<String> {
    let none = || String::from("-");
    let seen = |of: &Option<Spread>| of.as_ref().map_or_else(none, spread);
    let ratio = |of: Option<Ratio>| of.map_or_else(none, ratio);
    let mark = if row.disturbed && !title.is_empty() { "! " } else { "" };
    let mut cells =
        vec![format!("{mark}{title}"), row.figure.clone(), seen(&row.plain), spread(&row.mesh)];
    if other {
        cells.push(seen(&row.other));
    }
    cells.push(ratio(row.ratio));
    if other {
        cells.push(ratio(row.ratio_to_other));
    }
    cells
}

fn spread(spread: &Spread) -> String {
    let [median, least, most] = [spread.median, spread.least, spread.most].map(number);
    if spread.samples.len() == 1 {
        return median;
    }
    format!("{median} ({least}..{most})")
}

fn ratio(ratio: Ratio) -> String {
    let Ratio { median, error } = ratio;
    let error = error.map(|error| format!(" ±{error:.3}")).unwrap_or_default();
    format!("{median:.3}{error}")
}

/// Three digits that matter, or all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_matter() {
        let shown = [32_617.4, 99.94, 9.994, 0.1234].map(number);
        assert_eq!(shown, ["32617", "99.9", "9.99", "0.123"]);
    }

    #[test]
    fn a_single_sample_has_no_spread() {
        let of = |samples: &[f64]| spread(&Spread::of(samples.to_vec()).unwrap());
        assert_eq!(of(&[7.0]), "7.00");
        assert_eq!(of(&[8.0, 7.0]), "7.50 (7.00..8.00)");
    }

    #[test]
    fn every_row_has_plain_sotto_other_and_both_ratios() {
        let row = Row {
            measure: String::from("up-1"),
            title: String::from("1 stream up"),
            figure: String::from("Gbit/s"),
            plain: Spread::of(vec![30.0]),
            mesh: Spread::of(vec![10.0]).unwrap(),
            other: Spread::of(vec![7.5]),
            ratio: Some(Ratio { median: 1.0 / 3.0, error: Some(0.0123) }),
            ratio_to_other: Some(Ratio { median: 4.0 / 3.0, error: None }),
            disturbed: true,
        };
        let expected = ["! 1 stream up", "Gbit/s", "30.0", "10.0", "7.50", "0.333 ±0.012", "1.333"];
        assert_eq!(cells(&row, "1 stream up", true), expected);
        let expected = ["", "Gbit/s", "30.0", "10.0", "0.333 ±0.012"];
        assert_eq!(cells(&row, "", false), expected);
    }
}
