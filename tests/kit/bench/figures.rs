//! The figures of a sample: what a reader compares.

use super::measure::Load;
use super::rounds::Sample;

/// What a number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Figure {
    /// With its unit.
    pub(super) name: &'static str,
    /// Only the mesh has it.
    pub(super) of_agents: bool,
}

const fn figure(name: &'static str) -> Figure {
    Figure { name, of_agents: false }
}

const fn of_agents(name: &'static str) -> Figure {
    Figure { name, of_agents: true }
}

const THROUGHPUT: Figure = figure("Gbit/s");
const AGENTS_PER_GB: Figure = of_agents("agents CPU s/GB");
const MACHINE_PER_GB: Figure = figure("machine CPU s/GB");
const REQUESTS: Figure = figure("requests/s");
const CONNECTIONS: Figure = figure("connections/s");
const LATE: Figure = figure("connections/s, last fifth");
const P50: Figure = figure("p50 us");
const P99: Figure = figure("p99 us");
const P50_MS: Figure = figure("p50 ms");
const SLOWEST_MS: Figure = figure("slowest ms");
const AGENTS_PER_REQUEST: Figure = of_agents("agents CPU us/request");
const AGENTS_PER_CONNECTION: Figure = of_agents("agents CPU us/connection");

/// The figures of a load's sample.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(super) fn of(load: Load, sample: &Sample) -> Vec<(Figure, f64)> {
    let (report, used) = (&sample.report, &sample.used);
    let rate = report.operations as f64 / report.seconds;
    let gigabytes = report.bytes as f64 / 1e9;
    let agents_us = used.agents * 1e6 / report.operations as f64;
    match load {
        Load::Up(_) | Load::Down(_) => vec![
            (THROUGHPUT, gigabytes * 8.0 / report.seconds),
            (AGENTS_PER_GB, used.agents / gigabytes),
            (MACHINE_PER_GB, used.machine / gigabytes),
        ],
        Load::Request { .. } => vec![
            (P50, report.p50_us),
            (P99, report.p99_us),
            (REQUESTS, rate),
            (AGENTS_PER_REQUEST, agents_us),
        ],
        Load::Connect(_) => vec![
            (CONNECTIONS, rate),
            (P50, report.p50_us),
            (P99, report.p99_us),
            (AGENTS_PER_CONNECTION, agents_us),
        ],
        Load::Churn(_) => vec![
            (CONNECTIONS, rate),
            (LATE, report.late_rate),
            (P99, report.p99_us),
            (AGENTS_PER_CONNECTION, agents_us),
        ],
        Load::AtOnce(_) => {
            vec![(P50_MS, report.p50_us / 1e3), (SLOWEST_MS, report.max_us / 1e3)]
        }
        Load::Hold | Load::Start => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::Report;
    use crate::bench::machine::Used;

    fn check(load: Load, expected: &[(&str, f64)]) {
        let report = Report {
            seconds: 2.0,
            bytes: 4_000_000_000,
            operations: 1000,
            p50_us: 50.0,
            p99_us: 99.0,
            max_us: 5000.0,
            late_rate: 400.0,
            ..Report::default()
        };
        let used = Used { machine: 3.0, agents: 2.0, foreign: 0.0 };
        let all = of(load, &Sample { report, used, crossed: None });
        let all: Vec<(&str, f64)> =
            all.iter().map(|(figure, value)| (figure.name, *value)).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn figures_are_in_their_units() {
        let bulk = [("Gbit/s", 16.0), ("agents CPU s/GB", 0.5), ("machine CPU s/GB", 0.75)];
        check(Load::Up(1), &bulk);
        let rates = [("p50 us", 50.0), ("p99 us", 99.0), ("requests/s", 500.0)];
        let request = Load::Request { bytes: 1, connections: 1 };
        check(request, &[&rates[..], &[("agents CPU us/request", 2000.0)]].concat());
        let churn = [("connections/s", 500.0), ("connections/s, last fifth", 400.0)];
        let rest = [("p99 us", 99.0), ("agents CPU us/connection", 2000.0)];
        check(Load::Churn(8), &[churn, rest].concat());
        check(Load::AtOnce(1000), &[("p50 ms", 0.05), ("slowest ms", 5.0)]);
    }
}
