//! Mistakes of operators: each is told clearly, and nothing hangs or dies of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use kit::cluster::programs;

use super::bench::{Bench, pa};

/// `EX_USAGE` of sysexits.h.
const USAGE: i32 = 64;

fn sotto() -> std::path::PathBuf {
    programs::find("sotto").unwrap()
}

/// What a command that must fail says, with its exit code.
fn fails(command: &mut Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success(), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    (status.code().unwrap(), text)
}

/// Flags with which an agent would start, but for what the test takes away.
fn agent_flags(dir: &Path) -> Vec<String> {
    let file = |name: &str| {
        let path = dir.join(name);
        std::fs::write(&path, "x").unwrap();
        path.display().to_string()
    };
    vec![
        String::from("agent"),
        String::from("--node-name=node"),
        format!("--root-cert={}", file("root")),
        format!("--token={}", file("token")),
        format!("--kubeconfig={}", file("kubeconfig")),
    ]
}

#[test]
fn an_unknown_flag_is_a_mistake_of_usage() {
    for command in ["agent", "control-plane", "check"] {
        let (code, text) = fails(Command::new(sotto()).args([command, "--no-such-flag"]));
        assert_eq!(code, USAGE, "{text}");
        assert!(text.contains("--no-such-flag"), "{text}");
    }
    let (code, text) = fails(Command::new(sotto()).arg("no-such-command"));
    assert_eq!(code, USAGE, "{text}");
}

#[test]
fn missing_files_and_an_empty_node_name_are_told_at_once() {
    let flags = ["--node-name=", "--root-cert=/no/root.pem", "--token=/no/token", "--threads=many"];
    let (code, text) = fails(Command::new(sotto()).arg("agent").args(flags));
    assert_eq!(code, USAGE, "{text}");
    for part in ["4 mistakes", "--node-name", "/no/root.pem", "/no/token", "--threads"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn an_agent_that_is_not_root_says_so() {
    use std::os::unix::process::CommandExt;
    let dir = tempfile::tempdir().unwrap();
    let flags = agent_flags(dir.path());
    // Where nobody may go too, unlike the build's directory perhaps.
    let program = dir.path().join("sotto");
    std::fs::copy(sotto(), &program).unwrap();
    for path in [dir.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (code, text) = fails(Command::new(&program).args(flags).uid(65534).gid(65534));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("must run as root"), "{text}");
}

#[test]
fn a_node_without_cgroup2_is_told_that() {
    let dir = tempfile::tempdir().unwrap();
    let script = "awk '$3 == \"cgroup2\" { print $2 }' /proc/self/mounts | \
        while read -r mount; do umount -l \"$mount\" || exit 99; done; exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", script]);
    let (code, text) = fails(command.arg(sotto()).args(agent_flags(dir.path())));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is cgroup2 mounted?"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_manifest_is_refused_and_one_that_gets_past_is_reported_and_survived() {
    let mut bench = Bench::bookinfo().await;
    let bad = |spec: &str| pa("v1", "bookinfo", "bad", spec);
    for (manifest, expected) in [
        (bad("{ mtls: { mode: SOMETIMES } }"), "SOMETIMES"),
        (bad("{ mtls: STRICT }"), "mtls"),
        (bad("{ mutualTls: { mode: STRICT } }"), "mutualTls"),
        (String::from("kind: PeerAuthentication\nmetadata: [\n"), "error"),
    ] {
        let said = bench.kubectl_with("apply -f -", &manifest).await;
        assert_eq!(said.code, 1, "{manifest}: {said:?}");
        assert!(said.err.contains(expected), "{manifest}: {said:?}");
    }
    assert!(bench.ok("get pa -A -o name").await.is_empty());
    an_unknown_mode_gets_past(&bench).await;
    let plane = &mut bench.cluster.control_plane.as_mut().unwrap().process;
    assert!(plane.runs(), "{}", plane.log_tail(20));
}

/// As with the definition of an older Istio, that knows no list of modes.
async fn an_unknown_mode_gets_past(bench: &Bench) {
    const DETAILS: &str = "http://details.bookinfo.svc.cluster.local:9080/details/1";
    const SLEEP: (&str, &str) = ("legacy", "sleep");
    let loose = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
        metadata: { name: peerauthentications.security.istio.io }\n\
        spec: { group: security.istio.io, scope: Namespaced, names: { kind: PeerAuthentication, \
        listKind: PeerAuthenticationList, plural: peerauthentications, singular: peerauthentication, \
        shortNames: [pa] }, versions: [{ name: v1, served: true, storage: true, schema: \
        { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } } }] }\n";
    bench.ok_with("replace -f -", loose).await;
    for (name, spec) in [
        ("bad-mode", "{ mtls: { mode: SOMETIMES } }"),
        ("bad-shape", "{ mtls: [1, 2] }"),
        ("bad-port", "{ selector: { matchLabels: { app: x } }, portLevelMtls: { many: {} } }"),
    ] {
        bench.ok_with("apply -f -", &pa("v1", "bookinfo", name, spec)).await;
        let plane = &bench.cluster.control_plane.as_ref().unwrap().process;
        let reported = async || Ok(plane.log().contains(name).then_some(()));
        let what = format!("the control plane reports {name}");
        let limit = Duration::from_secs(10);
        bench.cluster.wait_until(&what, limit, reported).await.unwrap();
    }
    // What cannot be read closes: who comes in the clear is kept out until it is gone.
    bench.shows(SLEEP, DETAILS, "exit 56").await;
    bench.ok("delete pa -n bookinfo bad-mode bad-shape bad-port").await;
    bench.shows(SLEEP, DETAILS, "200").await;
    // The others count as ever.
    bench.ok_with("apply -f -", &pa("v1", "istio-system", "x", "{ mtls: { mode: STRICT } }")).await;
    bench.shows(SLEEP, DETAILS, "exit 56").await;
}
