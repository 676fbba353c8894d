//! The rows of the table: one figure of one measure, on all sides.

use serde::{Deserialize, Serialize};

use crate::bench::figures::{self, Figure};
use crate::bench::measure::Measure;
use crate::bench::rounds::Sampled;
use crate::bench::site::Side;

use super::spread::{Ratio, Spread};

/// A figure of a measure on all sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::bench) struct Row {
    pub(in crate::bench) measure: String,
    pub(in crate::bench) title: String,
    pub(in crate::bench) figure: String,
    /// None for what only agents have.
    pub(in crate::bench) plain: Option<Spread>,
    pub(in crate::bench) mesh: Spread,
    /// None if Sotto is compared with plain TCP alone.
    pub(in crate::bench) other: Option<Spread>,
    /// Of the mesh to plain TCP.
    pub(in crate::bench) ratio: Option<Ratio>,
    /// Of the mesh to the other.
    pub(in crate::bench) ratio_to_other: Option<Ratio>,
    /// No round was undisturbed: the figures are of disturbed ones.
    pub(in crate::bench) disturbed: bool,
}

/// What was asked of agents: figures, and the samples of each.
pub(in crate::bench) type Asked = Vec<(String, Vec<f64>)>;

impl Row {
    fn new(
        measure: &Measure,
        figure: &str,
        of: impl Fn(Side) -> Option<Spread>,
        disturbed: bool,
    ) -> Option<Self> {
        let (plain, mesh, other) = (of(Side::Plain), of(Side::Mesh)?, of(Side::Other));
        let to = |base: &Option<Spread>| base.as_ref().and_then(|base| mesh.ratio_to(base));
        Some(Self {
            measure: measure.name.to_owned(),
            title: measure.title.to_owned(),
            figure: figure.to_owned(),
            ratio: to(&plain),
            ratio_to_other: to(&other),
            plain,
            mesh,
            other,
            disturbed,
        })
    }
}

/// The rows of a load: of the rounds that nobody disturbed, or of all if there is none such.
pub(in crate::bench) fn of_loads(measure: &Measure, samples: &[Sampled]) -> Vec<Row> {
    let of_measure = || samples.iter().filter(|one| one.measure.name == measure.name);
    let mut taken: Vec<&Sampled> = of_measure().filter(|one| !one.disturbed()).collect();
    let disturbed = taken.is_empty();
    if disturbed {
        taken = of_measure().collect();
    }
    let of_side = |side: Side| -> Vec<Vec<(Figure, f64)>> {
        let of = taken.iter().filter_map(|one| one.of(side));
        of.map(|sample| figures::of(measure.load, sample)).collect()
    };
    let mesh = of_side(Side::Mesh);
    let figures = mesh.first().into_iter().flatten().map(|(figure, _)| *figure);
    let row = |(at, figure): (usize, Figure)| {
        let column = |side: Side| {
            if figure.of_agents && side == Side::Plain {
                return None;
            }
            let rounds = of_side(side);
            Spread::of(rounds.iter().filter_map(|row| Some(row.get(at)?.1)).collect())
        };
        Row::new(measure, figure.name, column, disturbed)
    };
    figures.enumerate().filter_map(row).collect()
}

/// The rows of what was asked of agents: for each figure its samples, by side.
pub(in crate::bench) fn of_agents(measure: &Measure, sides: &[(Side, Asked)]) -> Vec<Row> {
    let find = |side: Side, figure: &str| {
        let (_, figures) = sides.iter().find(|(of, _)| *of == side)?;
        let (_, samples) = figures.iter().find(|(name, _)| name == figure)?;
        Spread::of(samples.clone())
    };
    let mesh = sides.iter().filter(|(side, _)| *side == Side::Mesh);
    let names = mesh.flat_map(|(_, figures)| figures).map(|(name, _)| name);
    names.filter_map(|name| Row::new(measure, name, |side| find(side, name), false)).collect()
}
