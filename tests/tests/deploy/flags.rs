//! The arguments in the manifests, given to the binary's own parser and held against the rest.

use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::Value;
use sotto::config::{AgentArgs, Cli, CniAction, CniInstallArgs, Command, ControlPlaneArgs};

use crate::render::{documents, folders, items, name, only, with_agents};

fn parse(container: &Value) -> Command {
    let args = items(&container["args"]).iter().map(|arg| arg.as_str().expect("a text"));
    let parsed = Cli::try_parse_from(std::iter::once("sotto").chain(args));
    parsed.unwrap_or_else(|error| panic!("{}: {error}", name(container))).command
}

fn pod<'a>(all: &'a [Value], kind: &str) -> &'a Value {
    &only(all, kind)["spec"]["template"]["spec"]
}

fn container<'a>(pod: &'a Value, wanted: &str) -> &'a Value {
    items(&pod["containers"])
        .iter()
        .find(|container| name(container) == wanted)
        .expect("the container")
}

/// The agent's container: under istiod it has the name that Istio's tools look for.
fn agent_container(all: &[Value]) -> &Value {
    let pod = pod(all, "DaemonSet");
    let named = items(&pod["containers"]).iter().find(|container| name(container) == "istio-proxy");
    named.unwrap_or_else(|| container(pod, "agent"))
}

