use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::identify::revocation::Revocations;
use crate::identify::svid::Svid;
use crate::identify::testing::{DAY, TestCa, TestClock, TestSource, identity};

const IDENTITIES: usize = 20;

/// Files as the kubelet mounts them, and a node's certificates.
struct Node {
    directory: TempDir,
    source: Arc<TestSource>,
    certificates: Certificates,
    stop: CancellationToken,
}

fn name(number: usize) -> crate::mesh::SpiffeId {
    identity(&format!("spiffe://cluster.local/ns/shop/sa/{number}"))
}

async fn start() -> Node {
    let clock = TestClock::new();
    let source = TestSource::new(Arc::clone(&clock) as _);
    let directory = tempfile::tempdir().unwrap();
    let of_renewal = Arc::clone(&source);
    let (certificates, renewal) =
        Certificates::new(of_renewal, clock, Revocations::default(), Duration::from_secs(30));
    let node = Node { directory, source, certificates, stop: CancellationToken::new() };
    node.mount(&node.source.ca.lock().root_pem);
    let file = node.directory.path().join("root-cert.pem");
    std::os::unix::fs::symlink("..data/root-cert.pem", &file).unwrap();
    tokio::spawn(renewal.run(node.stop.clone()));
    tokio::spawn(follow(file, node.certificates.clone(), node.stop.clone()));
    for number in 0..IDENTITIES {
        node.certificates.svid(&name(number)).await.unwrap();
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(node.source.calls(), IDENTITIES);
    node
}

impl Node {
    /// Another directory, to which the link then leads.
    fn mount(&self, pem: &str) {
        let path = self.directory.path();
        let version = path.join(format!("..{}", rand::random::<u64>()));
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("root-cert.pem"), pem).unwrap();
        let link = path.join("..data_tmp");
        std::os::unix::fs::symlink(&version, &link).unwrap();
        std::fs::rename(link, path.join("..data")).unwrap();
    }

    fn svids(&self) -> Vec<Arc<Svid>> {
        (0..IDENTITIES).map(|number| self.certificates.current(&name(number)).unwrap()).collect()
    }

    fn all_hang_on(&self, ca: &TestCa) -> bool {
        self.svids().iter().all(|svid| svid.roots()[0].pem == ca.root_pem)
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_roots_change_every_certificate_is_renewed_within_half_a_minute() {
    let node = start().await;
    let before = node.svids();
    *node.source.ca.lock() = TestCa::new();
    node.mount(&node.source.ca.lock().root_pem);
    sleep(Duration::from_secs(10)).await;
    let early = node.source.calls() - IDENTITIES;
    assert!(early < IDENTITIES, "all at once");
    sleep(Duration::from_secs(24)).await;
    assert_eq!(node.source.calls(), IDENTITIES * 2);
    assert!(node.all_hang_on(&node.source.ca.lock()));
    for (old, new) in before.iter().zip(node.svids()) {
        assert_ne!((old.trust(), old.root()), (new.trust(), new.root()));
    }
    // After that, as ever.
    sleep(DAY.mul_f64(0.35)).await;
    assert_eq!(node.source.calls(), IDENTITIES * 2);
    node.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn the_same_roots_in_another_file_renew_nothing() {
    let node = start().await;
    let pem = format!("# the same\n{}", node.source.ca.lock().root_pem);
    node.mount(&pem);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(node.source.calls(), IDENTITIES);
    node.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn what_holds_no_roots_renews_nothing_and_the_next_file_counts() {
    let node = start().await;
    for bad in ["", "nonsense", "-----BEGIN CERTIFICATE-----\n"] {
        node.mount(bad);
        sleep(Duration::from_secs(100)).await;
    }
    assert_eq!(node.source.calls(), IDENTITIES);
    *node.source.ca.lock() = TestCa::new();
    node.mount(&node.source.ca.lock().root_pem);
    sleep(Duration::from_secs(40)).await;
    assert_eq!(node.source.calls(), IDENTITIES * 2);
    node.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_does_not_know_of_the_change_yet_is_asked_again() {
    let node = start().await;
    let new = TestCa::new();
    node.mount(&new.root_pem);
    sleep(Duration::from_secs(60)).await;
    *node.source.ca.lock() = new;
    sleep(Duration::from_secs(32)).await;
    assert!(node.all_hang_on(&node.source.ca.lock()));
    node.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn answers_that_never_hold_the_files_roots_are_not_asked_for_for_ever() {
    let node = start().await;
    node.mount(&TestCa::new().root_pem);
    sleep(Duration::from_secs(160)).await;
    let calls = node.source.calls();
    assert!(calls <= IDENTITIES * 40, "{calls}");
    sleep(DAY.mul_f64(0.3)).await;
    assert_eq!(node.source.calls(), calls);
    node.stop.cancel();
}
