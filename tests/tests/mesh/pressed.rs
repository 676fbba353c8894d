//! Agents that are pressed: their own ports flooded by a pod, and a peer's certificate revoked while its tunnel is open.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Secret;
use kit::cluster::ClusterOptions;
use kit::netns;
use kube::Api;
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};

use super::bench::{Bench, pa};

const CLIENT: (&str, &str) = ("front", "client");
const WEB: &str = "http://web.back.svc.cluster.local/get";
/// Metrics and readiness of the agent.
const PORTS: [u16; 2] = [15020, 15021];
/// Connections that say nothing, to each.
const MUTE: usize = 300;
/// What may pass between a list's writing and the end of a tunnel: it is read each second, and tunnels are looked at
/// as often.
const CUT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_an_agents_ports_harms_nobody_and_a_revoked_peer_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("crl.pem");
    std::fs::write(&list, "").unwrap();
    let agent_flags = vec![format!("--crl={}", list.display())];
    let options = ClusterOptions { agent_flags, ..ClusterOptions::default() };
    let bench = Bench::streams_with(options).await;
    bench.apply(&pa("v1", "back", "default", "{ mtls: { mode: STRICT } }")).await;
    bench.shows(CLIENT, WEB, "200").await;
    let echo = bench.ip("back", "echo").await;
    let carried = async {
        let carried = bench.pulse(CLIENT, echo, "--seconds=30").await;
        (carried, Instant::now())
    };
    let pressed = async {
        flood(&bench).await;
        let revoked = revoke(&bench, &list).await;
        (revoked, Instant::now())
    };
    let ((carried, ended), (serial, written)) = tokio::join!(carried, pressed);
    let error = carried.expect_err("the tunnel of a revoked peer goes on");
    let took = ended.checked_duration_since(written).expect("it ended before it was revoked");
    eprintln!("certificate {serial} revoked: its tunnel was cut after {took:.2?}: {error:#}");
    assert!(took < CUT, "{took:?}");
    bench.shows(CLIENT, WEB, "exit 56").await;
}

/// A pod holds as many connections as it can to the ports of an agent, whose own doors and pods go on.
async fn flood(bench: &Bench) {
    let pod = bench.cluster.pod_of(CLIENT.0, CLIENT.1).await.unwrap().metadata.name.unwrap();
    let node = bench.cluster.node_of(CLIENT.0, &pod).unwrap();
    let of_pod = node.pod(CLIENT.0, &pod).unwrap().netns;
    let of_pod = of_pod.file_name().unwrap().to_str().unwrap();
    let agent = bench.agent(2).ip();
    let held = netns::within(of_pod, || hold(agent)).unwrap();
    let mut worst = Duration::ZERO;
    for _ in 0..10 {
        let asked = Instant::now();
        assert!(bench.agent(2).ready().await);
        assert!(bench.agent(2).metrics().await.unwrap().ends_with("# EOF\n"));
        worst = worst.max(asked.elapsed());
    }
    let said = bench.cluster.curl(CLIENT.0, CLIENT.1, WEB).await.unwrap();
    assert_eq!(said.status, 200, "{said:?}");
    let standing = held.into_iter().filter(is_open).count();
    eprintln!("of {} connections {standing} stand; readiness and metrics in {worst:.2?}", 2 * MUTE);
    assert!(standing <= 2 * 8, "{standing} connections of one pod stand");
    assert!(worst < Duration::from_secs(3), "{worst:?}");
}

fn hold(agent: Ipv4Addr) -> Vec<TcpStream> {
    let connect = |port| TcpStream::connect(SocketAddr::new(agent.into(), port));
    let all = PORTS.into_iter().flat_map(|port| std::iter::repeat_n(port, MUTE));
    all.map(|port| connect(port).unwrap()).collect()
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut stream = stream;
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Revokes the client's certificate; its serial number.
async fn revoke(bench: &Bench, list: &Path) -> String {
    let dump = bench.agent(1).config_dump().await.unwrap();
    let mut certificates = dump["certificates"].as_array().unwrap().iter();
    let is_clients = |identity: &&serde_json::Value| {
        identity["identity"].as_str().is_some_and(|id| id.ends_with("/ns/front/sa/client"))
    };
    let of_client = certificates.find(is_clients).context("no certificate").unwrap();
    let serial = of_client["certChain"][0]["serialNumber"].as_str().unwrap().to_owned();
    let secrets: Api<Secret> = Api::namespaced(bench.cluster.client.clone(), "istio-system");
    let root = secrets.get("sotto-ca-secret").await.unwrap().data.unwrap();
    let pem = |part: &str| std::str::from_utf8(&root[part].0).unwrap().to_owned();
    let key = KeyPair::from_pem(&pem("ca-key.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&pem("ca-cert.pem"), key).unwrap();
    // Sixteen random bytes, told in decimal as ztunnel does.
    let number: u128 = serial.parse().unwrap();
    let now = SystemTime::now();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(&number.to_be_bytes()),
        revocation_time: now.into(),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + Duration::from_secs(3600)).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    std::fs::write(list, params.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
    serial
}
