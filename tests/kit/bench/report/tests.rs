//! What is left out, what the ratios are, and that JSON keeps it all.

use super::*;
use crate::bench::load::Report;
use crate::bench::machine::Used;
use crate::bench::measure::{self, Measure};

fn sample(rate: u64, foreign: f64) -> Sample {
    let report = Report { seconds: 1.0, operations: rate, p50_us: 1.0, ..Report::default() };
    let used = Used { machine: 1.0, agents: 0.5, foreign };
    Sample { report, used, crossed: None }
}

fn connect() -> Measure {
    measure::parse("connect-1").unwrap()
}

fn round(round: u16, (plain, mesh): (u64, u64), foreign: f64) -> Sampled {
    let samples = vec![(Side::Plain, sample(plain, 0.0)), (Side::Mesh, sample(mesh, foreign))];
    Sampled { measure: connect(), round, samples }
}

fn with_other(mut of: Sampled, rate: u64, foreign: f64) -> Sampled {
    of.samples.push((Side::Other, sample(rate, foreign)));
    of
}

fn rate(samples: &[Sampled]) -> Row {
    of_loads(&connect(), samples).swap_remove(0)
}

fn plan() -> Plan {
    let measures = vec![connect()];
    Plan { rounds: 3, seconds: 1.0, churn_seconds: 5.0, patience: 0.0, measures }
}

fn machine() -> Machine {
    Machine {
        cpus: 2,
        model: String::from("m"),
        kernel: String::from("6"),
        congestion_control: String::from("bbr"),
        tunnels: [(String::from("mesh"), String::from("cubic"))].into(),
        profile: String::from("quick"),
    }
}

#[test]
fn a_disturbed_round_is_left_out_on_all_sides() {
    let row =
        rate(&[round(1, (100, 10), 0.01), round(2, (900, 90), 0.5), round(3, (200, 40), 0.05)]);
    assert_eq!(row.plain.unwrap().samples, [100.0, 200.0]);
    assert_eq!((row.mesh.median, row.mesh.least, row.mesh.most), (25.0, 10.0, 40.0));
    assert!(!row.disturbed && (row.ratio.unwrap().median - 0.15).abs() < 1e-9);
    assert!(row.other.is_none() && row.ratio_to_other.is_none());
}

#[test]
fn what_disturbs_the_other_disturbs_the_round_and_is_told() {
    let samples = [
        with_other(round(1, (100, 10), 0.0), 7, 0.3),
        with_other(round(2, (100, 30), 0.0), 20, 0.0),
    ];
    let results = Results::new(&plan(), machine(), None, &samples);
    let row = &results.rows[0];
    assert_eq!((row.mesh.samples.len(), row.other.as_ref().unwrap().samples.len()), (1, 1));
    assert!((row.ratio_to_other.unwrap().median - 1.5).abs() < 1e-9);
    let told = &results.disturbed[0];
    assert_eq!((results.disturbed.len(), told.round, told.measure.as_str()), (1, 1, "connect-1"));
    assert!((told.foreign_percent - 30.0).abs() < 1e-9);
    assert!(results.to_string().contains("connect-1 1x (up to 30 %)"), "{results}");
}

#[test]
fn a_drift_that_both_sides_share_is_not_in_the_ratio() {
    let drift = [(100, 50), (200, 100), (400, 180), (800, 640), (1600, 800)];
    let rounds: Vec<_> = (1..).zip(drift).map(|(at, rates)| round(at, rates, 0.0)).collect();
    assert!((rate(&rounds).ratio.unwrap().median - 0.5).abs() < 1e-9);
}

#[test]
fn with_nothing_undisturbed_all_are_shown_and_it_is_said() {
    let row = rate(&[round(1, (100, 10), 0.2), round(2, (100, 30), 0.3)]);
    assert!(row.disturbed);
    assert_eq!(row.mesh.samples, [10.0, 30.0]);
}

#[test]
fn only_meshes_have_agents() {
    let all = of_loads(&connect(), &[with_other(round(1, (100, 10), 0.0), 20, 0.0)]);
    let agents = all.iter().find(|row| row.figure.starts_with("agents")).unwrap();
    assert!(agents.plain.is_none() && agents.ratio.is_none());
    assert!((agents.ratio_to_other.unwrap().median - 2.0).abs() < 1e-9);
}

#[test]
fn figures_of_agents_are_matched_by_name_and_a_ratio_to_nothing_is_none() {
    let figures = |values: &[(&str, f64)]| {
        values.iter().map(|(name, value)| (String::from(*name), vec![*value])).collect()
    };
    let sides = [
        (Side::Mesh, figures(&[("MiB", 10.0), ("tunnels", 4.0)])),
        (Side::Other, figures(&[("tunnels", 0.0), ("MiB", 20.0)])),
    ];
    let rows = of_agents(&measure::parse("memory").unwrap(), &sides);
    let median = |row: &Row| row.ratio_to_other.map(|ratio| ratio.median);
    let ratios: Vec<_> = rows.iter().map(|row| (row.figure.as_str(), median(row))).collect();
    assert_eq!(ratios, [("MiB", Some(0.5)), ("tunnels", None)]);
}

#[test]
fn failures_name_measure_round_and_side() {
    let mut one = round(2, (1, 1), 0.0);
    one.samples[1].1.report.errors = 3;
    one.samples[1].1.report.first_error = Some(String::from("gone"));
    let found = failures(&one);
    assert_eq!(found.len(), 1);
    let Failure { measure, round, side, errors, first } = &found[0];
    let said = (measure.as_str(), *round, side.as_str(), *errors, first.as_str());
    assert_eq!(said, ("connect-1", 2, "mesh", 3, "gone"));
}

#[test]
fn bytes_that_did_not_cross_the_tunnel_are_a_failure() {
    let mut one = round(1, (1, 1), 0.0);
    one.samples[1].1.report.bytes = 100;
    one.samples[1].1.crossed = Some(101);
    assert!(failures(&one).is_empty());
    let expected = Crossed { side: String::from("mesh"), sent_bytes: 100, crossed_bytes: 101 };
    assert_eq!(crossed(Side::Mesh, &[one.clone()]), Some(expected));
    assert_eq!(crossed(Side::Plain, &[one.clone()]), None);
    one.samples[1].1.crossed = Some(99);
    assert!(failures(&one)[0].first.starts_with("99 of 100 bytes"));
}

#[test]
fn json_keeps_all() {
    let mut one = with_other(round(1, (100, 10), 0.2), 20, 0.0);
    one.samples[1].1.report.errors = 1;
    let results = Results::new(&plan(), machine(), Some(String::from("ztunnel")), &[one]);
    assert!(results.to_string().contains("tunnels of sotto cubic"), "{results}");
    let text = serde_json::to_string(&results).unwrap();
    assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
}
