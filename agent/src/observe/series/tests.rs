use super::*;
use crate::observe::labels::Reporter;

fn labels(name: &str) -> ConnectionLabels {
    let mut labels = ConnectionLabels::overflow(Reporter::Source, true);
    labels.source.workload = name.into();
    labels
}

fn names(table: &Table, now: Instant) -> Vec<(String, u64)> {
    let mut rows: Vec<_> = table
        .collect(now, IDLE)
        .iter()
        .map(|(labels, totals)| (labels.source.workload.to_string(), totals.opened))
        .collect();
    rows.sort();
    rows
}

#[test]
fn a_set_is_looked_up_once_and_counted_in_one_place() {
    let table = Table::new(8);
    let (mut one, mut two) = (Cache::default(), Cache::default());
    for cache in [&mut one, &mut two] {
        cache.counts(&table, labels("a")).open();
        cache.counts(&table, labels("a")).open();
    }
    assert_eq!(names(&table, Instant::now()), [("a".to_owned(), 4)]);
    let threads = table.sets.lock().values().map(|set| set.threads.len()).sum::<usize>();
    assert_eq!(threads, 2, "one per thread");
}

#[test]
fn an_idle_set_goes_and_starts_from_zero_when_it_comes_again() {
    let table = Table::new(8);
    let mut cache = Cache::default();
    let start = Instant::now();
    cache.counts(&table, labels("a")).open();
    assert_eq!(names(&table, start), [("a".to_owned(), 1)]);
    assert_eq!(names(&table, start + IDLE / 2), [("a".to_owned(), 1)]);
    assert_eq!(names(&table, start + IDLE), []);
    assert_eq!(table.dropped(), 1);
    cache.counts(&table, labels("a")).open();
    assert_eq!(names(&table, start), [("a".to_owned(), 1)]);
}

#[test]
fn a_set_with_an_open_connection_stays_and_loses_nothing() {
    let table = Table::new(8);
    let mut cache = Cache::default();
    let start = Instant::now();
    let open = cache.counts(&table, labels("a"));
    open.open();
    assert_eq!(names(&table, start), [("a".to_owned(), 1)]);
    assert_eq!(names(&table, start + IDLE * 2), [("a".to_owned(), 1)]);
    open.close();
    drop(open);
    let rows = table.collect(start + IDLE * 2, IDLE);
    assert_eq!(rows[0].1.closed, 1, "the last counts are scraped before the set goes");
    assert_eq!(names(&table, start + IDLE * 3), []);
}

#[test]
fn a_full_table_makes_room_by_dropping_what_nobody_uses() {
    let table = Table::new(8);
    let mut cache = Cache::default();
    let open = cache.counts(&table, labels("open"));
    for i in 0..100 {
        cache.counts(&table, labels(&i.to_string())).open();
    }
    let rows = names(&table, Instant::now());
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().any(|(name, _)| name == "open"));
    assert!(rows.iter().any(|(name, _)| name == "99"));
    assert_eq!(table.dropped(), 93);
    assert!(cache.known.len() <= 9);
    drop(open);
}

#[test]
fn with_every_set_in_use_connections_are_counted_as_unknown() {
    let table = Table::new(2);
    let mut cache = Cache::default();
    let held: Vec<_> = ["a", "b", "c", "d"].map(|name| cache.counts(&table, labels(name))).into();
    held.iter().for_each(|counts| counts.open());
    let rows = names(&table, Instant::now());
    let expected = [("a".to_owned(), 1), ("b".to_owned(), 1), ("unknown".to_owned(), 2)];
    assert_eq!(rows, expected);
}
