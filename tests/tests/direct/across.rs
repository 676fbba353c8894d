//! To another network: a tunnel within a tunnel to its gateway, which is somebody else's here.

use std::cell::RefCell;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use sotto::identify::Revocations;
use sotto::identify::peer;
use sotto::mesh::policy::{Action, Group, Match, PolicyScope, Rule, StringMatch};
use sotto::mesh::service::{Port, Waypoint, WaypointDestination};
use sotto::mesh::{
    Addresses, Authorization, Given, MeshEvent, NetworkAddress, PolicyKey, Service, ServiceKey,
    SpiffeId, Workload,
};
use sotto::tunnel::accept::{Incoming, accept};
use sotto::tunnel::{Limits, Progress, Terms, Trust, relay};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;

use crate::ends::{permit, unbounded};
use crate::node::{Bench, CLIENT, Ca, Place, SERVER, alone, soon, told};

const HOUR: Duration = Duration::from_secs(3600);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where the gateway of the other network takes tunnels.
const GATEWAY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4)), 15008);
const HOST: &str = "web.shop.svc.cluster.local";
const SERVED_BY: &str = "spiffe://cluster.local/ns/shop/sa/server";

/// What the gateway was asked for: by whom, for what, with which network.
type Asked = Rc<RefCell<Vec<(String, String, Option<String>)>>>;

fn key() -> ServiceKey {
    ServiceKey { namespace: "shop".into(), hostname: HOST.into() }
}

fn web(apps: u16, answering: &str) -> Service {
    Service {
        name: "web".into(),
        key: key(),
        vips: vec![NetworkAddress::new("", VIP.into())],
        cidr_vips: vec![],
        ports: vec![Port { service_port: 80, target_port: Some(apps) }],
        subject_alt_names: vec![answering.into()],
        waypoint: None,
        weighted_waypoints: vec![],
        load_balancing: Default::default(),
        canonical: true,
        families: Default::default(),
        visibility: Default::default(),
    }
}

fn pod(name: &str, address: Ipv4Addr, network: &str) -> Workload {
    let mut pod = Workload::pod("c", "shop", name, name, address.into()).unwrap();
    pod.network = network.into();
    pod
}

fn workloads(all: Vec<Workload>) -> impl Iterator<Item = MeshEvent> {
    all.into_iter().map(|workload| MeshEvent::Workload(Arc::new(workload)))
}

/// As istiod tells it on the client's side: the gateway, and one workload for all that serves behind it.
fn near(service: Service) -> Vec<MeshEvent> {
    let mut gateway = pod("gateway", Ipv4Addr::new(127, 0, 0, 4), "west");
    gateway.node = "elsewhere".into();
    let mut far = pod("far", SERVER, "west");
    far.addresses = Addresses::default();
    far.node = "elsewhere".into();
    far.services.insert(key(), vec![]);
    let destination = WaypointDestination::Address(NetworkAddress::new("west", GATEWAY.ip()));
    far.network_gateway = Some(Waypoint { destination, hbone_port: GATEWAY.port() }.into());
    let service = MeshEvent::Service(Arc::new(service));
    workloads(vec![pod("client", CLIENT, ""), gateway, far]).chain([service]).collect()
}

/// And on the server's: its pod, and that the client alone may come.
fn beyond(service: Service) -> Vec<MeshEvent> {
    let mut server = pod("server", SERVER, "west");
    server.services.insert(key(), vec![]);
    let client = StringMatch::Exact("cluster.local/ns/shop/sa/client".into());
    let rule = Rule { matches: vec![Match { principals: vec![client], ..Match::default() }] };
    let policy = Authorization {
        key: PolicyKey { namespace: "shop".into(), name: "client".into() },
        scope: PolicyScope::Namespace,
        action: Action::Allow,
        groups: vec![Group { rules: vec![rule] }],
        dry_run: false,
    };
    let others = [MeshEvent::Service(Arc::new(service)), MeshEvent::Policy(Arc::new(policy))];
    workloads(vec![server]).chain(others).collect()
}

