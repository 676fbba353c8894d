use std::collections::{BTreeMap, BTreeSet};

use super::*;

const NOW: Duration = Duration::from_secs(1000);

fn client(name: &str, open: u64, last_seen: u64, denied_by: Option<&str>) -> Client {
    Client {
        destination: "bookinfo/details".into(),
        port: 9080,
        client: name.into(),
        client_enrolled: false,
        client_ips: BTreeSet::new(),
        opened: BTreeMap::new(),
        counts: Counts { open, total: 2, denied: 0 },
        last_seen,
        denied_by: denied_by.map(str::to_owned),
        passes_since: None,
    }
}

fn answer(node: &str, clients: Vec<Client>) -> Answer {
    let enrolled = BTreeMap::from([("node1".to_owned(), 1), ("node2".to_owned(), 2)]);
    Answer { node: node.into(), enrolled, clients, ..Answer::default() }
}

/// Asked and answered at once, by clocks that agree.
fn told(answers: Vec<Answer>) -> Vec<Told> {
    let told =
        |answer| Told { answer: Answer { now: 1_000_000, ..answer }, asked: NOW, answered: NOW };
    answers.into_iter().map(told).collect()
}

fn report(clients: Vec<Client>, since: Option<Duration>) -> Report {
    let answers = vec![answer("node1", clients), answer("node2", vec![])];
    Report::new(told(answers), NOW, since).unwrap()
}

#[test]
fn a_node_that_was_not_asked_is_an_error() {
    let error = Report::new(told(vec![answer("node1", vec![])]), NOW, None).unwrap_err();
    assert!(error.to_string().contains("run on node2 too"), "{error}");
}

#[test]
fn without_plaintext_nobody_would_break() {
    let report = report(vec![], None);
    assert!(!report.would_break);
    assert!(report.to_string().ends_with("\nNobody would break.\n"), "{report}");
}

#[test]
fn who_is_let_in_would_break_and_who_is_denied_would_not() {
    assert!(report(vec![client("legacy/sleep", 0, 990, None)], None).would_break);
    let denied = report(vec![client("legacy/sleep", 0, 990, Some("why"))], None);
    assert!(!denied.would_break);
    assert!(denied.to_string().contains("denied already"), "{denied}");
}

#[test]
fn clients_without_a_name_would_break() {
    let others = Counts { open: 0, total: 1, denied: 0 };
    let answers = vec![Answer { others, ..answer("node1", vec![]) }, answer("node2", vec![])];
    assert!(Report::new(told(answers), NOW, None).unwrap().would_break);
}

#[test]
fn since_leaves_out_what_is_past_but_not_what_is_open() {
    let minute = Some(Duration::from_secs(60));
    assert!(!report(vec![client("legacy/sleep", 0, 900, None)], minute).would_break);
    assert!(report(vec![client("legacy/sleep", 0, 950, None)], minute).would_break);
    assert!(report(vec![client("legacy/sleep", 1, 900, None)], minute).would_break);
}

#[test]
fn an_agent_asked_twice_counts_once() {
    let asked = || answer("node1", vec![client("legacy/sleep", 1, 990, None)]);
    let both = vec![asked(), asked(), answer("node2", vec![])];
    let report = Report::new(told(both), NOW, None).unwrap();
    assert_eq!(report.clients, [client("legacy/sleep", 1, 990, None)]);
}

#[test]
fn the_table_has_a_row_for_each_client() {
    let clients =
        vec![client("legacy/sleep", 1, 990, None), client("192.0.2.1", 0, 995, Some("x"))];
    let expected = concat!(
        "Plaintext clients since the agents of node1, node2 started:\n",
        "DESTINATION       PORT  CLIENT        OPEN  TOTAL  DENIED  SEEN     STRICT\n",
        "bookinfo/details  9080  192.0.2.1     0     2      0       5s ago   denied already\n",
        "bookinfo/details  9080  legacy/sleep  1     2      0       10s ago  breaks\n",
        "1 client would break.\n",
    );
    assert_eq!(report(clients, None).to_string(), expected);
}

#[test]
fn a_client_enrolled_since_its_last_plaintext_connection_is_told_and_would_pass() {
    let ip = "10.0.0.4".parse().unwrap();
    let enrolled = |opened| Client {
        client_enrolled: true,
        client_ips: BTreeSet::from([ip]),
        opened: BTreeMap::from([(ip, opened)]),
        ..client("legacy/sleep", 0, 990, None)
    };
    let redirected =
        vec![answer::Redirected { ips: vec![ip], since: Some(995_000), excludes: false }];
    let report = |clients| {
        let there = Answer { redirected: redirected.clone(), ..answer("node2", vec![]) };
        Report::new(told(vec![answer("node1", clients), there]), NOW, None).unwrap()
    };
    let past = report(vec![enrolled(990_000)]);
    assert!(!past.would_break);
    let expected = "was plaintext until enrolled at 1970-01-01T00:16:35Z; would pass now\n\
                    Nobody would break.\n";
    assert!(past.to_string().ends_with(expected), "{past}");
    let since = report(vec![enrolled(996_000)]);
    assert!(since.would_break);
    assert!(since.to_string().contains("breaks (enrolled by now, but"), "{since}");
    // Of two nodes that saw it, both must be past.
    let there =
        Answer { redirected: redirected.clone(), ..answer("node2", vec![enrolled(996_000)]) };
    let answers = told(vec![answer("node1", vec![enrolled(990_000)]), there]);
    assert!(Report::new(answers, NOW, None).unwrap().would_break);
}
