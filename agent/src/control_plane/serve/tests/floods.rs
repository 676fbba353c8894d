//! One address that does over and over what costs us work. What it gets done is printed.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::task::JoinSet;

use super::*;

const FLOODER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(2);
/// What the other side of a flood may get done in that time; far more are tried.
const BOUND: u64 = 400;

impl Server {
    fn endpoint(&self, from: IpAddr) -> Endpoint {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.root_pem))
            .domain_name(NAME);
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().local_address(Some(from))
    }
}

/// Shakes hands from [`FLOODER`] in many tasks at a time, and counts.
fn handshakes(server: &Server) -> (JoinSet<()>, Arc<AtomicU64>) {
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (endpoint, done) = (server.endpoint(FLOODER), done.clone());
        tasks.spawn(async move {
            loop {
                if endpoint.connect().await.is_ok() {
                    done.fetch_add(1, Relaxed);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    (tasks, done)
}

/// An agent gets a certificate on a connection of its own; how long that took it, trying as agents do.
async fn time_to_certificate(server: &Server, from: IpAddr) -> Duration {
    let began = Instant::now();
    loop {
        if let Ok(channel) = server.endpoint(from).connect().await {
            let mut client = IstioCertificateServiceClient::new(channel);
            if client.create_certificate(with(&AGENT, csr())).await.is_ok() {
                return began.elapsed();
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_shakes_hands_only_so_often_and_nobody_else_waits() {
    let server = start().await;
    server.snapshots.send_replace(Arc::new(node()));
    let (mut flood, done) = handshakes(&server);
    let began = Instant::now();
    while began.elapsed() < FLOOD {
        let took = time_to_certificate(&server, IpAddr::from([127, 0, 0, 1])).await;
        assert!(took < Duration::from_secs(2), "an agent elsewhere waited {took:?}");
        sleep(Duration::from_millis(100)).await;
    }
    flood.shutdown().await;
    let done = done.load(Relaxed);
    eprintln!("{done} handshakes of one address in {FLOOD:?}");
    assert!(done < BOUND, "{done}");
    server.stop().await;
}

/// It comes back to where it was known before the flood: an address is shared where nodes translate addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_known_comes_back_to_an_address_that_floods() {
    let server = start().await;
    server.snapshots.send_replace(Arc::new(node()));
    time_to_certificate(&server, FLOODER).await;
    let (mut flood, _) = handshakes(&server);
    sleep(FLOOD).await;
    let took = time_to_certificate(&server, FLOODER).await;
    eprintln!("back after {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    flood.shutdown().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_prove_nothing_are_answered_only_so_often_and_agents_always() {
    let server = start().await;
    server.snapshots.send_replace(Arc::new(node()));
    let agent = server.endpoint(FLOODER).connect().await.unwrap();
    let mut agent = IstioCertificateServiceClient::new(agent);
    agent.create_certificate(with(&AGENT, csr())).await.unwrap();
    let refused = Arc::new(AtomicU64::new(0));
    let mut flood = JoinSet::new();
    for token in [None, Some("Bearer garbage"), Some("Bearer other"), Some("Bearer slow")] {
        let (endpoint, refused) = (server.endpoint(FLOODER), refused.clone());
        flood.spawn(async move {
            loop {
                let Ok(channel) = endpoint.connect().await else { continue };
                let mut client = IstioCertificateServiceClient::new(channel);
                loop {
                    let token = token.map(|token| ("authorization", token));
                    let request = with(token.as_slice(), IstioCertificateRequest::default());
                    let status = client.create_certificate(request).await.unwrap_err();
                    match status.code() {
                        Code::Unauthenticated | Code::Unavailable | Code::PermissionDenied
                            if std::error::Error::source(&status).is_none() =>
                        {
                            refused.fetch_add(1, Relaxed);
                        }
                        _ => break,
                    }
                }
            }
        });
    }
    let began = Instant::now();
    while began.elapsed() < FLOOD {
        agent.create_certificate(with(&AGENT, csr())).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    flood.shutdown().await;
    let refused = refused.load(Relaxed);
    eprintln!("{refused} requests of one address were answered in {FLOOD:?}");
    assert!(refused < BOUND, "{refused}");
    server.stop().await;
}
