use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::app::migrate::answer::{Counts, Redirected};

const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 4));
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));
/// Ahead of the asker's clock by so many milliseconds.
const AHEAD: u64 = 1_000_000;

/// The client's pod last opened a connection at 5 s of its destination's clock.
fn client() -> Client {
    Client {
        destination: "bookinfo/details".into(),
        port: 9080,
        client: "legacy/sleep".into(),
        client_enrolled: true,
        client_ips: BTreeSet::from([POD]),
        opened: BTreeMap::from([(POD, 5000)]),
        counts: Counts { open: 0, total: 1, denied: 0 },
        last_seen: 5,
        denied_by: None,
        passes_since: None,
    }
}

fn redirected(ip: IpAddr, since: Option<u64>) -> Redirected {
    Redirected { ips: vec![ip], since, excludes: false }
}

/// What a node told at 10 s of the asker's clock, which took it 100 ms.
fn told(node: &str, ahead: u64, redirected: Vec<Redirected>) -> Told {
    let answer = Answer {
        node: node.into(),
        now: 10_050 + ahead,
        redirected: redirected
            .into_iter()
            .map(|pod| Redirected { since: pod.since.map(|since| since + ahead), ..pod })
            .collect(),
        ..Answer::default()
    };
    Told { answer, asked: Duration::from_millis(10_000), answered: Duration::from_millis(10_100) }
}

/// Whether `client` passes, told of by a node whose own pods are `here`, with `there` on another,
/// which has a clock of its own.
#[track_caller]
fn check(client: &Client, here: Vec<Redirected>, there: Vec<Redirected>, passes: bool) {
    let all = [told("node1", 0, here), told("node2", AHEAD, there)];
    let since = Redirections::new(&all).pass_since(client, &all[0]);
    assert_eq!(since.is_some(), passes, "{client:?}");
}

#[test]
fn who_was_redirected_after_its_last_plaintext_connection_passes() {
    check(&client(), vec![redirected(POD, Some(5001))], vec![], true);
    check(&client(), vec![redirected(POD, Some(6000))], vec![], true);
    let all = [told("node1", 0, vec![redirected(POD, Some(6000))])];
    assert_eq!(Redirections::new(&all).pass_since(&client(), &all[0]), Some(6));
}

#[test]
fn who_came_in_the_clear_since_then_does_not() {
    check(&client(), vec![redirected(POD, Some(5000))], vec![], false);
    check(&client(), vec![redirected(POD, Some(4000))], vec![], false);
}

#[test]
fn of_two_nodes_the_times_are_compared_with_all_that_is_uncertain_against_the_client() {
    check(&client(), vec![], vec![redirected(POD, Some(5200))], true);
    check(&client(), vec![], vec![redirected(POD, Some(5101))], true);
    check(&client(), vec![], vec![redirected(POD, Some(5100))], false);
    check(&client(), vec![], vec![redirected(POD, Some(4900))], false);
}

#[test]
fn an_open_connection_breaks_whatever_else() {
    let open = Client { counts: Counts { open: 1, total: 1, denied: 0 }, ..client() };
    check(&open, vec![redirected(POD, Some(6000))], vec![], false);
}

#[test]
fn a_client_that_is_not_enrolled_or_not_known_breaks() {
    let not = Client { client_enrolled: false, ..client() };
    check(&not, vec![redirected(POD, Some(6000))], vec![], false);
    let gone = Client { client_ips: BTreeSet::new(), ..client() };
    check(&gone, vec![redirected(POD, Some(6000))], vec![], false);
}

#[test]
fn without_the_word_of_its_own_agent_a_client_breaks() {
    check(&client(), vec![], vec![], false);
    check(&client(), vec![redirected(OTHER, Some(6000))], vec![], false);
}

#[test]
fn a_pod_captured_before_its_agent_started_breaks() {
    check(&client(), vec![redirected(POD, None)], vec![], false);
}

#[test]
fn a_pod_that_keeps_destinations_out_of_the_mesh_breaks() {
    let pod = Redirected { excludes: true, ..redirected(POD, Some(6000)) };
    check(&client(), vec![pod], vec![], false);
}

#[test]
fn an_address_that_two_nodes_claim_breaks() {
    let both = || vec![redirected(POD, Some(6000))];
    check(&client(), both(), both(), false);
}

#[test]
fn every_replica_must_be_redirected_and_each_since_its_own_last() {
    let two = Client {
        client_ips: BTreeSet::from([POD, OTHER]),
        opened: BTreeMap::from([(POD, 5000), (OTHER, 7000)]),
        ..client()
    };
    let both = |pod, other| vec![redirected(POD, Some(pod)), redirected(OTHER, Some(other))];
    check(&two, both(5500, 7500), vec![], true);
    check(&two, both(7500, 6500), vec![], false);
    check(&two, vec![redirected(POD, Some(8000))], vec![], false);
}

#[test]
fn a_pod_that_is_gone_must_be_older_than_the_newest_of_its_successors() {
    let gone = Client {
        client_ips: BTreeSet::from([OTHER]),
        opened: BTreeMap::from([(POD, 5000)]),
        ..client()
    };
    check(&gone, vec![redirected(OTHER, Some(6000))], vec![], true);
    check(&gone, vec![redirected(OTHER, Some(4000))], vec![], false);
    // The address is another's now.
    let pods = || vec![redirected(OTHER, Some(4000)), redirected(POD, Some(6000))];
    check(&gone, pods(), vec![], false);
}
