use std::cell::{Cell, RefCell};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::enroll::cni::wire::Answer;

fn env(command: &str) -> Env {
    Env {
        command: command.to_owned(),
        container_id: "c0ffee".to_owned(),
        netns: "/run/netns/x".to_owned(),
        interface: "eth0".to_owned(),
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u-1".to_owned(),
    }
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pod-network",
        "type": "sotto",
        "agentSocket": "/run/sotto/cni.sock",
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "veth0" },
                { "name": "eth0", "sandbox": "/run/netns/x" },
            ],
            "ips": [
                { "address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 1 },
                { "address": "192.0.2.1/24", "interface": 0 },
                { "address": "fd00::7/64" },
                { "address": "nonsense" },
            ],
            "dns": { "nameservers": ["10.96.0.10"] },
        },
    })
}

fn proceed() -> Result<Reply, String> {
    Ok(Reply::Proceed(Answer { enrolled: true, reason: String::new() }))
}

fn absent() -> Result<Reply, String> {
    Err("connection refused".to_owned())
}

/// The list of a node where `shop` is enrolled.
fn list(path: &Path) -> Result<Namespaces, ListError> {
    assert_eq!(path, Path::new("/var/lib/sotto/enrolled.json"));
    Ok(Namespaces::new(["shop".into()].into()))
}

fn run(env: &Env, conf: &Value, reply: Result<Reply, String>) -> Printed {
    run_with(env, conf, reply, &list)
}

fn run_with(env: &Env, conf: &Value, reply: Result<Reply, String>, list: List<'_>) -> Printed {
    run_bytes(env, conf.to_string().as_bytes(), &|_, _, _| reply.clone(), list)
}

fn run_bytes(env: &Env, stdin: &[u8], ask: Ask<'_>, list: List<'_>) -> Printed {
    execute(env, stdin, Node { ask, list, pause: &|| false })
}

#[track_caller]
fn check_error(printed: &Printed, code: u32, message: &str) {
    assert!(printed.failed);
    let error: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    assert_eq!(error["code"], code, "{error}");
    assert!(error["cniVersion"].is_string());
    assert!(error["msg"].as_str().is_some_and(|text| text.contains(message)), "{error}");
}

#[track_caller]
fn check_prev_result(printed: &Printed) {
    assert!(!printed.failed, "{}", printed.stdout);
    let result: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    assert_eq!(result, conf()["prevResult"]);
}

#[test]
fn add_passes_the_previous_result_on_unchanged() {
    check_prev_result(&run(&env("ADD"), &conf(), proceed()));
}

#[test]
fn add_tells_the_agent_pod_sandbox_and_addresses() {
    let asked = RefCell::new(None);
    let ask = |socket: &Path, verb: Verb, request: &Request| {
        *asked.borrow_mut() = Some((socket.to_owned(), verb, request.clone()));
        proceed()
    };
    check_prev_result(&run_bytes(&env("ADD"), conf().to_string().as_bytes(), &ask, &list));
    let (socket, verb, request) = asked.into_inner().expect("asked");
    assert_eq!((socket.as_path(), verb), (Path::new("/run/sotto/cni.sock"), Verb::Add));
    assert_eq!(
        serde_json::to_value(request).expect("JSON"),
        json!({
            "Netns": "/run/netns/x",
            "PodName": "web",
            "PodNamespace": "shop",
            "PodUID": "u-1",
            "ContainerID": "c0ffee",
            "IPs": [
                { "Interface": 1, "Address": "10.244.1.7/24", "Gateway": "10.244.1.1" },
                { "Address": "fd00::7/64" },
            ],
        })
    );
}

#[test]
fn add_fails_closed_while_the_agent_is_away() {
    check_error(&run(&env("ADD"), &conf(), absent()), 11, "connection refused");
    let unsure = Ok(Reply::Unsure("no API server".to_owned()));
    check_error(&run(&env("ADD"), &conf(), unsure), 11, "no API server");
    let failed = Ok(Reply::Fail("no memory".to_owned()));
    check_error(&run(&env("ADD"), &conf(), failed), 11, "no memory");
}

