//! `--scale`: what a large mesh costs an agent. It is started against a control plane that tells of so many workloads and
//! a tenth as many services besides the bench's own pods; and then of changes.

mod table;
mod teller;
#[path = "../../../agent/benches/mesh/world.rs"]
mod world;

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use sotto_proto::ADDRESS_TYPE;
use sotto_proto::ads::DeltaDiscoveryResponse;
use sotto_proto::workload::{PortList, TunnelProtocol, Workload};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::load::PORT;
use super::measure::{Load, Target};
use super::say;
use super::site::{MESH, Mesh, Side, Site};
use crate::cluster::SYSTEM;
use crate::topology::CONTROL_PLANE_IP;
use table::Table;
use teller::{Heard, Teller};

/// Longest time to wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// For what only the start needs to be given back.
const SETTLE: Duration = Duration::from_secs(4);
/// How often a pod is taken away and told again.
const DIALS: usize = 20;
/// So long it is away.
const AWAY: Duration = Duration::from_millis(50);
/// How many changes are told at a time, and how often: 1000 a second.
const AT_A_TIME: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);
/// The first port of a control plane; each has another.
const FIRST_PORT: u16 = 15100;
const ADMIN: u16 = 15000;
/// A service that nobody but the bench's server is behind, by an address that is nobody's.
const PROBE: &str = "bench-mesh/probe.bench-mesh.svc.cluster.local";
const PROBE_AT: [u8; 4] = [172, 200, 0, 1];

/// Measures each size on each side, and prints the table.
pub(super) async fn run(
    site: &mut Site,
    sizes: &[usize],
    rounds: u16,
    seconds: f64,
) -> Result<String> {
    let mut table = Table::default();
    let mut port = FIRST_PORT;
    for size in sizes {
        for side in [Side::Mesh, Side::Other] {
            if site.mesh_of(side).is_none() {
                continue;
            }
            for round in 0..rounds {
                port += 1;
                say(&format!("{} workloads, {}, round {}", size, side.word(), round + 1));
                let at = (*size, side);
                let mut told = start(site, at, port, &mut table).await?;
                if round + 1 == rounds {
                    dial(site, at, &mut told, &mut table).await?;
                    follow(site, at, (&mut told, seconds), &mut table).await?;
                    dump(site, at, &mut table).await?;
                }
            }
        }
    }
    Ok(table.to_string())
}

/// A mesh that an agent has been told of.
struct Told {
    teller: Teller,
    server: Workload,
}

/// Starts the client's agent anew, and waits until it knows the mesh.
async fn start(site: &mut Site, at: (usize, Side), port: u16, table: &mut Table) -> Result<Told> {
    let (size, side) = at;
    let mesh = site.meshes_mut().find(|(own, _)| *own == side).context("no such mesh")?.1;
    let own = own_pods(mesh).await?;
    let server = own.iter().find(|pod| pod.name.starts_with("server")).context("no server")?;
    let server = server.clone();
    let mut all = world::all(size);
    all.nonce = String::from("all");
    let probe = world::serving(PROBE, PROBE_AT, PORT);
    let own = own.into_iter().map(|pod| world::known(pod, 1));
    all.resources.extend(own.chain([probe]).map(|resource| resource.encoded()));
    let mut teller = Teller::start(&mesh.cluster, port, all).await?;
    let process = &mut mesh.cluster.agents.first_mut().context("no agent")?.process;
    process.kill().await?;
    let address = format!("https://{}", teller.at);
    let argv = process.argv_mut();
    argv.retain(|flag| !flag.starts_with("--xds-address=") && !flag.starts_with("--ca-address="));
    if argv.get(1).is_some_and(|word| word == "agent") {
        argv.push(format!("--xds-address={address}"));
        argv.push(format!("--ca-address=https://{CONTROL_PLANE_IP}:15012"));
    }
    process.set_env("XDS_ADDRESS", &address);
    let begun = Instant::now();
    process.start()?;
    let mut sent = None;
    let known = loop {
        match teller.heard().await? {
            Heard::Sent(when) => sent = sent.or(Some(when)),
            Heard::Taken(nonce, when) if nonce == "all" => break when,
            Heard::Taken(..) => {}
            Heard::Refused(why) => bail!("the agent refused: {why}"),
        }
    };
    table.add(at, "start until all is known, ms", ms(known - begun));
    table.add(at, "told until all is known, ms", ms(known - sent.context("nothing was told")?));
    mesh.cluster.wait_for_agents().await?;
    tokio::time::sleep(SETTLE).await;
    memory(mesh, at, ("MiB then", "MiB at most until then"), table)?;
    Ok(Told { teller, server })
}

/// Takes the server away and tells of it again, until a connection by its service's address is answered.
async fn dial(site: &Site, at: (usize, Side), told: &mut Told, table: &mut Table) -> Result<()> {
    let to = SocketAddr::new(IpAddr::from(PROBE_AT), PORT).to_string();
    let client = &site.pair(at.1)?.client;
    let launch = client.launch(&[site.kit_app.as_str(), "load", "until", "--to", &to]);
    let mut command = launch.command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("start the client")?;
    let mut lines = child.stdin.take().context("stdin of a child just started")?;
    let answers = child.stdout.take().context("stdout of a child just started")?;
    let mut answers = BufReader::new(answers).lines();
    for round in 0..DIALS {
        let name = told.server.uid.clone();
        let nonce = format!("gone-{round}");
        let gone = world::told(ADDRESS_TYPE, &nonce, Vec::new());
        told.teller.tell(DeltaDiscoveryResponse { removed_resources: vec![name], ..gone })?;
        told.teller.taken(&nonce).await?;
        lines.write_all(b"go\n").await?;
        // It has tried in vain by then, and goes on trying.
        tokio::time::sleep(AWAY).await;
        let pod = with_probe(told.server.clone());
        let change = world::told(ADDRESS_TYPE, "back", vec![world::known(pod, round + 2)]);
        let begun = Instant::now();
        told.teller.tell(change)?;
        let answer = tokio::time::timeout(LIMIT, answers.next_line()).await;
        let took = begun.elapsed();
        let answer = answer.context("no answer")??.context("the client ended")?;
        let waited = Duration::from_micros(answer.trim().parse()?);
        // The client may have read its line a moment late, and the pod is back a moment after.
        ensure!(waited >= AWAY / 2, "a pod that is gone answers after {waited:?}");
        table.add(at, "one workload told until it answers, ms", ms(took));
        told.teller.taken("back").await?;
    }
    Ok(())
}