/// Takes tunnels under its own identity, and passes the bytes of each stream to the server's node.
async fn gateway(ca: &Ca, asked: &Asked) {
    let shared =
        told(ca.clone(), (Revocations::default(), Limits::default()), Given::default(), []);
    let own = SpiffeId::new("cluster.local", "shop", "gateway").unwrap();
    let tls = shared.certificates.svid(&own).await.unwrap().server_config();
    let listener = tokio::net::TcpListener::bind(GATEWAY).await.unwrap();
    let asked = Rc::clone(asked);
    spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
            let terms = Terms { account: unbounded(), trust: Trust::default(), drain, abort };
            let mut tunnel = accept(tcp, tls.clone(), &Limits::default(), terms).await.unwrap();
            let who = peer::chain_identity(tunnel.peer_certificates()).unwrap().to_string();
            let asked = Rc::clone(&asked);
            spawn_local(async move {
                while let Some(incoming) = tunnel.next().await {
                    spawn_local(pass(incoming, who.clone(), Rc::clone(&asked)));
                }
            });
        }
    });
}

async fn pass(incoming: Incoming, who: String, asked: Asked) {
    let network = incoming.headers().get("x-forwarded-network");
    let network = network.map(|value| value.to_str().unwrap().to_owned());
    asked.borrow_mut().push((who, incoming.authority().to_owned(), network));
    let server = tokio::net::TcpStream::connect((SERVER, 15008)).await.unwrap();
    let stream = incoming.accept(&permit(), HeaderMap::new()).unwrap();
    // However it ends is for the others to see.
    drop(relay(server, stream, &Rc::new(Progress::default())).await);
}

async fn world(place: &Place, ca: &Ca, answering: &str) -> (Bench, Asked) {
    let apps = TcpListener::bind((SERVER, 0)).unwrap();
    let port = apps.local_addr().unwrap().port();
    let of = |events: Vec<MeshEvent>| {
        let both = (Revocations::default(), Limits::default());
        told(ca.clone(), both, Given::default(), events)
    };
    let near = of(near(web(port, answering)));
    let beyond = of(beyond(web(port, SERVED_BY)));
    let asked = Asked::default();
    gateway(ca, &asked).await;
    let mut bench = Bench::between(place, apps, &near, &beyond).await;
    bench.destination = SocketAddr::from((VIP, 80));
    (bench, asked)
}

#[test]
fn a_service_of_another_network_is_reached_by_a_tunnel_within_one_to_its_gateway() {
    alone(60, |place| async move {
        let ca = Ca::new(HOUR);
        let (mut bench, asked) = world(&place, &ca, SERVED_BY).await;
        bench.open(3).await;
        let client = "spiffe://cluster.local/ns/shop/sa/client".to_owned();
        let expected = (client, format!("{HOST}:80"), None);
        assert_eq!(*asked.borrow(), vec![expected; 3]);
        // One to the gateway, and one in it for each connection: who serves next is for the gateway to choose.
        assert_eq!(bench.client.context.pool.tunnels(), 4);
        bench.open.clear();
        let begun = std::time::Instant::now();
        while bench.client.context.pool.tunnels() > 1 {
            assert!(begun.elapsed() < Duration::from_secs(20), "inner tunnels stay");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn every_byte_arrives_before_the_end() {
    alone(60, |place| async move {
        const BYTES: usize = 3 << 20;
        let ca = Ca::new(HOUR);
        let (mut bench, _) = world(&place, &ca, SERVED_BY).await;
        bench.open(1).await;
        let (mut near, mut far) = bench.open.pop().unwrap();
        let sent: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        let mut written = 0;
        let (mut got, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            if written < BYTES {
                match near.write(&sent[written..]) {
                    Ok(more) => written += more,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                if written == BYTES {
                    near.shutdown(std::net::Shutdown::Write).unwrap();
                }
            }
            match far.read(&mut piece) {
                Ok(0) => break,
                Ok(more) => got.extend_from_slice(&piece[..more]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            tokio::task::yield_now().await;
        }
        assert!(got == sent, "{} of {BYTES} bytes", got.len());
    });
}

#[test]
fn who_is_not_named_by_the_service_is_not_talked_to() {
    alone(60, |place| async move {
        let ca = Ca::new(HOUR);
        let other = "spiffe://cluster.local/ns/shop/sa/other";
        let (bench, _) = world(&place, &ca, other).await;
        let mut near = bench.dial();
        near.write_all(b"?").unwrap();
        near.set_nonblocking(true).unwrap();
        let ended = soon(|| match near.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error),
            ended => Ok(ended),
        });
        let ended = ended.await;
        assert!(ended.is_err(), "{ended:?}: not reset");
        assert!(!bench.is_reached());
    });
}