#[test]
fn a_pod_that_has_to_wait_waits_a_moment_for_an_agent_that_is_about_to_come() {
    for (there_after, moments, starts) in [(0, 0, true), (3, 5, true), (9, 5, false)] {
        let (asked, paused) = (Cell::new(0), Cell::new(0));
        let ask = |_: &Path, _: Verb, _: &Request| {
            asked.set(asked.get() + 1);
            if asked.get() > there_after { proceed() } else { absent() }
        };
        let pause = || {
            paused.set(paused.get() + 1);
            paused.get() <= moments
        };
        let node = Node { ask: &ask, list: &list, pause: &pause };
        let printed = execute(&env("ADD"), conf().to_string().as_bytes(), node);
        assert_eq!(!printed.failed, starts, "there after {there_after}: {}", printed.stdout);
        assert_eq!(asked.get(), there_after.min(moments) + 1);
    }
}

#[test]
fn who_starts_without_the_agent_or_is_refused_by_it_does_not_wait_for_it() {
    let pause = || -> bool { panic!("it waited") };
    let add = |namespace: &str, reply: Result<Reply, String>| {
        let mut env = env("ADD");
        env.args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=x");
        let ask = |_: &Path, _: Verb, _: &Request| reply.clone();
        execute(&env, conf().to_string().as_bytes(), Node { ask: &ask, list: &list, pause: &pause })
    };
    assert!(!add("registry", absent()).failed);
    assert!(add("shop", Ok(Reply::Fail("no memory".to_owned()))).failed);
    assert!(add("shop", Ok(Reply::Unsure("no API server".to_owned()))).failed);
}

fn check_namespace(namespace: &str, extra: &Value, starts: bool) {
    let mut env = env("ADD");
    env.args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=x");
    let mut conf = conf();
    for (key, value) in extra.as_object().expect("an object") {
        conf[key] = value.clone();
    }
    assert_eq!(!run(&env, &conf, absent()).failed, starts, "{namespace} {extra}");
    let refused = run(&env, &conf, Ok(Reply::Fail("told so".to_owned())));
    assert!(refused.failed, "what the agent refuses stays refused");
}

#[test]
fn the_agents_own_pod_and_exempt_namespaces_start_without_it() {
    check_namespace("istio-system", &json!({}), true);
    check_namespace("kube-system", &json!({}), true);
    check_namespace("shop", &json!({}), false);
    check_namespace("sotto", &json!({ "agentNamespace": "sotto" }), true);
    check_namespace("shop", &json!({ "exemptNamespaces": ["shop"] }), true);
    check_namespace("shop", &json!({ "agentNamespace": "shop" }), true);
}

#[test]
fn the_agent_is_told_where_a_network_namespace_really_is() {
    let node = tempfile::tempdir().unwrap();
    let root = node.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("run/netns")).unwrap();
    std::fs::write(root.join("run/netns/cni-1"), "").unwrap();
    std::os::unix::fs::symlink(root.join("run"), root.join("var-run")).unwrap();
    let netns = root.join("var-run/netns/cni-1").to_string_lossy().into_owned();
    let asked = RefCell::new(String::new());
    let ask = |_: &Path, _: Verb, request: &Request| {
        asked.borrow_mut().clone_from(&request.netns);
        proceed()
    };
    let env = Env { netns, ..env("ADD") };
    run_bytes(&env, conf().to_string().as_bytes(), &ask, &list);
    assert_eq!(*asked.borrow(), root.join("run/netns/cni-1").to_string_lossy());
}

#[test]
fn only_pods_of_enrolled_namespaces_wait_for_an_agent_that_is_away() {
    check_namespace("shop", &json!({}), false);
    check_namespace("registry", &json!({}), true);
    check_namespace("shop-2", &json!({}), true);
}

