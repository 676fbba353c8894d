//! The bench runs, and its JSON says what its table says.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_quick_measure_takes_both_paths_without_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.json");
    let done = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--quick", "--seconds=0.2", "--only=request-1,down-1", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("congestion control") && said.contains("errors: 0"), "{said}");
    let results: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(results["failures"], Value::Array(vec![]), "{results}");
    let rows = results["rows"].as_array().unwrap();
    let row = |measure: &str, figure: &str| {
        let found = rows.iter().find(|row| row["measure"] == measure && row["figure"] == figure);
        found.unwrap_or_else(|| panic!("no {measure} {figure} in {results}"))
    };
    for (measure, figure) in [("request-1", "requests/s"), ("down-1", "Gbit/s")] {
        let row = row(measure, figure);
        for side in ["plain", "mesh"] {
            assert!(row[side]["median"].as_f64().unwrap() > 0.0, "{row}");
        }
        assert!(row["ratio"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(row("down-1", "agents CPU s/GB")["plain"].is_null());
}

#[test]
fn an_unknown_measure_is_refused_with_the_names() {
    let done = Command::new(env!("CARGO_BIN_EXE_bench")).arg("--only=speed").output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("request-1k-32"));
}