/// Requests through the mesh, in quiet and while changes are told; and what the agent uses for these.
async fn follow(
    site: &Site,
    at: (usize, Side),
    (told, seconds): (&mut Told, f64),
    table: &mut Table,
) -> Result<()> {
    let (size, side) = at;
    let load = Load::Request { bytes: 1, connections: 1 };
    let quiet = site.drive(side, Target::Pod, load, seconds.min(60.0)).await?;
    table.add(at, "request p99 in quiet, us", quiet.p99_us);
    let mesh = site.mesh_of(side).context("no such mesh")?;
    let process = &mesh.cluster.agents.first().context("no agent")?.process;
    let before = process.usage()?.cpu_seconds;
    let rounds = Duration::from_secs_f64(seconds).as_millis() / PAUSE.as_millis();
    let rounds = usize::try_from(rounds)?;
    let begun = Instant::now();
    let telling = async {
        let mut due = tokio::time::interval(PAUSE);
        for round in 0..rounds {
            due.tick().await;
            let changed = (0..AT_A_TIME).map(|n| (round * AT_A_TIME + n) * 7919 % size.max(1));
            let changed = changed.map(|number| world::workload(number, round + 2)).collect();
            told.teller.tell(world::told(ADDRESS_TYPE, &format!("change-{round}"), changed))?;
        }
        let last = Instant::now();
        let taken = told.teller.taken(&format!("change-{}", rounds - 1)).await?;
        anyhow::Ok(taken.saturating_duration_since(last))
    };
    let driving = site.drive(side, Target::Pod, load, seconds.min(60.0));
    let (late, busy) = tokio::join!(telling, driving);
    let (late, busy) = (late?, busy?);
    let used = process.usage()?.cpu_seconds - before;
    ensure!(busy.errors == 0, "{:?}", busy.first_error);
    table.add(at, "request p99 with 1000 changes/s, us", busy.p99_us);
    table.add(at, "the last of them taken after, ms", ms(late));
    table.add(at, "agent's CPU then, % of a core", used / begun.elapsed().as_secs_f64() * 100.0);
    memory(mesh, at, ("MiB after the changes", "MiB at most until then, 2"), table)
}

/// Asks for all that the agent knows.
async fn dump(site: &Site, at: (usize, Side), table: &mut Table) -> Result<()> {
    let mesh = site.mesh_of(at.1).context("no such mesh")?;
    let agent = mesh.cluster.agents.first().context("no agent")?;
    let begun = Instant::now();
    let answer = agent.process.get(ADMIN, "/config_dump").await?;
    table.add(at, "config_dump, ms", ms(begun.elapsed()));
    table.add(at, "config_dump, MB", answer.body.len() as f64 / 1e6);
    drop(answer);
    tokio::time::sleep(SETTLE).await;
    memory(mesh, at, ("MiB after config_dump", "MiB at most until then, 3"), table)
}

fn memory(
    mesh: &Mesh,
    at: (usize, Side),
    (now, most): (&'static str, &'static str),
    table: &mut Table,
) -> Result<()> {
    let usage = mesh.cluster.agents.first().context("no agent")?.process.usage()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    table.add(at, now, mib(usage.rss_bytes));
    table.add(at, most, mib(usage.peak_rss_bytes));
    Ok(())
}

/// The bench's own pods and the agents', as a control plane tells of them.
async fn own_pods(mesh: &Mesh) -> Result<Vec<Workload>> {
    let mut all = Vec::new();
    for (namespace, tunnel) in [(MESH, TunnelProtocol::Hbone), (SYSTEM, TunnelProtocol::None)] {
        for pod in mesh.cluster.pods(namespace, "").await? {
            all.extend(as_told(&pod, tunnel));
        }
    }
    let with_probe = |pod: Workload| match pod.name.starts_with("server") {
        true => with_probe(pod),
        false => pod,
    };
    Ok(all.into_iter().map(with_probe).collect())
}

fn with_probe(pod: Workload) -> Workload {
    let port = world::port(PORT.into(), PORT.into());
    let services = [(PROBE.to_owned(), PortList { ports: vec![port] })];
    Workload { services: services.into(), ..pod }
}

fn as_told(pod: &Pod, tunnel: TunnelProtocol) -> Option<Workload> {
    let (name, namespace) = (pod.name_any(), pod.namespace()?);
    let (spec, status) = (pod.spec.clone()?, pod.status.clone()?);
    let IpAddr::V4(ip) = status.pod_ip?.parse().ok()? else { return None };
    Some(Workload {
        uid: format!("Kubernetes//Pod/{namespace}/{name}"),
        workload_name: name.clone(),
        name,
        namespace,
        addresses: vec![ip.octets().to_vec()],
        tunnel_protocol: tunnel.into(),
        service_account: spec.service_account_name.unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        cluster_id: String::from("Kubernetes"),
        ..Workload::default()
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
