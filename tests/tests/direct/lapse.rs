//! Tunnels end with what their handshakes have shown: certificates that expire or are revoked, roots that are no longer the
//! mesh's. Each end sees to it by itself.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sotto::identify::Revocations;
use sotto::tunnel::Limits;
use sotto::tunnel::tls::RecordLayer;
use tokio_util::sync::CancellationToken;

use crate::node::{Bench, Ca, alone, soon};

/// Which end looks at its tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    Dialling,
    Dialled,
    Both,
}

const HOUR: Duration = Duration::from_secs(3600);

fn with(record_layer: RecordLayer) -> Limits {
    Limits { record_layer, ..Limits::default() }
}

/// As the data threads do, but oftener.
fn look(bench: &Bench, looks: Looks) {
    if looks != Looks::Dialled {
        bench.client.context.review();
    }
    if looks != Looks::Dialling {
        bench.server.context.review();
    }
}

/// Whether the application has lost its connection.
fn is_cut(app: &mut TcpStream) -> bool {
    match app.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Ok(1..) => panic!("bytes out of nothing"),
        // An orderly end would be taken for one.
        Ok(0) => panic!("closed, not reset"),
        Err(_) => true,
    }
}

/// Looks until the application's connection is cut; tells how long that took.
async fn until_cut(bench: &mut Bench, number: usize, looks: Looks) -> Duration {
    let begun = Instant::now();
    while !is_cut(&mut bench.open[number].0) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{looks:?}: not cut");
        look(bench, looks);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

/// The connection still carries bytes.
async fn is_alive(bench: &mut Bench, number: usize) {
    let (near, far) = &mut bench.open[number];
    near.write_all(b"?").unwrap();
    soon(|| far.read_exact(&mut [0])).await;
}

#[test]
fn a_tunnel_ends_when_the_peers_certificate_expires() {
    for (looks, layer) in [
        (Looks::Dialling, RecordLayer::Own),
        (Looks::Dialled, RecordLayer::Own),
        (Looks::Both, RecordLayer::Rustls),
    ] {
        alone(60, |place| async move {
            let ca = Ca::new(Duration::from_secs(4));
            let mut bench = Bench::start(&place, ca, Revocations::default(), with(layer)).await;
            bench.open(1).await;
            let opened = Instant::now();
            while opened.elapsed() < Duration::from_secs(1) {
                look(&bench, looks);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            is_alive(&mut bench, 0).await;
            until_cut(&mut bench, 0, looks).await;
            let lived = opened.elapsed();
            println!("{looks:?} {layer:?}: cut after {lived:?}");
            // Certificates count whole seconds, and the node's had one a moment before.
            assert!(
                (Duration::from_secs(2)..Duration::from_millis(4500)).contains(&lived),
                "{lived:?}"
            );
            // Both have new certificates by now.
            bench.open(1).await;
        });
    }
}

#[test]
fn a_tunnel_ends_when_the_peers_root_is_no_longer_the_meshs() {
    for looks in [Looks::Dialling, Looks::Dialled] {
        alone(60, |place| async move {
            let ca = Ca::new(Duration::from_secs(12));
            let limits = with(RecordLayer::Own);
            let mut bench = Bench::start(&place, ca.clone(), Revocations::default(), limits).await;
            bench.open(1).await;
            ca.change_root();
            let opened = Instant::now();
            look(&bench, looks);
            is_alive(&mut bench, 0).await;
            // The next certificate brings the new root, around half of the first one's life.
            until_cut(&mut bench, 0, looks).await;
            let lived = opened.elapsed();
            println!("{looks:?}: cut after {lived:?}");
            assert!(lived < Duration::from_secs(10), "{lived:?}");
        });
    }
}

/// How many tunnels are told to have shown a certificate of another root than the present one.
fn of_old_root(bench: &Bench) -> u64 {
    let text = bench.metrics.encode().unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("sotto_tunnels_of_old_root "));
    value.unwrap().parse().unwrap()
}

/// Waits until both ends have certificates that came with both roots, around half of the first ones' life.
async fn until_both_have_both_roots(bench: &Bench) {
    let begun = Instant::now();
    let renewed = || {
        let states = bench.client.context.certificates.states();
        states.iter().all(|identity| identity.roots.len() == 2)
    };
    while !renewed() {
        assert!(begun.elapsed() < Duration::from_secs(12), "not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn when_another_root_signs_open_connections_go_on_and_new_ones_take_other_tunnels() {
    for (looks, ends) in [(Looks::Dialling, 1), (Looks::Dialled, 1), (Looks::Both, 2)] {
        alone(60, |place| async move {
            let ca = Ca::new(Duration::from_secs(12));
            let limits = with(RecordLayer::Own);
            let mut bench = Bench::start(&place, ca.clone(), Revocations::default(), limits).await;
            bench.open(1).await;
            ca.add_root();
            look(&bench, looks);
            assert_eq!(of_old_root(&bench), 0, "what was shown is of the present root");
            // The next certificates bring the new root, around half of the first ones' life.
            let begun = Instant::now();
            while of_old_root(&bench) < ends {
                assert!(begun.elapsed() < Duration::from_secs(10), "{looks:?}: not told");
                is_alive(&mut bench, 0).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                look(&bench, looks);
            }
            // Either end may be the first; the other does not believe it before its own is there.
            until_both_have_both_roots(&bench).await;
            is_alive(&mut bench, 0).await;
            bench.open(1).await;
            look(&bench, looks);
            is_alive(&mut bench, 0).await;
            is_alive(&mut bench, 1).await;
            assert_eq!(of_old_root(&bench), ends, "the new one's is of the new root");
            // The old one ends with its last stream.
            drop(bench.open.remove(0));
            while of_old_root(&bench) > 0 {
                assert!(begun.elapsed() < Duration::from_secs(20), "{looks:?}: still open");
                tokio::time::sleep(Duration::from_millis(50)).await;
                look(&bench, looks);
            }
            is_alive(&mut bench, 0).await;
        });
    }
}

#[test]
fn what_a_peer_was_shown_is_not_forgotten_when_another_process_takes_its_tunnel() {
    for looks in [Looks::Dialled, Looks::Dialling] {
        alone(60, |place| async move {
            let ca = Ca::new(Duration::from_secs(12));
            let limits = with(RecordLayer::Own);
            let mut bench = Bench::start(&place, ca.clone(), Revocations::default(), limits).await;
            bench.open(1).await;
            ca.add_root();
            // Nobody looks meanwhile: the next process is the first that might.
            until_both_have_both_roots(&bench).await;
            let node = if looks == Looks::Dialled { &bench.server } else { &bench.client };
            assert_eq!(node.move_all().await, 1, "{looks:?}");
            look(&bench, looks);
            assert_eq!(of_old_root(&bench), 1, "{looks:?}");
            is_alive(&mut bench, 0).await;
        });
    }
}

#[test]
fn a_tunnel_ends_when_the_peers_certificate_is_revoked_and_no_other_begins() {
    let layers = [RecordLayer::Own, RecordLayer::Rustls];
    let ends = [(Looks::Dialling, "server"), (Looks::Dialled, "client")];
    for (looks, revoked, layer) in ends.iter().flat_map(|(l, r)| layers.map(|x| (*l, *r, x))) {
        alone(60, |place| async move {
            let file = tempfile::NamedTempFile::new().unwrap();
            let revocations = Revocations::read(vec![file.path().to_owned()]).unwrap();
            tokio::spawn(revocations.clone().follow(CancellationToken::new()));
            let ca = Ca::new(HOUR);
            let mut bench = Bench::start(&place, ca.clone(), revocations, with(layer)).await;
            bench.open(2).await;
            look(&bench, looks);
            is_alive(&mut bench, 0).await;
            std::fs::write(file.path(), ca.revoke(revoked)).unwrap();
            let took = until_cut(&mut bench, 0, looks).await;
            assert!(took < Duration::from_secs(10), "{took:?}");
            until_cut(&mut bench, 1, looks).await;
            println!("{looks:?} {layer:?}: cut after {took:?}");
            let mut refused = bench.dial();
            refused.set_nonblocking(true).unwrap();
            refused.write_all(b"?").unwrap();
            while !is_cut(&mut refused) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
}
