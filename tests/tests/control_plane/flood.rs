//! A control plane that somebody floods lets an agent in all the same.
//!
//! Who floods has one address (127.0.0.2), the agent another. How long the agent's stream takes to
//! bring its first response is printed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use sotto_proto::ads::DeltaDiscoveryResponse;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::*;

const FLOODER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// What an agent may take under any flood, of this process too, on a busy machine; without one it
/// takes some hundredths of a second.
const SOON: Duration = Duration::from_secs(8);

async fn connect(to: SocketAddr, from: IpAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let connected = tokio::time::timeout(PATIENCE, socket.connect(to)).await;
    connected.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

/// Keeps `count` connections open, each with `first` bytes sent and no more; those that the other
/// side closes are opened again.
fn stand(to: SocketAddr, count: usize, first: &'static [u8]) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        tasks.spawn(async move {
            loop {
                if let Ok(mut stream) = connect(to, FLOODER).await
                    && stream.write_all(first).await.is_ok()
                {
                    let mut rest = Vec::new();
                    drop(stream.read_to_end(&mut rest).await);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    tasks
}

/// How long an agent takes from nothing to the first response of its stream.
async fn time_to_ready(cluster: &Cluster) -> Duration {
    let began = Instant::now();
    let ready = async {
        // An agent tries again, too.
        loop {
            let tried = tokio::time::timeout(Duration::from_secs(10), subscribe(cluster)).await;
            if let Ok(Ok(_)) = tried {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.map_or(PATIENCE, |()| began.elapsed())
}

async fn subscribe(cluster: &Cluster) -> Result<DeltaDiscoveryResponse, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let channel = cluster.connect().await.map_err(|error| told(&error))?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let (requests, outgoing) = mpsc::channel(8);
    let type_url = ADDRESS_TYPE.to_owned();
    requests.send(DeltaDiscoveryRequest { type_url, ..Default::default() }).await.unwrap();
    let request = cluster.authorized(ReceiverStream::new(outgoing));
    let stream = client.delta_aggregated_resources(request).await.map_err(|e| told(&e))?;
    let first = stream.into_inner().message().await.map_err(|e| told(&e))?;
    first.ok_or_else(|| "ended".to_owned())
}

#[track_caller]
fn judge(what: &str, took: Duration) {
    eprintln!("ready under {what}: {took:.2?}");
    assert!(took < SOON, "under {what} an agent was kept out for {took:?}");
}

/// A TLS record that announces a ClientHello of 512 bytes, and its first.
const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_keep_an_agent_out() {
    let cluster = start(server()).await;
    cluster.channel().await;
    for count in [0, 600, 1500] {
        let flood = stand(cluster.config.listen, count, b"");
        tokio::time::sleep(Duration::from_secs(2)).await;
        judge(&format!("{count} idle connections"), time_to_ready(&cluster).await);
        drop(flood);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_handshakes_do_not_keep_an_agent_out() {
    let cluster = start(server()).await;
    cluster.channel().await;
    let flood = stand(cluster.config.listen, 1500, HALF_A_HELLO);
    tokio::time::sleep(Duration::from_secs(2)).await;
    judge("1500 half handshakes", time_to_ready(&cluster).await);
    drop(flood);
    cluster.stop().await;
}

/// Asks for certificates with tokens that are none, for ever, on `connections` of its own.
fn garbage(cluster: &Cluster, root: &str, connections: usize, at_once: usize) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let endpoint = endpoint(cluster.config.listen, root).local_address(Some(FLOODER));
    for connection in 0..connections {
        let endpoint = endpoint.clone();
        tasks.spawn(async move {
            loop {
                let Ok(channel) = endpoint.connect().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let mut calls = JoinSet::new();
                for call in 0..at_once {
                    let mut client = IstioCertificateServiceClient::new(channel.clone());
                    calls.spawn(async move {
                        for at in 0_u64.. {
                            let mut request = Request::new(IstioCertificateRequest::default());
                            let token = format!("Bearer garbage-{connection}-{call}-{at}");
                            request.metadata_mut().insert("authorization", token.parse().unwrap());
                            let Err(status) = client.create_certificate(request).await else {
                                continue;
                            };
                            if status.code() != tonic::Code::Unauthenticated {
                                return;
                            }
                        }
                    });
                }
                while calls.join_next().await.is_some() {}
            }
        });
    }
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_none_do_not_keep_an_agent_out() {
    let cluster = start(server()).await;
    cluster.channel().await;
    let root = cluster.root("istio-system").unwrap();
    let flood = garbage(&cluster, &root, 100, 50);
    tokio::time::sleep(Duration::from_secs(3)).await;
    judge("5000 calls with garbage for tokens", time_to_ready(&cluster).await);
    drop(flood);
    cluster.stop().await;
}

/// A connection whose caller proves nothing ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_proves_nothing_is_closed() {
    let cluster = start(server()).await;
    let channel = cluster.channel().await;
    let mut client = IstioCertificateServiceClient::new(channel);
    let refused = client.create_certificate(IstioCertificateRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let root = cluster.root("istio-system").unwrap();
    let mut roots = rustls::RootCertStore::empty();
    use rustls_pki_types::pem::PemObject as _;
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = connect(cluster.config.listen, FLOODER).await.unwrap();
    let name = "istiod.istio-system.svc".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let began = Instant::now();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "an idle connection stands");
    eprintln!("closed after {:.2?}", began.elapsed());
    cluster.stop().await;
}
