//! The results for people.

use std::fmt;

use super::memory::Memory;
use super::report::{Results, Row, Spread};

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(f, "{} CPUs ({}), Linux {}", machine.cpus, machine.model, machine.kernel)?;
        writeln!(
            f,
            "congestion control {}; {} programs; {} rounds of {} s a load",
            machine.congestion_control, machine.profile, self.rounds, self.seconds
        )?;
        writeln!(f, "median (least..most); ratio: mesh to plain TCP\n")?;
        rows(f, &self.rows)?;
        if let Some(memory) = &self.memory {
            writeln!(f)?;
            memory.iter().try_for_each(|one| writeln!(f, "{}", memory_line(one)))?;
        }
        writeln!(f)?;
        self.left_out(f)?;
        self.failed(f)
    }
}

impl Results {
    fn left_out(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.disturbed.is_empty() {
            return writeln!(f, "no pair was disturbed by other programs");
        }
        // A measure's pairs in one word: on a busy machine there are many.
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
            let (measure, round, side) = (one.measure, one.round, one.side);
            writeln!(
                f,
                "  {measure} round {round} {side}: {}, the first: {}",
                one.errors, one.first
            )
        })
    }
}

fn rows(f: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
    let head = ["measure", "figure", "plain TCP", "mesh", "ratio"].map(String::from);
    let mut cells = vec![head];
    let mut last = "";
    for row in rows {
        let mark = if row.disturbed { "! " } else { "" };
        let title = if row.title == last { String::new() } else { format!("{mark}{}", row.title) };
        last = row.title;
        cells.push([
            title,
            row.figure.to_owned(),
            row.plain.as_ref().map_or_else(|| String::from("-"), spread),
            spread(&row.mesh),
            row.ratio.map_or_else(|| String::from("-"), |ratio| format!("{ratio:.3}")),
        ]);
    }
    let width = |at: usize| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(width);
    for [measure, figure, plain, mesh, ratio] in &cells {
        writeln!(f, "{measure:a$}  {figure:b$}  {plain:>c$}  {mesh:>d$}  {ratio:>e$}")?;
    }
    Ok(())
}

fn spread(spread: &Spread) -> String {
    let [median, least, most] = [spread.median, spread.least, spread.most].map(number);
    if spread.samples.len() == 1 {
        return median;
    }
    format!("{median} ({least}..{most})")
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

fn memory_line(memory: &Memory) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "agent of {}, MiB resident: {:.1} fresh, {:.1} with 1000 idle connections, {:.1} at most",
        memory.node,
        mib(memory.fresh_bytes),
        mib(memory.idle_bytes),
        mib(memory.peak_bytes)
    )
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
        let one = Spread { median: 7.0, least: 7.0, most: 7.0, samples: vec![7.0] };
        assert_eq!(spread(&one), "7.00");
        let two = Spread { median: 7.5, least: 7.0, most: 8.0, samples: vec![7.0, 8.0] };
        assert_eq!(spread(&two), "7.50 (7.00..8.00)");
    }
}
