use std::error::Error as _;
use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::identify::testing::{DAY, Mood, TestClock, TestSource, identity};

const REVIEWS: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

struct Fixture {
    clock: Arc<TestClock>,
    source: Arc<TestSource>,
    certificates: Certificates,
    stop: CancellationToken,
}

fn start() -> Fixture {
    let clock = TestClock::new();
    let source = TestSource::new(Arc::clone(&clock) as _);
    let (of_renewal, wall) = (Arc::clone(&source), Arc::clone(&clock) as _);
    let (certificates, renewal) =
        Certificates::new(of_renewal, wall, Revocations::default(), Duration::from_secs(30));
    let stop = CancellationToken::new();
    tokio::spawn(renewal.run(stop.clone()));
    Fixture { clock, source, certificates, stop }
}

#[tokio::test(start_paused = true)]
async fn many_that_wait_share_one_call() {
    let f = start();
    let id = identity(REVIEWS);
    assert!(f.certificates.current(&id).is_none());
    let all = futures::future::join_all((0..20).map(|_| f.certificates.svid(&id))).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|svid| Arc::ptr_eq(svid.as_ref().unwrap(), first)));
    assert_eq!(f.source.calls(), 1);
    assert_eq!(first.identity(), &id);
    assert!(Arc::ptr_eq(&f.certificates.current(&id).unwrap(), first));
}

#[tokio::test(start_paused = true)]
async fn renews_around_half_life() {
    let f = start();
    let id = identity(REVIEWS);
    let first = f.certificates.svid(&id).await.unwrap();
    tokio::time::sleep(DAY.mul_f64(0.39)).await;
    assert_eq!(f.source.calls(), 1);
    tokio::time::sleep(DAY.mul_f64(0.22)).await;
    assert_eq!(f.source.calls(), 2);
    let second = f.certificates.current(&id).unwrap();
    assert_ne!(first.serial(), second.serial());
    assert!(second.not_after() > first.not_after());
}

#[tokio::test(start_paused = true)]
async fn keeps_the_old_until_it_expires_while_the_ca_is_away() {
    let f = start();
    let id = identity(REVIEWS);
    let first = f.certificates.svid(&id).await.unwrap();
    *f.source.mood.lock() = Mood::Failing;
    tokio::time::sleep(DAY.mul_f64(0.99)).await;
    assert!(f.source.calls() > 200, "about one call every 150 s, got {}", f.source.calls());
    assert!(Arc::ptr_eq(&f.certificates.current(&id).unwrap(), &first));
    assert_eq!(f.certificates.states()[0].condition, Condition::Available);

    tokio::time::sleep(DAY.mul_f64(0.02)).await;
    assert!(f.certificates.current(&id).is_none());
    let error = f.certificates.svid(&id).await.unwrap_err();
    assert_eq!(error.to_string(), format!("no valid certificate for {REVIEWS}"));
    assert_eq!(error.source().unwrap().to_string(), "failed to get a certificate");
    let state = f.certificates.states().remove(0);
    assert_eq!(state.not_after, Some(first.not_after()));
    assert!(matches!(state.condition, Condition::Unavailable(why) if why.contains("no token")));

    *f.source.mood.lock() = Mood::Good;
    let before = f.clock.now();
    let renewed = f.certificates.svid(&id).await.unwrap();
    let waited = f.clock.now().duration_since(before).unwrap();
    assert!(
        waited <= Duration::from_secs(5),
        "a waiting connection shortens the pause: {waited:?}"
    );
    assert!(renewed.is_valid(f.clock.now()));
}

/// As with istiod: its informer learns of a pod a moment after the runtime has asked us to let that start.
#[tokio::test(start_paused = true)]
async fn a_pod_that_the_authority_does_not_know_yet_waits_for_little_longer_than_it_takes_to() {
    let f = start();
    *f.source.mood.lock() = Mood::Failing;
    let before = f.clock.now();
    let known = async {
        tokio::time::sleep(Duration::from_millis(1900)).await;
        *f.source.mood.lock() = Mood::Good;
    };
    let id = identity(REVIEWS);
    let (svid, ()) = tokio::join!(f.certificates.svid(&id), known);
    svid.unwrap();
    let waited = f.clock.now().duration_since(before).unwrap();
    assert!(waited < Duration::from_millis(3100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_pod_does_not_wait_for_what_was_refused_to_another_before() {
    let f = start();
    let id = identity(REVIEWS);
    *f.source.mood.lock() = Mood::Failing;
    f.certificates.prefetch(&id);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    *f.source.mood.lock() = Mood::Good;
    f.certificates.prefetch(&id);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(f.certificates.current(&id).is_some());
}

#[tokio::test(start_paused = true)]
async fn refuses_somebody_elses_certificate() {
    let f = start();
    *f.source.mood.lock() = Mood::Wrong;
    let error = f.certificates.svid(&identity(REVIEWS)).await.unwrap_err();
    assert_eq!(
        chain(&error),
        format!(
            "no valid certificate for {REVIEWS}: failed to use a certificate: the issued \
             certificate is for spiffe://cluster.local/ns/evil/sa/evil, want {REVIEWS}"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn eight_calls_at_once_and_waiting_connections_first() {
    let f = start();
    f.source.gate.forget_permits(Semaphore::MAX_PERMITS);
    for number in 0..20 {
        f.certificates.prefetch(&identity(&format!("spiffe://cluster.local/ns/a/sa/{number}")));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(f.source.calls(), 8);
    let id = identity(REVIEWS);
    let (svid, ()) = tokio::join!(f.certificates.svid(&id), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        f.source.gate.add_permits(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        f.source.gate.add_permits(7);
    });
    svid.unwrap();
    f.source.gate.add_permits(100);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(f.source.calls(), 21);
    assert_eq!(f.source.most_at_once.load(Ordering::Relaxed), 8);
}

#[tokio::test(start_paused = true)]
async fn forgotten_identities_are_not_renewed() {
    let f = start();
    let id = identity(REVIEWS);
    f.certificates.svid(&id).await.unwrap();
    f.certificates.forget(&id);
    assert!(f.certificates.current(&id).is_none());
    assert!(f.certificates.states().is_empty());
    tokio::time::sleep(DAY).await;
    assert_eq!(f.source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_agent_tells_those_that_wait() {
    let f = start();
    f.source.gate.forget_permits(Semaphore::MAX_PERMITS);
    let id = identity(REVIEWS);
    let (svid, ()) = tokio::join!(f.certificates.svid(&id), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        f.stop.cancel();
    });
    assert!(matches!(svid, Err(CertificateError::Forgotten(_))));
}