fn agent(all: &[Value]) -> AgentArgs {
    match parse(agent_container(all)) {
        Command::Agent(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn control_plane(all: &[Value]) -> ControlPlaneArgs {
    match parse(container(pod(all, "Deployment"), "control-plane")) {
        Command::ControlPlane(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn cni(all: &[Value]) -> CniInstallArgs {
    match parse(container(pod(all, "DaemonSet"), "cni")) {
        Command::Cni(CniAction::Install(args)) => args,
        other => panic!("{other:?}"),
    }
}

/// The mount that a path lies in: the volume's name, and whether it can be written.
fn mounted(container: &Value, path: &Path) -> (String, bool) {
    let mounts = items(&container["volumeMounts"]).iter();
    let at = |mount: &&Value| PathBuf::from(mount["mountPath"].as_str().expect("a path"));
    let innermost = mounts
        .filter(|mount| path.starts_with(at(mount)))
        .max_by_key(|mount| at(mount).components().count());
    let mount = innermost.unwrap_or_else(|| panic!("{} is in no mount", path.display()));
    (name(mount).to_owned(), mount["readOnly"] != true)
}

#[test]
fn every_command_line_is_understood() {
    for folder in folders() {
        for document in documents(&folder) {
            for container in items(&document["spec"]["template"]["spec"]["containers"]) {
                parse(container);
            }
        }
    }
}

#[test]
fn the_agents_paths_are_mounted() {
    for folder in with_agents() {
        let all = documents(&folder);
        let args = agent(&all);
        let container = agent_container(&all);
        let check = |path: &Path, volume: &str, writable: bool| {
            assert_eq!(
                mounted(container, path),
                (volume.to_owned(), writable),
                "{folder}: {}",
                path.display()
            );
        };
        check(&args.root_cert, "root-cert", false);
        check(&args.token, "token", false);
        // What it finds there is the node's.
        assert_eq!((&args.proc, &args.cgroup_root, &args.agent_cgroup), (&None, &None, &None));
        check(Path::new("/host/proc"), "host-proc", true);
        check(Path::new("/host/sys/fs/cgroup"), "host-cgroup", false);
        check(&args.pin_dir, "bpffs", true);
        check(&args.cni_socket, "run", true);
        check(&args.state_dir, "state", true);
    }
}

#[test]
fn the_token_is_one_that_a_control_plane_takes() {
    let all = documents("base");
    let volumes = items(&pod(&all, "DaemonSet")["volumes"]);
    let token = &volumes.iter().find(|volume| name(volume) == "token").expect("the volume")["projected"]
        ["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "istio-ca");
    assert_eq!(
        agent(&all).token.file_name().and_then(|name| name.to_str()),
        token["path"].as_str()
    );
}

#[test]
fn agents_find_the_control_plane_that_trusts_them() {
    let all = documents("base");
    let (agent, control_plane) = (agent(&all), control_plane(&all));
    let service = only(&all, "Service");
    let metadata = &service["metadata"];
    let port = &service["spec"]["ports"][0]["port"];
    let expected = format!(
        "https://{}.{}.svc:{port}",
        name(metadata),
        metadata["namespace"].as_str().expect("a namespace")
    );
    assert_eq!(agent.xds_address, expected);
    assert_eq!(control_plane.listen, format!("[::]:{port}"));
    let account = pod(&all, "DaemonSet")["serviceAccountName"].as_str().expect("an account");
    assert_eq!(control_plane.trusted_node_account, [format!("istio-system/{account}")]);
    // What the control plane tells is learned.
    assert_eq!((agent.trust_domain, agent.cluster_id, agent.network), (None, None, None));
    assert_eq!(agent.common.root_namespace, control_plane.common.root_namespace);
}

#[test]
fn ports_are_those_that_are_listened_on() {
    let all = documents("base");
    for (kind, wanted, common) in [
        ("DaemonSet", "agent", agent(&all).common),
        ("Deployment", "control-plane", control_plane(&all).common),
    ] {
        for (port, address) in
            [("metrics", common.metrics_address), ("ready", common.ready_address)]
        {
            let ports = items(&container(pod(&all, kind), wanted)["ports"]);
            let found = ports.iter().find(|found| name(found) == port).expect("the port");
            // Of both families: a kubelet asks by the pod's first address, whichever that is.
            assert_eq!(address, format!("[::]:{}", found["containerPort"]), "{kind}");
        }
    }
}

#[test]
fn the_agents_memory_is_bounded_by_its_container_or_its_flag() {
    for folder in with_agents() {
        let all = documents(&folder);
        let container = agent_container(&all);
        let limit = container["resources"]["limits"]["memory"].as_str();
        assert_eq!(limit, Some("2Gi"), "{folder}");
        assert!(container["resources"]["limits"]["cpu"].is_null(), "{folder}");
        assert_eq!(agent(&all).memory_limit, "", "{folder}: the container's own counts");
    }
}

#[test]
fn the_drain_ends_before_the_pod_is_killed() {
    let all = documents("base");
    let drain = agent(&all).drain_deadline;
    let seconds: u64 = drain.strip_suffix('s').and_then(|text| text.parse().ok()).expect("seconds");
    assert!(
        seconds
            < pod(&all, "DaemonSet")["terminationGracePeriodSeconds"].as_u64().expect("seconds")
    );
}

#[test]
fn the_plugin_finds_the_agent_and_its_folders_are_mounted() {
    for folder in [
        "base",
        "overlays/beside-istio",
        "overlays/dev-node",
        "overlays/istiod",
        "overlays/startup-taint",
    ] {
        let all = documents(folder);
        let args = cni(&all);
        assert!(args.watch, "{folder}");
        assert_eq!(
            args.paths.socket,
            agent(&all).cni_socket,
            "{folder}: the plugin runs on the node, where both are one path"
        );
        let container = container(pod(&all, "DaemonSet"), "cni");
        // The runtime's own configuration says where, in no distribution a flag.
        assert_eq!((&args.paths.bin_dir, &args.paths.conf_dir), (&None, &None), "{folder}");
        check_host(&all, container);
        // The plugin runs on the node, and reads there what the agent writes.
        let state_dir = &args.paths.state_dir;
        assert_eq!(*state_dir, agent(&all).state_dir, "{folder}");
        assert_eq!(mounted(container, state_dir), ("state".to_owned(), true), "{folder}");
        let volumes = items(&pod(&all, "DaemonSet")["volumes"]);
        let state = volumes.iter().find(|volume| name(volume) == "state").expect("the volume");
        assert_eq!(state["hostPath"]["path"].as_str().map(Path::new), Some(&**state_dir));
        for variable in ["NODE_NAME", "POD_NAME", "POD_NAMESPACE"] {
            assert!(items(&container["env"]).iter().any(|env| name(env) == variable), "{variable}");
        }
    }
}

/// The node's root is at `/host`. Without propagation: that needs a root which is shared, and not every node's is.
fn check_host(all: &[Value], container: &Value) {
    let volumes = items(&pod(all, "DaemonSet")["volumes"]);
    let host = volumes.iter().find(|volume| name(volume) == "host").expect("the volume");
    assert_eq!(host["hostPath"]["path"], "/");
    assert_eq!(mounted(container, Path::new("/host/etc/cni/net.d")), ("host".to_owned(), true));
    let mounts = items(&container["volumeMounts"]);
    let mount = mounts.iter().find(|mount| mount["mountPath"] == "/host").expect("the mount");
    assert!(mount["mountPropagation"].is_null());
}

#[test]
fn the_uninstaller_has_the_node_and_says_when_it_is_done() {
    let all = documents("overlays/uninstall");
    let container = container(pod(&all, "DaemonSet"), "uninstall");
    let Command::Uninstall(args) = parse(container) else { panic!("another command") };
    assert!(args.watch);
    check_host(&all, container);
    // Paths as the agents have them, below /host.
    let agents = documents("base");
    assert_eq!(args.pin_dir, agent(&agents).pin_dir);
    assert_eq!(args.cni.socket, agent(&agents).cni_socket);
    assert_eq!(args.cni.state_dir, agent(&agents).state_dir);
    assert_eq!(args.cni.list_name, cni(&agents).paths.list_name);
    let ports = items(&container["ports"]);
    assert_eq!(args.ready_address, format!("[::]:{}", ports[0]["containerPort"]));
    assert!(items(&container["env"]).iter().any(|env| name(env) == "NODE_NAME"));
}
