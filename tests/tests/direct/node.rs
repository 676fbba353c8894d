//! Both nodes of a connection, with the agent's own connections, tunnels and certificates: their data threads are this
//! one, in a network namespace of its own.
//!
//! Applications' ends are sockets outside the runtime, which need no heap.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kit::lab::Lab;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use sotto::capture::{Captured, PodCapture, Role, StandIns};
use sotto::connection::{
    Context, Host, Hosts, Means, OfPod, Shared, Timings, departures, handle, resume,
};
use sotto::identify::Revocations;
use sotto::identify::ca::CaError;
use sotto::identify::certs::{CertificateSource, Certificates};
use sotto::identify::clock::SystemClock;
use sotto::identify::svid::Issued;
use sotto::mesh::local::Exclusions;
use sotto::mesh::{
    Account, Given, LocalPod, MeshEvent, PodUid, ResourceKind, SpiffeId, Store, Workload,
};
use sotto::observe::Metrics;
use sotto::sys::netlink::{Netlink, Route, RouteKind};
use sotto::sys::{Netns, socket};
use sotto::tunnel::{Budget, Limits};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// The client's pod; the server's is where the kernel's own address on loopback is.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// How long a connection waits for what should be known. All is told at the start here.
const HOLD: Duration = Duration::from_millis(500);

/// A root, which may sign lists.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Root {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }
}

/// Certifies whomever it is asked for.
#[derive(Clone)]
pub(crate) struct Ca {
    root: Arc<Mutex<Root>>,
    /// Roots that are believed.
    trusted: Arc<Mutex<Vec<CertificateDer<'static>>>>,
    life: Duration,
    /// Whose, by serial number.
    issued: Arc<Mutex<Vec<String>>>,
}

impl Ca {
    /// Whose certificates live so long.
    pub(crate) fn new(life: Duration) -> Self {
        let root = Root::new();
        let trusted = Arc::new(Mutex::new(vec![root.certificate.clone()]));
        Self { root: Arc::new(Mutex::new(root)), trusted, life, issued: Arc::default() }
    }

    /// Whose certificates were asked for, once each, sorted.
    pub(crate) fn issued(&self) -> Vec<String> {
        let all: std::collections::BTreeSet<_> = self.issued.lock().iter().cloned().collect();
        all.into_iter().collect()
    }

    /// From now on another root certifies, and is the only one.
    pub(crate) fn change_root(&self) {
        let root = Root::new();
        *self.trusted.lock() = vec![root.certificate.clone()];
        *self.root.lock() = root;
    }

    /// From now on another root certifies, and the one before is believed still.
    pub(crate) fn add_root(&self) {
        let root = Root::new();
        self.trusted.lock().insert(0, root.certificate.clone());
        *self.root.lock() = root;
    }

    /// A list of all certificates so far of a service account, as PEM.
    pub(crate) fn revoke(&self, account: &str) -> String {
        let now = SystemTime::now();
        let issued = self.issued.lock();
        let of = issued.iter().enumerate().filter(|(_, name)| name.ends_with(account));
        let revoked = of.map(|(serial, _)| RevokedCertParams {
            serial_number: serial_number(serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + Duration::from_secs(3600)).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.root.lock().issuer).unwrap().pem().unwrap()
    }
}

/// None is 0.
fn serial_number(index: usize) -> SerialNumber {
    SerialNumber::from(u64::try_from(index).unwrap() + 100)
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
        params.not_before = now.into();
        params.not_after = (now + self.life).into();
        let mut issued = self.issued.lock();
        params.serial_number = Some(serial_number(issued.len()));
        issued.push(identity.to_string());
        let root = self.root.lock();
        let leaf = params.signed_by(&key, &root.issuer).unwrap();
        let key = Zeroizing::new(key.serialize_der());
        let roots = self.trusted.lock().clone();
        Ok(Issued { chain: vec![leaf.der().clone()], roots, key })
    }
}

/// Where both pods are.
#[derive(Clone)]
pub(crate) struct Place {
    netns: Netns,
    stand_ins: StandIns,
}

