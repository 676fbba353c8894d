//! Every policy of a large mesh replaced while requests flow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kit::bench::load::Report;
use kit::cluster::programs;
use sotto::sys::priority;
use sotto_proto::AUTHORIZATION_TYPE;
use sotto_proto::ads::Resource;
use sotto_proto::security::{
    Action, Authorization, Group, Match, Rules, Scope, StringMatch, string_match::MatchType,
};
use tokio_util::sync::CancellationToken;

use super::bench::Bench;
use super::script::{Script, elsewhere, encode, workload};

const POLICIES: usize = 10_000;
/// Namespaces that share them; the server's is one.
const NAMESPACES: usize = 100;
/// Both figures are of so many seconds each round.
const SECONDS: f64 = 2.0;
const ROUNDS: usize = 5;
/// Rounds that may be spoilt by whatever else this machine does.
const EXTRA: usize = 4;
/// How much slower the slowest requests may be.
const FACTOR: f64 = 2.0;

#[tokio::test(flavor = "multi_thread")]
async fn replacing_ten_thousand_policies_does_not_slow_requests_down() {
    let mut bench = Bench::streams().await;
    let mut script = Script::take(&mut bench, 2).await;
    let server = bench.cluster.pod_of("back", "echo").await.unwrap();
    script.workloads(vec![workload(&server, &[])]).await;
    let generations = Arc::new([0, 1].map(policies));
    script.tell(AUTHORIZATION_TYPE, generations[0].clone(), vec![]).await;
    let held = bench.agent(2).config_dump().await.unwrap();
    assert_eq!(held["policies"].as_array().unwrap().len(), POLICIES);
    data_threads_go_first(&bench);
    let mut ratios = Vec::new();
    while ratios.len() < ROUNDS + EXTRA && (ratios.len() < ROUNDS || median(&ratios) > FACTOR) {
        let quiet = load(&bench, 1).await;
        let stop = CancellationToken::new();
        let reloads = elsewhere(reload(script, generations.clone(), stop.clone()));
        let reloading = load(&bench, 1).await;
        stop.cancel();
        let ended = tokio::task::spawn_blocking(|| reloads.join().unwrap()).await;
        let (reloads, slowest);
        (script, reloads, slowest) = ended.unwrap();
        assert!(reloads > 0);
        let ratio = reloading.p99_us / quiet.p99_us;
        eprintln!(
            "p99 {:.0} us quiet, {:.0} us during {reloads} reloads (slowest {slowest:?}): {ratio:.2}; \
             p50 {:.0}, {:.0}; slowest {:.0}, {:.0}",
            quiet.p99_us,
            reloading.p99_us,
            quiet.p50_us,
            reloading.p50_us,
            quiet.max_us,
            reloading.max_us
        );
        ratios.push(ratio);
    }
    eprintln!("median of {} rounds: {:.2}", ratios.len(), median(&ratios));
    assert!(median(&ratios) <= FACTOR, "{ratios:?}");
}

/// Replaces all of them, again and again, until told to stop.
async fn reload(
    mut script: Script,
    generations: Arc<[Vec<Resource>; 2]>,
    stop: CancellationToken,
) -> (Script, usize, Duration) {
    let (mut reloads, mut slowest) = (0, Duration::ZERO);
    while !stop.is_cancelled() {
        let started = Instant::now();
        reloads += 1;
        script.tell(AUTHORIZATION_TYPE, generations[reloads % 2].clone(), vec![]).await;
        slowest = slowest.max(started.elapsed());
    }
    (script, reloads, slowest)
}

/// Requests from an enrolled client, through the mesh, to the server that the policies govern.
pub(crate) async fn load(bench: &Bench, connections: u16) -> Report {
    let program = programs::find("kit-app").unwrap().display().to_string();
    let to = format!("--to={}:7000", bench.ip("back", "echo").await);
    let connections = format!("--connections={connections}");
    let seconds = format!("--seconds={SECONDS}");
    let argv =
        [program.as_str(), "load", "drive", &to, &connections, &seconds, "request", "--bytes=64"];
    let name = bench.cluster.pod_of("front", "client").await.unwrap().metadata.name.unwrap();
    let node = bench.cluster.node_of("front", &name).unwrap();
    let said = node.exec(("front", &name), &argv, Duration::from_secs(30)).await.unwrap();
    let report: Report = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((report.errors, &report.first_error), (0, &None));
    report
}

/// What decodes and indexes policies must not take a core from under what carries bytes.
fn data_threads_go_first(bench: &Bench) {
    let pid = bench.agent(2).process.pid().unwrap();
    let mut seen = [0, 0];
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // A thread of the blocking pool may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(thread.unwrap().path().join("stat")) else {
            continue;
        };
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let nice: i32 = rest.split_whitespace().nth(16).unwrap().parse().unwrap();
        if name.starts_with("data-") {
            assert_eq!(nice, 0, "{name}");
            seen[0] += 1;
        }
        if name == "control" {
            assert_eq!(nice, priority::STEP_BACK, "{name}");
            seen[1] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// All policies; no two generations have one in common.
fn policies(generation: usize) -> Vec<Resource> {
    let one = |number: usize| {
        let namespace = match number % NAMESPACES {
            0 => String::from("back"),
            other => format!("other-{other}"),
        };
        let nobody = format!("cluster.local/ns/nobody-{generation}/sa/{number}");
        let exact = StringMatch { match_type: Some(MatchType::Exact(nobody)) };
        let matches = vec![Match {
            principals: vec![exact],
            destination_ports: vec![7000, 8000 + u32::try_from(number % 100).unwrap()],
            ..Match::default()
        }];
        Authorization {
            name: format!("policy-{number}"),
            namespace,
            scope: Scope::Namespace.into(),
            action: Action::Deny.into(),
            groups: vec![Group { rules: vec![Rules { matches }] }],
            ..Authorization::default()
        }
    };
    encode((0..POLICIES).map(one).collect())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
