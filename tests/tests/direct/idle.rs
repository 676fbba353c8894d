//! What a connection that does nothing holds, on both of its nodes: a node has thousands of them.
//!
//! Both agents' data threads are this one, in a network namespace of its own. Applications' ends are
//! sockets outside the runtime, which need no heap.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kit::lab::Lab;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use rustls_pki_types::CertificateDer;
use sotto::capture::{Captured, PodCapture, Role, StandIns};
use sotto::connection::{Context, OfPod, Quota, Shared, Timings, handle};
use sotto::identify::ca::CaError;
use sotto::identify::certs::{CertificateSource, Certificates};
use sotto::identify::clock::SystemClock;
use sotto::identify::svid::Issued;
use sotto::mesh::local::Exclusions;
use sotto::mesh::{LocalPod, MeshEvent, PodUid, ResourceKind, SpiffeId, Store, Workload};
use sotto::observe::Metrics;
use sotto::sys::Netns;
use sotto::sys::netlink::{Netlink, Route, RouteKind};
use sotto::sys::socket;
use sotto::tunnel::Limits;
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::HEAP;

/// The client's pod; the server's is where the kernel's own address on loopback is.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Opened before the first look, so that tunnels, tables and buffers are there.
const WARM: usize = 100;
const OPENED: usize = 1000;
/// Bytes of heap that both ends of an idle connection may hold together. Most are the runtime's: a
/// registration of each of the two sockets (256 bytes each), and two tasks.
const MOST: usize = 3800;

/// Certifies whomever it is asked for.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }
}

impl CertificateSource for Ca {
    async fn issue(&self, identity: &SpiffeId) -> Result<Issued, CaError> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + Duration::from_secs(3600)).into();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = Zeroizing::new(key.serialize_der());
        Ok(Issued { chain: vec![leaf.der().clone()], roots: vec![self.root.clone()], key })
    }
}

/// Where both pods are.
#[derive(Clone)]
struct Place {
    netns: Netns,
    stand_ins: StandIns,
}

/// A data thread of a node with one pod.
struct Node {
    context: Rc<Context>,
    pod: Arc<PodCapture>,
    of_pod: Rc<OfPod>,
}

impl Node {
    fn new(shared: &Arc<Shared>, place: &Place, name: &str, address: Ipv4Addr) -> Self {
        let Place { netns, stand_ins } = place.clone();
        let pod = LocalPod {
            uid: PodUid(name.into()),
            namespace: "shop".into(),
            name: name.into(),
            identity: SpiffeId::new("cluster.local", "shop", name).unwrap(),
            ip4: Some(address),
            ip6: None,
            exclusions: Exclusions::default(),
        };
        Self {
            context: Rc::new(Context::new(shared.clone())),
            of_pod: Rc::new(OfPod::new(netns.clone(), Quota::new(usize::MAX))),
            pod: Arc::new(PodCapture { pod: Arc::new(pod), netns, stand_ins }),
        }
    }

    /// Serves a connection that the kernel handed over.
    fn take(&self, stream: tokio::net::TcpStream, role: Role, to: SocketAddr) {
        // As accepted from an agent's listener.
        stream.set_nodelay(true).unwrap();
        if role != Role::Hbone {
            socket::reset_on_close(&stream).unwrap();
        }
        let client = stream.peer_addr().unwrap();
        let captured =
            Captured { stream, role, pod: self.pod.clone(), client, original_destination: to };
        let stop = CancellationToken::new();
        spawn_local(handle(self.context.clone(), captured, self.of_pod.clone(), stop));
    }
}

/// What all data threads share.
fn shared() -> Arc<Shared> {
    let (mut store, mesh) = Store::new();
    for (name, address) in [("client", CLIENT), ("server", SERVER)] {
        let pod = Workload::pod("Kubernetes", "shop", name, name, IpAddr::V4(address)).unwrap();
        store.apply([MeshEvent::Workload(Arc::new(pod))]);
    }
    store.set_synced(ResourceKind::Address);
    store.set_synced(ResourceKind::Authorization);
    let (certificates, renewal) = Certificates::new(Ca::new(), Arc::new(SystemClock));
    // The mesh goes on as it is, and so does its one writer.
    spawn_local(async move {
        renewal.run(CancellationToken::new()).await;
        drop(store);
    });
    Arc::new(Shared {
        mesh,
        network: "".into(),
        cluster: "Kubernetes".into(),
        certificates,
        metrics: Metrics::new(),
        limits: Limits::default(),
        timings: Timings::default(),
    })
}

/// The client, the server, and the applications that talk through them.
struct Bench {
    client: Node,
    apps: TcpListener,
    redirected: TcpListener,
    open: Vec<(TcpStream, TcpStream)>,
}

impl Bench {
    async fn start(place: &Place) -> Self {
        let shared = shared();
        let tunnels = SocketAddr::from((SERVER, 15008));
        let listener = tokio::net::TcpListener::bind(tunnels).await.unwrap();
        let server = Node::new(&shared, place, "server", SERVER);
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                server.take(stream, Role::Hbone, tunnels);
            }
        });
        let listen = || TcpListener::bind((SERVER, 0)).unwrap();
        let (apps, redirected) = (listen(), listen());
        apps.set_nonblocking(true).unwrap();
        let client = Node::new(&shared, place, "client", CLIENT);
        Self { client, apps, redirected, open: Vec::with_capacity(WARM + OPENED) }
    }

    /// Opens connections, each used once.
    async fn open(&mut self, connections: usize) {
        let to = self.apps.local_addr().unwrap();
        for _ in 0..connections {
            let mut near = TcpStream::connect(self.redirected.local_addr().unwrap()).unwrap();
            let (captured, _) = self.redirected.accept().unwrap();
            captured.set_nonblocking(true).unwrap();
            let captured = tokio::net::TcpStream::from_std(captured).unwrap();
            self.client.take(captured, Role::Outbound, to);
            near.write_all(b"?").unwrap();
            let mut far = soon(|| self.apps.accept()).await.0;
            near.set_nonblocking(true).unwrap();
            far.set_nonblocking(true).unwrap();
            soon(|| far.read_exact(&mut [0])).await;
            far.write_all(b"!").unwrap();
            soon(|| near.read_exact(&mut [0])).await;
            self.open.push((near, far));
        }
    }
}

/// Tries until it does not have to wait, which lets the agents work.
async fn soon<T>(mut tried: impl FnMut() -> std::io::Result<T>) -> T {
    loop {
        match tried() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            done => return done.unwrap(),
        }
    }
}

#[test]
fn an_idle_connection_holds_little_on_both_nodes() {
    let lab = Lab::new("idle").unwrap();
    let kernel = lab.install(|_| {}).unwrap();
    let place = Place { netns: Netns::create().unwrap(), stand_ins: kernel.stand_ins() };
    let test = || {
        let netlink = Netlink::open().unwrap();
        netlink.set_loopback_up().unwrap();
        // Nothing is enrolled here: what clients have is all that the server's dials need.
        let (device, metric, source, congestion_control) = (1, 1, None, None);
        let kind = RouteKind::Local { device, metric, source, congestion_control };
        netlink.set_route(Route { to: "240.64.0.0/10".parse().unwrap(), kind }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(crate::local(60, async {
            let mut bench = Bench::start(&place).await;
            bench.open(WARM).await;
            let before = HEAP.current_usage();
            bench.open(OPENED).await;
            let each = (HEAP.current_usage() - before) / OPENED;
            println!("{each} bytes for each of {OPENED} connections");
            assert!(each <= MOST, "{each} bytes");
        }));
    };
    place.netns.enter(test).unwrap();
}