/// A data thread of a node with one pod.
pub(crate) struct Node {
    pub(crate) context: Rc<Context>,
    pod: Arc<PodCapture>,
    of_pod: Rc<OfPod>,
}

impl Node {
    fn new(shared: &Arc<Shared>, place: &Place, name: &str, address: Ipv4Addr) -> Self {
        let pod = LocalPod {
            uid: PodUid(name.into()),
            namespace: "shop".into(),
            name: name.into(),
            account: Account::new("shop", name).unwrap(),
            ip4: Some(address),
            ip6: None,
            exclusions: Exclusions::default(),
        };
        let means = Means::new(usize::MAX, Budget::new(usize::MAX));
        let Place { netns, stand_ins } = place.clone();
        Self {
            context: Rc::new(Context::new(shared.clone())),
            of_pod: Rc::new(OfPod::new(netns.clone(), means.quota())),
            pod: Arc::new(PodCapture { pod: Arc::new(pod), netns, stand_ins }),
        }
    }

    /// Gives all that may leave to itself, as to the agent after it.
    pub(crate) async fn move_all(&self) -> usize {
        let mut moved = 0;
        for departure in departures(&self.context) {
            let parcel = departure.leave(&self.context).await.unwrap();
            let host = Host {
                context: self.context.clone(),
                pod: self.pod.clone(),
                of_pod: self.of_pod.clone(),
                stop: CancellationToken::new(),
            };
            for carrying in resume(host, parcel).await.unwrap() {
                spawn_local(carrying);
                moved += 1;
            }
        }
        moved
    }

    /// Serves a connection that the kernel handed over.
    fn take(&self, stream: tokio::net::TcpStream, role: Role, to: SocketAddr) {
        // As accepted from an agent's listener.
        stream.set_nodelay(true).unwrap();
        if role != Role::Hbone {
            socket::reset_on_close(&stream).unwrap();
        }
        let client = stream.peer_addr().unwrap();
        let captured = Captured {
            stream,
            role,
            asks: false,
            pod: self.pod.clone(),
            client,
            original_destination: to,
        };
        let stop = CancellationToken::new();
        spawn_local(handle(self.context.clone(), captured, self.of_pod.clone(), stop));
    }
}

/// By what names the control plane knows both pods, and what the agent was told of them.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) cluster: &'static str,
    pub(crate) network: &'static str,
    pub(crate) trust_domain: &'static str,
    pub(crate) given: Given,
}

impl Default for Names {
    fn default() -> Self {
        let (cluster, trust_domain) = ("Kubernetes", "cluster.local");
        Self { cluster, network: "", trust_domain, given: Given::default() }
    }
}

/// What all data threads share.
fn shared(ca: Ca, revocations: Revocations, limits: Limits, names: &Names) -> Arc<Shared> {
    let pods = [("client", CLIENT), ("server", SERVER)].map(|(name, address)| {
        let mut pod = Workload::pod(names.cluster, "shop", name, name, address.into()).unwrap();
        pod.network = names.network.into();
        pod.identity = SpiffeId::new(names.trust_domain, "shop", name).unwrap();
        MeshEvent::Workload(Arc::new(pod))
    });
    told(ca, (revocations, limits), names.given.clone(), pods)
}

/// What all data threads share of a node that is told this of the mesh.
pub(crate) fn told(
    ca: Ca,
    (revocations, limits): (Revocations, Limits),
    given: Given,
    events: impl IntoIterator<Item = MeshEvent>,
) -> Arc<Shared> {
    let (mut store, mesh) = Store::on(given);
    store.apply(events);
    store.set_synced(ResourceKind::Address);
    store.set_synced(ResourceKind::Authorization);
    let (certificates, renewal) =
        Certificates::new(ca, Arc::new(SystemClock), revocations, Duration::from_secs(30));
    // The mesh goes on as it is, and so does its one writer.
    spawn_local(async move {
        renewal.run(CancellationToken::new()).await;
        drop(store);
    });
    Arc::new(Shared {
        mesh,
        certificates,
        metrics: Metrics::new(),
        limits,
        timings: Timings { hold: HOLD, ..Timings::default() },
        hosts: Hosts::default(),
        cluster_domain: String::from("cluster.local"),
    })
}

