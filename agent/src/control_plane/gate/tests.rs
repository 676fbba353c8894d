use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { per_source: 3, total: 8 };

fn gate() -> Gate {
    Gate::new(LIMITS, Counter::default())
}

fn source(last: u8) -> Source {
    Source::from(IpAddr::from([10, 0, 0, last]))
}

fn standing(tickets: &[Ticket]) -> Vec<bool> {
    tickets.iter().map(|ticket| !ticket.stop.is_cancelled()).collect()
}

#[test]
fn a_source_that_has_many_pushes_out_its_own_oldest() {
    let gate = gate();
    let other = gate.admit(source(1));
    let flood: Vec<Ticket> = (0..5).map(|_| gate.admit(source(2))).collect();
    assert_eq!(standing(&flood), [false, false, true, true, true]);
    assert!(!other.stop.is_cancelled());
    assert_eq!(gate.dropped.get(), 2);
}

#[test]
fn whoever_comes_when_all_is_full_pushes_out_the_oldest_of_who_has_most() {
    let gate = gate();
    let some: Vec<Ticket> = [1, 2, 2, 2, 3, 3, 3, 4].map(|s| gate.admit(source(s))).into();
    let new = gate.admit(source(5));
    assert_eq!(standing(&some), [true, false, true, true, true, true, true, true]);
    assert!(!new.stop.is_cancelled());
    // One each: the oldest of all.
    drop((some, new));
    let each: Vec<Ticket> = (1..=9).map(|s| gate.admit(source(s))).collect();
    assert!(each[0].stop.is_cancelled() && standing(&each[1..]).iter().all(|stands| *stands));
}

#[test]
fn who_has_proven_it_takes_no_room() {
    let gate = gate();
    let proven: Vec<Ticket> = (0..20)
        .map(|_| {
            let ticket = gate.admit(source(1));
            ticket.prove();
            ticket
        })
        .collect();
    assert!(proven.iter().all(|ticket| ticket.proven() && !ticket.stop.is_cancelled()));
    assert_eq!(gate.book.lock().total, 0);
    assert!(gate.book.lock().sources.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_asks_too_much_without_proof_is_cut_and_no_proven_neighbour() {
    let gate = gate();
    let (neighbour, stranger) = (gate.admit(source(1)), gate.admit(source(1)));
    neighbour.prove();
    assert!((0..10_000).any(|_| !stranger.spend()));
    assert!(stranger.ends());
    assert!((0..10_000).all(|_| neighbour.spend()) && !neighbour.ends());
    assert!(gate.admit(source(2)).spend());
    assert_eq!(gate.dropped.get(), 1);
}

proptest! {
    #[test]
    fn no_limit_is_ever_passed_and_nothing_is_left_behind(
        steps in proptest::collection::vec((0_u8..12, 0_usize..4), 1..200),
    ) {
        let gate = gate();
        let mut tickets: Vec<Ticket> = Vec::new();
        for (from, what) in steps {
            match what {
                0 if !tickets.is_empty() => drop(tickets.swap_remove(usize::from(from) % tickets.len())),
                1 if !tickets.is_empty() => tickets[usize::from(from) % tickets.len()].prove(),
                _ => {
                    let new = gate.admit(source(from));
                    prop_assert!(!new.stop.is_cancelled());
                    tickets.push(new);
                }
            }
            let book = gate.book.lock();
            let counted: usize = book.sources.values().map(BTreeMap::len).sum();
            prop_assert_eq!(counted, book.total);
            prop_assert!(book.total <= LIMITS.total);
            prop_assert!(book.sources.values().all(|c| !c.is_empty() && c.len() <= LIMITS.per_source));
        }
        drop(tickets);
        prop_assert!(gate.book.lock().sources.is_empty());
    }
}
