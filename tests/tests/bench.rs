//! The bench runs, and its JSON says what its table says.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use kit::bench::peer::rules;
use kit::node::RunningPod;
use kit::run::Run;
use kit::{command, netns};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

#[test]
fn a_quick_measure_takes_both_paths_without_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.json");
    let done = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--quick", "--seconds=0.2", "--only=request-1,down-1", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("congestion control") && said.contains("errors: 0"), "{said}");
    let results: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(results["failures"], Value::Array(vec![]), "{results}");
    let rows = results["rows"].as_array().unwrap();
    let row = |measure: &str, figure: &str| {
        let found = rows.iter().find(|row| row["measure"] == measure && row["figure"] == figure);
        found.unwrap_or_else(|| panic!("no {measure} {figure} in {results}"))
    };
    for (measure, figure) in [("request-1", "requests/s"), ("down-1", "Gbit/s")] {
        let row = row(measure, figure);
        for side in ["plain", "mesh"] {
            assert!(row[side]["median"].as_f64().unwrap() > 0.0, "{row}");
        }
        assert!(row["ratio"]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(row("down-1", "agents CPU s/GB")["plain"].is_null());
}

#[test]
fn another_sotto_is_measured_beside_and_agents_without_any_load() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.json");
    let base = kit::cluster::programs::find("sotto").unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["--quick", "--seconds=0.2", "--only=up-1,memory,startup", "--name=before"])
        .arg(format!("--base={}", base.display()))
        .arg(format!("--json={}", file.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("/before") && said.contains("before: "), "{said}");
    let results: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let of = |measure| {
        let rows = results["rows"].as_array().unwrap().iter();
        let rows: Vec<&Value> = rows.filter(|row| row["measure"] == measure).collect();
        assert!(!rows.is_empty(), "no {measure} in {results}");
        rows
    };
    for row in [of("up-1"), of("memory"), of("startup")].concat() {
        let both = ["mesh", "other"].map(|side| row[side]["median"].as_f64().unwrap());
        // At idle an agent may use no time at all.
        let least = if row["figure"].as_str().unwrap().contains("idle, %") { -1.0 } else { 0.0 };
        assert!(both.iter().all(|median| *median > least), "{row}");
    }
    for side in results["crossed"].as_array().unwrap() {
        assert!(side["crossed_bytes"].as_u64() >= side["sent_bytes"].as_u64(), "{side}");
    }
    assert_eq!(results["crossed"].as_array().unwrap().len(), 2);
}

#[test]
fn the_peers_redirection_takes_what_is_not_its_own() {
    let run = Run::claim().unwrap();
    let (pod, far) = (run.netns("pod"), run.netns("far"));
    [&pod, &far].into_iter().for_each(|name| netns::add(name).unwrap());
    let link = format!("link add eth0 type veth peer name eth0 netns {far}");
    command::ip_batch(&pod, &[link]).unwrap();
    for (name, address) in [(&pod, "10.9.0.1/24"), (&far, "10.9.0.2/24")] {
        let lines = [format!("addr add {address} dev eth0"), String::from("link set eth0 up")];
        command::ip_batch(name, &lines).unwrap();
    }
    let running = RunningPod {
        netns: netns::path(&pod),
        cgroup: run.cgroup(),
        pid: 0,
        log: run.dir(),
        node: std::process::id(),
    };
    rules::write(&running).unwrap();
    let listen = |name: &str, port: u16| {
        netns::within(name, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()).unwrap()
    };
    let (pod_ip, far_ip) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
    let [outbound, inbound, hbone] = [15001, 15006, 15008].map(|port| listen(&pod, port));
    let server = listen(&far, 80);

    let from_app = connect(&pod, (far_ip, 80).into(), 0);
    assert_eq!(outbound.accept().unwrap().1, from_app.local_addr().unwrap());
    let from_proxy = connect(&pod, (far_ip, 80).into(), 0x539);
    assert_eq!(server.accept().unwrap().1, from_proxy.local_addr().unwrap());
    let in_the_clear = connect(&far, (pod_ip, 80).into(), 0);
    assert_eq!(inbound.accept().unwrap().1, in_the_clear.local_addr().unwrap());
    let tunnel = connect(&far, (pod_ip, 15008).into(), 0);
    assert_eq!(hbone.accept().unwrap().1, tunnel.local_addr().unwrap());
}

fn connect(name: &str, to: SocketAddr, mark: u32) -> TcpStream {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if mark != 0 {
            socket.set_mark(mark)?;
        }
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        Ok::<_, std::io::Error>(TcpStream::from(socket))
    };
    netns::within(name, open).unwrap().unwrap()
}

#[test]
fn an_unknown_measure_is_refused_with_the_names() {
    let done = Command::new(env!("CARGO_BIN_EXE_bench")).arg("--only=speed").output().unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stderr).contains("request-1k-32"));
}