#[test]
fn without_a_list_all_wait_but_the_exempt() {
    let missing = |path: &Path| Err(ListError::Missing(path.to_owned()));
    let broken = |path: &Path| {
        let source = serde_json::from_str::<Value>("{").unwrap_err();
        Err(ListError::Broken { path: path.to_owned(), source })
    };
    let lists: [List<'_>; 2] = [&missing, &broken];
    for list in lists {
        for (namespace, starts) in
            [("registry", false), ("kube-system", true), ("istio-system", true)]
        {
            let args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=x");
            let printed = run_with(&Env { args, ..env("ADD") }, &conf(), absent(), list);
            assert_eq!(!printed.failed, starts, "{namespace}: {}", printed.stdout);
            if !starts {
                check_error(&printed, 11, "/var/lib/sotto/enrolled.json");
            }
        }
    }
}

#[test]
fn an_agent_that_answers_is_not_second_guessed() {
    let unread = |_: &Path| -> Result<Namespaces, ListError> { panic!("the agent has answered") };
    check_prev_result(&run_with(&env("ADD"), &conf(), proceed(), &unread));
    let failed = Ok(Reply::Fail("no memory".to_owned()));
    check_error(&run_with(&env("ADD"), &conf(), failed, &unread), 11, "no memory");
}

#[test]
fn a_sandbox_that_is_not_a_pods_is_none_of_our_business() {
    let mut env = env("ADD");
    for args in ["", "FOO=1", "K8S_POD_NAME=web", "K8S_POD_NAMESPACE=;K8S_POD_NAME=web"] {
        args.clone_into(&mut env.args);
        check_prev_result(&run(&env, &conf(), absent()));
    }
}

#[test]
fn add_needs_a_previous_result() {
    let mut conf = conf();
    conf["prevResult"] = Value::Null;
    check_error(&run(&env("ADD"), &conf, proceed()), 7, "prevResult");
    conf["prevResult"] = json!("text");
    check_error(&run(&env("ADD"), &conf, proceed()), 7, "prevResult");
}

#[test]
fn malformed_environment_is_code_4() {
    let check = |change: &dyn Fn(&mut Env), message: &str| {
        let mut env = env("ADD");
        change(&mut env);
        check_error(&run(&env, &conf(), proceed()), 4, message);
    };
    check(&|env| env.command = String::new(), "CNI_COMMAND");
    check(&|env| env.command = "add".to_owned(), "CNI_COMMAND");
    check(&|env| env.container_id = String::new(), "CNI_CONTAINERID");
    check(&|env| env.container_id = "../x".to_owned(), "CNI_CONTAINERID");
    check(&|env| env.interface = String::new(), "CNI_IFNAME");
    check(&|env| env.interface = "sixteen-letters-".to_owned(), "CNI_IFNAME");
    check(&|env| env.interface = "a/b".to_owned(), "CNI_IFNAME");
    check(&|env| env.netns = String::new(), "CNI_NETNS");
}

#[test]
fn malformed_configuration_is_told_by_code() {
    let run = |stdin: &str| run_bytes(&env("ADD"), stdin.as_bytes(), &|_, _, _| proceed(), &list);
    check_error(&run(""), 6, "configuration");
    check_error(&run("7"), 6, "configuration");
    check_error(&run(r#"{"cniVersion": 1}"#), 6, "configuration");
    check_error(&run(r#"{"cniVersion": "2.0.0"}"#), 1, "2.0.0");
    check_error(&run(r#"{"cniVersion": "1.0.0", "agentSocket": "x"}"#), 7, "agentSocket");
    check_error(&run(r#"{"cniVersion": "1.0.0", "enrolledList": "x"}"#), 7, "enrolledList");
}

#[test]
fn every_supported_version_works() {
    for version in SUPPORTED_VERSIONS {
        let mut conf = conf();
        conf["cniVersion"] = json!(version);
        check_prev_result(&run(&env("ADD"), &conf, proceed()));
    }
}

#[test]
fn a_result_is_passed_on_in_the_shape_of_its_version_and_its_addresses_are_found() {
    let old = json!({
        "ip4": { "ip": "10.244.1.7/24", "gateway": "10.244.1.1", "routes": [{ "dst": "0.0.0.0/0" }] },
        "ip6": { "ip": "fd00::7/64" },
        "dns": {},
    });
    let with_version = json!({ "ips": [
        { "version": "4", "address": "10.244.1.7/24", "gateway": "10.244.1.1" },
        { "version": "6", "address": "fd00::7/64" },
    ] });
    let new = json!({ "ips": [
        { "address": "10.244.1.7/24", "gateway": "10.244.1.1" }, { "address": "fd00::7/64" },
    ] });
    for (version, result) in [
        (None, &old),
        (Some(""), &old),
        (Some("0.1.0"), &old),
        (Some("0.2.0"), &old),
        (Some("0.3.0"), &with_version),
        (Some("0.3.1"), &with_version),
        (Some("0.4.0"), &with_version),
        (Some("1.0.0"), &new),
        (Some("1.1.0"), &new),
    ] {
        let mut conf = json!({ "name": "n", "type": "sotto", "prevResult": result });
        if let Some(version) = version {
            conf["cniVersion"] = json!(version);
        }
        let told = RefCell::new(Vec::new());
        let ask = |_: &Path, _: Verb, request: &Request| {
            let ip = |ip: &crate::enroll::cni::wire::IpConfig| (ip.address.to_string(), ip.gateway);
            *told.borrow_mut() = request.ips.iter().map(ip).collect();
            proceed()
        };
        let printed = run_bytes(&env("ADD"), conf.to_string().as_bytes(), &ask, &list);
        assert!(!printed.failed, "{version:?}: {}", printed.stdout);
        assert_eq!(serde_json::from_str::<Value>(&printed.stdout).expect("JSON"), *result);
        let gateway = "10.244.1.1".parse().ok();
        let expected = [("10.244.1.7/24".to_owned(), gateway), ("fd00::7/64".to_owned(), None)];
        assert_eq!(*told.borrow(), expected, "{version:?}");
    }
}

#[test]
fn del_never_fails() {
    let quiet = Printed { stdout: String::new(), failed: false };
    for reply in [proceed(), absent(), Ok(Reply::Fail("x".to_owned()))] {
        assert_eq!(run(&env("DEL"), &conf(), reply), quiet);
    }
    assert_eq!(run_bytes(&env("DEL"), b"garbage", &|_, _, _| absent(), &list), quiet);
    assert_eq!(run(&env("DEL"), &json!({ "cniVersion": "9" }), absent()), quiet);
    let bare = Env { command: "DEL".to_owned(), ..Env::default() };
    assert_eq!(run(&bare, &conf(), absent()), quiet);
}

#[test]
fn check_says_what_the_agent_says() {
    let quiet = Printed { stdout: String::new(), failed: false };
    assert_eq!(run(&env("CHECK"), &conf(), proceed()), quiet);
    check_error(&run(&env("CHECK"), &conf(), Ok(Reply::Fail("pending".to_owned()))), 11, "pending");
    check_error(&run(&env("CHECK"), &conf(), absent()), 11, "connection refused");
}

#[test]
fn version_and_status_need_no_agent() {
    let bare = |command: &str| Env { command: command.to_owned(), ..Env::default() };
    let printed = run(&bare("VERSION"), &json!({ "cniVersion": "1.0.0" }), absent());
    let version: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    assert_eq!(version, json!({ "cniVersion": "1.0.0", "supportedVersions": SUPPORTED_VERSIONS }));
    assert!(!run(&bare("STATUS"), &json!({ "cniVersion": "1.1.0" }), absent()).failed);
    assert!(!run(&bare("GC"), &json!({ "cniVersion": "1.1.0" }), absent()).failed);
}

/// Values that look like a configuration here and there.
fn jsonish() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just("1.0.0".to_owned()), Just("/x".to_owned()), ".*"].prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let key = prop_oneof![
            Just("cniVersion"),
            Just("prevResult"),
            Just("ips"),
            Just("interfaces"),
            Just("interface"),
            Just("address"),
            Just("sandbox"),
            Just("agentSocket"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6).prop_map(|pairs| {
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()
            }),
        ]
    })
}

fn command() -> impl Strategy<Value = String> {
    prop_oneof![Just("ADD"), Just("DEL"), Just("CHECK"), Just("VERSION"), Just("STATUS"), Just("")]
        .prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(command in command(), args: String, stdin: Vec<u8>) {
        let env = Env { command, args, ..env("") };
        drop(run_bytes(&env, &stdin, &|_, _, _| absent(), &list));
    }

    #[test]
    fn no_configuration_makes_it_panic_or_print_anything_but_json(
        command in command(), conf in jsonish(),
    ) {
        let printed = run(&env(&command), &conf, proceed());
        if !printed.stdout.is_empty() {
            serde_json::from_str::<Value>(&printed.stdout).expect("JSON");
        }
        prop_assert!(command != "DEL" || !printed.failed);
    }
}
