//! The root's Secret and what becomes of it: rotation while everything goes on, and manners beside another control plane.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sotto::control_plane::ca::KeptAuthority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const SECRET: (&str, &str) = ("istio-system", "sotto-ca-secret");
const MAP: &str = "istio-ca-root-cert";
/// A change of the Secret must have been taken up by then.
const TAKEN_UP: Duration = Duration::from_secs(10);

/// Another root, with its key.
fn another(name: &str) -> KeptAuthority {
    KeptAuthority::generate(name, SystemTime::now()).unwrap()
}

/// What the Secret holds of a root, in the names of the API.
fn text(api: &ApiServer, part: &str) -> String {
    let secret = api.store().typed::<Secret>().get(SECRET.0, SECRET.1).unwrap();
    String::from_utf8(secret.data.unwrap()[part].0.clone()).unwrap()
}

fn put(api: &ApiServer, parts: &[(&str, &str)]) {
    let parts: serde_json::Map<_, _> =
        parts.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
    api.store().patch("secrets", SECRET.0, SECRET.1, &json!({ "stringData": parts })).unwrap();
}

/// Certificates of a text, so that line breaks do not count.
fn ders(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

async fn get(address: SocketAddr, path: &str) -> String {
    let listens = async || TcpStream::connect(address).await.ok();
    let mut stream = until("the listener", listens).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

impl Cluster {
    async fn metric(&self, name: &str) -> Option<i64> {
        let text = get(self.config.metrics_address, "/metrics").await;
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// A certificate from a control plane whose own is verified by `root` alone: the chain, and the roots last.
    async fn certificate(&self, root: &str) -> Result<Vec<String>, String> {
        let connected = endpoint(self.config.listen, root).connect().await;
        let channel = connected.map_err(|error| format!("{error:?}"))?;
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let identity = "spiffe://cluster.local/ns/bookinfo/sa/details".to_owned();
        let kind = Some(prost_types::value::Kind::StringValue(identity));
        let fields = [("ImpersonatedIdentity".to_owned(), prost_types::Value { kind })];
        let metadata = Some(prost_types::Struct { fields: fields.into() });
        let ask = IstioCertificateRequest { csr, validity_duration: 0, metadata };
        let mut client = IstioCertificateServiceClient::new(channel);
        let answer = client.create_certificate(self.authorized(ask)).await;
        answer.map(|answer| answer.into_inner().cert_chain).map_err(|status| status.to_string())
    }
}

/// Waits until the Secret as it is now is published everywhere and signed with by every replica; at no moment did
/// anybody publish anything else than what was before and is after.
async fn taken_up(replicas: &[&Cluster], signs: &str, trusted: &[&str]) {
    let (begun, expected) =
        (Instant::now(), trusted.iter().flat_map(|root| ders(root)).collect::<Vec<_>>());
    let mut seen = Vec::new();
    loop {
        let now = replicas[0].root("bookinfo").unwrap();
        if seen.last() != Some(&now) {
            seen.push(now.clone());
        }
        let mut all = ders(&now) == expected && replicas[0].root("istio-system") == Some(now);
        for replica in replicas {
            let answer = replica.certificate(signs).await.unwrap_or_default();
            all &= answer.last().is_some_and(|roots| ders(roots) == expected);
        }
        if all {
            break;
        }
        assert!(begun.elapsed() < TAKEN_UP, "not taken up: {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen.len() <= 2, "replicas wrote over each other: {seen:?}");
    let version = || replicas[0].api.store().get("configmaps", "bookinfo", MAP).unwrap();
    let settled = version();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(version(), settled);
}

#[tokio::test]
async fn a_root_is_changed_in_three_steps_and_back_while_streams_stay_open() {
    let first = start(server()).await;
    let mut node = Node::subscribe(&first).await;
    node.until("the pod", |node| node.workloads.contains_key(DETAILS)).await;
    let second = start(first.api.clone()).await;
    second.ready().await;
    let (api, replicas) = (first.api.clone(), [&first, &second]);
    let (old, old_key) = (text(&api, "ca-cert.pem"), text(&api, "ca-key.pem"));
    let KeptAuthority { certificate: new, key: new_key, .. } = another("new");
    let both = format!("{old}{new}");
    let trust_both =
        || put(&api, &[("ca-cert.pem", &old), ("ca-key.pem", &old_key), ("root-cert.pem", &both)]);
    let sign_with_new =
        || put(&api, &[("ca-cert.pem", &new), ("ca-key.pem", &new_key), ("root-cert.pem", &both)]);
    trust_both();
    taken_up(&replicas, &old, &[&old, &new]).await;
    sign_with_new();
    taken_up(&replicas, &new, &[&new, &old]).await;
    trust_both();
    taken_up(&replicas, &old, &[&old, &new]).await;
    sign_with_new();
    taken_up(&replicas, &new, &[&new, &old]).await;
    put(&api, &[("root-cert.pem", &new)]);
    taken_up(&replicas, &new, &[&new]).await;
    first.certificate(&old).await.unwrap_err();
    sign_with_new();
    taken_up(&replicas, &new, &[&new, &old]).await;
    put(&api, &[("root-cert.pem", &new)]);
    taken_up(&replicas, &new, &[&new]).await;
    assert_eq!(first.metric("sotto_control_plane_root_refused").await, Some(0));
    // What was opened under the first root is told of what changes now.
    api.store().create(policy_kind("v1")).unwrap();
    api.store().create(policy("v1", "STRICT")).unwrap();
    node.until("STRICT", Node::strict).await;
    second.stop().await;
    check_rights(&first.stop().await);
}

#[tokio::test]
async fn an_intermediate_signs_and_answers_hold_what_stands_between() {
    let cluster = start(server()).await;
    cluster.channel().await;
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        (params, KeyPair::generate().unwrap())
    };
    let (params, key) = authority("offline root");
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let (params, key) = authority("upper");
    let upper = params.signed_by(&key, &issuer).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let (params, key) = authority("signs");
    let signs = params.signed_by(&key, &issuer).unwrap().pem();
    // As cert-manager leaves it, in the place of what we made.
    let store = cluster.api.store();
    store.delete("secrets", SECRET.0, SECRET.1, &DeleteOptions::default()).unwrap();
    let mut secret = object("v1", "Secret", SECRET.0, SECRET.1);
    secret["type"] = json!("kubernetes.io/tls");
    secret["stringData"] = json!({
        "tls.crt": format!("{signs}{upper}"), "tls.key": key.serialize_pem(), "ca.crt": root,
    });
    store.create(secret).unwrap();
    taken_up(&[&cluster], &root, &[&root]).await;
    let answer = cluster.certificate(&root).await.unwrap();
    assert_eq!(answer[1..], [signs, upper, root]);
    assert!(cluster.metric("sotto_control_plane_intermediate_expiry_seconds").await > Some(0));
    check_rights(&cluster.stop().await);
}

#[tokio::test]
async fn what_nothing_can_be_signed_with_is_told_and_the_last_good_root_stays() {
    let cluster = start(server()).await;
    cluster.channel().await;
    let api = cluster.api.clone();
    let before = cluster.root("bookinfo").unwrap();
    put(&api, &[("root-cert.pem", &another("other").certificate)]);
    until("a refusal", async || {
        (cluster.metric("sotto_control_plane_root_refused").await == Some(1)).then_some(())
    })
    .await;
    let told = until("an event", async || {
        let events = api.store().list("events", SECRET.0, "").ok()?;
        events.into_iter().find(|event| event["reason"] == "InvalidRoot")
    })
    .await;
    assert_eq!(told["involvedObject"]["name"], SECRET.1);
    let note = told["message"].as_str().unwrap();
    assert!(note.contains("leads to no trusted root"), "{note}");
    let answer = cluster.certificate(&before).await.unwrap();
    assert_eq!(answer.last(), Some(&before));
    // Missing ConfigMaps are still made, of what is in use.
    let maps = api.store().typed::<ConfigMap>();
    maps.delete("bookinfo", MAP, &DeleteOptions::default()).unwrap();
    until("the replacement", async || cluster.root("bookinfo").filter(|root| *root == before))
        .await;
    put(&api, &[("root-cert.pem", &text(&api, "ca-cert.pem"))]);
    until("no refusal", async || {
        (cluster.metric("sotto_control_plane_root_refused").await == Some(0)).then_some(())
    })
    .await;
    // Gone is not replaced by who runs.
    api.store().delete("secrets", SECRET.0, SECRET.1, &DeleteOptions::default()).unwrap();
    until("a refusal", async || {
        (cluster.metric("sotto_control_plane_root_refused").await == Some(1)).then_some(())
    })
    .await;
    cluster.certificate(&before).await.unwrap();
    assert!(api.store().get("secrets", SECRET.0, SECRET.1).is_err());
    check_rights(&cluster.stop().await);
}

#[tokio::test]
async fn a_private_key_beside_a_certificate_is_never_published() {
    let api = server();
    let KeptAuthority { certificate, key, .. } = another("both in one");
    let mut secret = object("v1", "Secret", SECRET.0, SECRET.1);
    let one = format!("{certificate}{}", *key);
    secret["stringData"] = json!({ "ca-cert.pem": one, "ca-key.pem": *key });
    api.store().create(secret).unwrap();
    let mut cluster = start(api).await;
    let ended = tokio::time::timeout(PATIENCE, &mut cluster.running).await.unwrap().unwrap();
    let error = sotto::error::chain(&ended.unwrap_err());
    assert!(error.contains("holds a private key"), "{error}");
    assert_eq!((cluster.root("istio-system"), cluster.root("bookinfo")), (None, None));
    cluster.shutdown.drain(PATIENCE).await.unwrap();
}

/// A ConfigMap as istiod makes it.
fn istiods(namespace: &str) -> Value {
    let mut map = object("v1", "ConfigMap", namespace, MAP);
    map["metadata"]["labels"] = json!({ "istio.io/config": "true" });
    map["data"] = json!({ "root-cert.pem": another("istiod").certificate });
    map
}

#[tokio::test]
async fn beside_istiod_nothing_is_published_and_it_is_not_ready() {
    let api = server();
    let theirs = api.store().create(istiods("istio-system")).unwrap();
    let cluster = start(api).await;
    let ready = until("what is pending", async || {
        let text = get(cluster.config.ready_address, "/healthz/ready").await;
        text.contains("pending: ConfigMap").then_some(text)
    })
    .await;
    assert!(ready.starts_with("HTTP/1.1 500 ") && ready.contains("another control plane keeps it"));
    assert_eq!(cluster.metric("sotto_control_plane_root_of_others").await, Some(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let store = cluster.api.store();
    assert_eq!(store.get("configmaps", "istio-system", MAP).unwrap(), theirs);
    assert!(cluster.root("bookinfo").is_none());
    // istiod has gone, and somebody has tidied up after it.
    store.delete("configmaps", "istio-system", MAP, &DeleteOptions::default()).unwrap();
    until("ours", async || cluster.root("bookinfo")).await;
    until("ready", async || {
        let text = get(cluster.config.ready_address, "/healthz/ready").await;
        text.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
    check_rights(&cluster.stop().await);
}

/// Who may write in a namespace must not be able to stop the control plane by a label.
#[tokio::test]
async fn another_control_planes_configmap_in_one_namespace_is_left_alone_and_stops_nothing() {
    let api = server();
    let theirs = api.store().create(istiods("bookinfo")).unwrap();
    let cluster = start(api).await;
    cluster.ready().await;
    assert_eq!(cluster.metric("sotto_control_plane_root_of_others").await, Some(1));
    let text = get(cluster.config.ready_address, "/healthz/ready").await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert_eq!(cluster.api.store().get("configmaps", "bookinfo", MAP).unwrap(), theirs);
    check_rights(&cluster.stop().await);
}

#[tokio::test]
async fn a_root_that_ends_soon_is_told_and_counted_down() {
    let api = server();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    (params.not_before, params.not_after) = ((now - day * 365).into(), (now + day * 10).into());
    let key = KeyPair::generate().unwrap();
    let mut secret = object("v1", "Secret", SECRET.0, SECRET.1);
    secret["stringData"] = json!({
        "ca-cert.pem": params.self_signed(&key).unwrap().pem(), "ca-key.pem": key.serialize_pem(),
    });
    api.store().create(secret).unwrap();
    let cluster = start(api).await;
    cluster.channel().await;
    until("an event", async || {
        let events = cluster.api.store().list("events", SECRET.0, "").ok()?;
        events.into_iter().find(|event| event["reason"] == "RootExpiring")
    })
    .await;
    let left = cluster.metric("sotto_control_plane_root_expiry_seconds{").await.unwrap();
    assert!((left - 10 * 24 * 3600).abs() < 60, "{left}");
    let left = cluster.metric("sotto_control_plane_serving_expiry_seconds").await.unwrap();
    assert!((left - 24 * 3600).abs() < 60, "{left}");
    check_rights(&cluster.stop().await);
}