/// The client, the server, and the applications that talk through them.
pub(crate) struct Bench {
    pub(crate) client: Node,
    pub(crate) server: Rc<Node>,
    pub(crate) metrics: Metrics,
    /// What applications ask for.
    pub(crate) destination: SocketAddr,
    apps: TcpListener,
    redirected: TcpListener,
    /// Ends of applications: the client's, the server's.
    pub(crate) open: Vec<(TcpStream, TcpStream)>,
}

impl Bench {
    pub(crate) async fn start(
        place: &Place,
        ca: Ca,
        revocations: Revocations,
        limits: Limits,
    ) -> Self {
        Self::among(place, ca, revocations, limits, &Names::default()).await
    }

    /// In a mesh of other names.
    pub(crate) async fn among(
        place: &Place,
        ca: Ca,
        revocations: Revocations,
        limits: Limits,
        names: &Names,
    ) -> Self {
        let shared = shared(ca, revocations, limits, names);
        let apps = TcpListener::bind((SERVER, 0)).unwrap();
        Self::between(place, apps, &shared, &shared).await
    }

    /// Of nodes that are told different things of the mesh.
    pub(crate) async fn between(
        place: &Place,
        apps: TcpListener,
        near: &Arc<Shared>,
        beyond: &Arc<Shared>,
    ) -> Self {
        let tunnels = SocketAddr::from((SERVER, 15008));
        let listener = tokio::net::TcpListener::bind(tunnels).await.unwrap();
        let server = Rc::new(Node::new(beyond, place, "server", SERVER));
        let accepting = Rc::clone(&server);
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepting.take(stream, Role::Hbone, tunnels);
            }
        });
        let redirected = TcpListener::bind((SERVER, 0)).unwrap();
        apps.set_nonblocking(true).unwrap();
        let client = Node::new(near, place, "client", CLIENT);
        let (metrics, destination) = (near.metrics.clone(), apps.local_addr().unwrap());
        Self { client, server, metrics, destination, apps, redirected, open: Vec::new() }
    }

    /// What an application opens towards the server: its end.
    pub(crate) fn dial(&self) -> TcpStream {
        let near = TcpStream::connect(self.redirected.local_addr().unwrap()).unwrap();
        let (captured, _) = self.redirected.accept().unwrap();
        captured.set_nonblocking(true).unwrap();
        let captured = tokio::net::TcpStream::from_std(captured).unwrap();
        self.client.take(captured, Role::Outbound, self.destination);
        near
    }

    /// Whether anything has reached the server's application.
    pub(crate) fn is_reached(&self) -> bool {
        self.apps.accept().is_ok()
    }

    /// Opens connections, each used once.
    pub(crate) async fn open(&mut self, connections: usize) {
        for _ in 0..connections {
            let mut near = self.dial();
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
pub(crate) async fn soon<T>(mut tried: impl FnMut() -> std::io::Result<T>) -> T {
    loop {
        match tried() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            done => return done.unwrap(),
        }
    }
}

/// Runs a test in a network namespace of its own, where clients' stand-ins are local: all that dials to applications
/// need of redirection.
pub(crate) fn alone<F: Future<Output = ()>>(seconds: u64, test: impl FnOnce(Place) -> F) {
    let lab = Lab::new("direct").unwrap();
    let kernel = lab.install(|_| {}).unwrap();
    let place = Place { netns: Netns::create().unwrap(), stand_ins: kernel.stand_ins() };
    let inside = place.clone();
    let run = move || {
        let netlink = Netlink::open().unwrap();
        netlink.set_loopback_up().unwrap();
        let (device, metric, source, congestion_control) = (1, 1, None, None);
        let kind = RouteKind::Local { device, metric, source, congestion_control };
        netlink.set_route(Route { to: "240.64.0.0/10".parse().unwrap(), kind }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(crate::local(seconds, test(inside)));
    };
    place.netns.enter(run).unwrap();
}
