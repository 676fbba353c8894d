use super::*;
use crate::control_plane::snapshot::{NodeIdentity, PodFacts};

const AGENT: &str = "sotto-abc";

fn admission() -> Admission {
    Admission {
        node_accounts: Arc::from([ObjectKey::new("istio-system", "sotto")]),
        trust_domain: "cluster.local".into(),
        workloads: false,
    }
}

fn caller() -> Caller {
    let pod = CallerPod { name: AGENT.to_owned(), uid: "u1".to_owned() };
    Caller { account: ObjectKey::new("istio-system", "sotto"), pod: Some(pod) }
}

/// The agent on node `n1`, a pod of `bookinfo/details` on `n1` and one of `bookinfo/reviews` on `n2`.
fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (namespace, name, account, uid, node) in [
        ("istio-system", AGENT, "sotto", "u1", "n1"),
        ("bookinfo", "details-1", "details", "u2", "n1"),
        ("bookinfo", "reviews-1", "reviews", "u3", "n2"),
    ] {
        let facts =
            PodFacts { uid: uid.into(), node: node.into(), service_account: account.into() };
        snapshot.pods.insert(ObjectKey::new(namespace, name), facts);
        let account = ObjectKey::new(namespace, account);
        snapshot.identities.insert(NodeIdentity { node: node.into(), account }, 1);
    }
    snapshot
}

const DETAILS: &str = "spiffe://cluster.local/ns/bookinfo/sa/details";

#[track_caller]
fn check(caller: &Caller, asked: Option<&str>, expected: Result<&str, &str>) {
    let found = admission().judge(caller, asked, &snapshot());
    let found = found.map(|id| id.to_string()).map_err(|refusal| refusal.to_string());
    assert_eq!(found.as_deref().map_err(String::as_str), expected);
}

#[test]
fn agent_may_ask_for_a_pod_of_its_node() {
    check(&caller(), Some(DETAILS), Ok(DETAILS));
}

/// A pod of `bookinfo/details`.
fn workload() -> Caller {
    let pod = CallerPod { name: "details-1".to_owned(), uid: "u2".to_owned() };
    Caller { account: ObjectKey::new("bookinfo", "details"), pod: Some(pod) }
}

#[test]
fn a_node_agent_may_have_its_own_identity() {
    check(&caller(), None, Ok("spiffe://cluster.local/ns/istio-system/sa/sotto"));
    let unbound = Caller { pod: None, ..caller() };
    check(&unbound, None, Err("token of istio-system/sotto is not bound to a pod"));
}

#[test]
fn a_workload_may_have_none_unless_that_is_set() {
    let told = "bookinfo/details is not a trusted node account (known: istio-system/sotto)";
    check(&workload(), None, Err(told));
    check(&workload(), Some(DETAILS), Err(told));
    let set = Admission { workloads: true, ..admission() };
    let judge = |caller: &Caller, asked| set.judge(caller, asked, &snapshot());
    assert_eq!(judge(&workload(), None).unwrap().to_string(), DETAILS);
    // For itself alone, and only while it is there.
    assert!(judge(&workload(), Some(DETAILS)).is_err());
    assert!(judge(&Caller { pod: None, ..workload() }, None).is_err());
    let pod = Some(CallerPod { name: "details-1".to_owned(), uid: "u9".to_owned() });
    assert!(judge(&Caller { pod, ..workload() }, None).is_err());
}

#[test]
fn only_a_trusted_node_account_may_impersonate() {
    let other = Caller { account: ObjectKey::new("bookinfo", "sotto"), ..caller() };
    let told = "bookinfo/sotto is not a trusted node account (known: istio-system/sotto)";
    check(&other, Some(DETAILS), Err(told));
}

#[test]
fn identity_must_be_well_formed_and_of_our_trust_domain() {
    check(&caller(), Some(""), Err(r#"impersonated identity "" does not start with spiffe://"#));
    let other = "spiffe://elsewhere/ns/bookinfo/sa/details";
    let told = format!("trust domain of {other} is not cluster.local");
    check(&caller(), Some(other), Err(&told));
}

#[test]
fn caller_must_be_the_pod_its_token_is_bound_to() {
    let unbound = Caller { pod: None, ..caller() };
    check(&unbound, Some(DETAILS), Err("token of istio-system/sotto is not bound to a pod"));
    let pod = |name: &str, uid: &str| Caller {
        pod: Some(CallerPod { name: name.to_owned(), uid: uid.to_owned() }),
        ..caller()
    };
    check(&pod("gone", "u1"), Some(DETAILS), Err("caller's pod istio-system/gone does not exist"));
    check(
        &pod(AGENT, "u9"),
        Some(DETAILS),
        Err("caller's pod istio-system/sotto-abc has uid u1, its token is bound to u9"),
    );
    let mut admission = admission();
    admission.node_accounts = Arc::from([ObjectKey::new("istio-system", "other")]);
    let other = Caller { account: ObjectKey::new("istio-system", "other"), ..caller() };
    let refusal = admission.judge(&other, Some(DETAILS), &snapshot()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "caller's pod istio-system/sotto-abc runs as sotto, its token is for other"
    );
}

#[test]
fn identity_must_be_on_the_caller_s_node() {
    let reviews = "spiffe://cluster.local/ns/bookinfo/sa/reviews";
    let told = format!("no pod with identity {reviews} is on node n1");
    check(&caller(), Some(reviews), Err(&told));
}

#[test]
fn only_what_a_newer_snapshot_may_mend_is_waited_for() {
    let judge = |caller: &Caller, asked| {
        admission().judge(caller, Some(asked), &snapshot()).unwrap_err().may_pass()
    };
    assert!(judge(&caller(), "spiffe://cluster.local/ns/bookinfo/sa/reviews"));
    assert!(!judge(&caller(), "spiffe://elsewhere/ns/bookinfo/sa/details"));
    assert!(!judge(&Caller { pod: None, ..caller() }, DETAILS));
}
