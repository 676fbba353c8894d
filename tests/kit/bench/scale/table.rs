//! What was measured of meshes of several sizes.

use std::fmt;

use serde::Serialize;

use super::Side;

/// All figures: each of a size and of a side, with every sample.
#[derive(Debug, Default, Serialize)]
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) workloads: usize,
    pub(super) name: &'static str,
    pub(super) side: &'static str,
    pub(super) samples: Vec<f64>,
}

impl Table {
    pub(super) fn add(
        &mut self,
        (workloads, side): (usize, Side),
        name: &'static str,
        sample: f64,
    ) {
        let side = side.word();
        let is =
            |row: &&mut Row| row.workloads == workloads && row.name == name && row.side == side;
        match self.rows.iter_mut().find(is) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { workloads, name, side, samples: vec![sample] }),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>9}  {:<44} {:<6} {:>9} {:>9} {:>9}",
            "workloads", "", "", "median", "least", "most"
        )?;
        for Row { workloads, name, side, samples } in &self.rows {
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
            let (median, most) = (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)));
            writeln!(
                f,
                "{workloads:>9}  {name:<44} {side:<6} {median:>9.2} {:>9.2} {most:>9.2}",
                at(0)
            )?;
        }
        Ok(())
    }
}
