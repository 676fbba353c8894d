//! Pods: their end, tokens, commands in them, logs.

use std::io::Write as _;
use std::process::Stdio;

use kit::api::DeleteOptions;
use serde_json::{Value, json};

use crate::cluster::{Cluster, rows, text};

#[test]
fn tokens_are_requested_reviewed_and_end_with_their_pod() {
    let cluster = Cluster::start();
    cluster.ok("create sa robot");
    cluster.ok("run one --image=busybox --overrides '{\"spec\":{\"serviceAccountName\":\"robot\",\"nodeName\":\"node1\"}}'");
    let token = cluster.ok("create token robot --audience istio-ca --bound-object-kind Pod --bound-object-name one --duration 20m");
    let review = |audience: &str| {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token.trim(), "audiences": [audience]},
        });
        let answer = cluster.ok_with("create -f - -o json", &review.to_string());
        serde_json::from_str::<Value>(&answer).unwrap()["status"].clone()
    };
    let status = review("istio-ca");
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["audiences"], json!(["istio-ca"]));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert!(
        status["user"]["groups"]
            .as_array()
            .unwrap()
            .contains(&json!("system:serviceaccounts:default"))
    );
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["one"]));
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/node-name"], json!(["node1"]));
    assert_ne!(review("other")["authenticated"], true);
    // For the API itself it is no token.
    let said = cluster.fails_with(&format!("get pods --token {}", token.trim()), "");
    assert!(said.contains("Unauthorized") || said.contains("logged in"), "{said}");
    let own = cluster.ok("create token robot");
    assert!(
        cluster
            .ok(&format!("auth whoami --token {}", own.trim()))
            .contains("serviceaccount:default:robot")
    );
    let user = "system:serviceaccount:default:robot";
    assert!(cluster.api.usage(user).iter().any(|usage| usage.resource == "selfsubjectreviews"));
    cluster.ok("delete pod one --force --grace-period 0");
    assert_ne!(review("istio-ca")["authenticated"], true);
    assert!(
        cluster
            .fails_with("create token nobody", "")
            .contains("serviceaccounts \"nobody\" not found")
    );
}

#[test]
fn pods_end_when_their_kubelet_says_so() {
    let cluster = Cluster::start();
    cluster.ok("run one --image=busybox --overrides '{\"spec\":{\"nodeName\":\"node1\"}}'");
    cluster.ok("run two --image=busybox");
    let found =
        cluster.ok("get pods --field-selector spec.nodeName=node1,status.phase!=Failed -o name");
    assert_eq!(found, "pod/one\n");
    let said = cluster.fails_with("get pods --field-selector spec.made.up=x", "");
    assert!(said.contains("field label not supported"), "{said}");
    assert_eq!(cluster.ok("delete pod two"), "pod \"two\" deleted\n");
    cluster.ok("delete pod one --wait=false");
    assert_eq!(rows(&cluster.ok("get pod one"))[0][2], "Terminating");
    let grace = cluster.ok("get pod one -o 'jsonpath={.metadata.deletionGracePeriodSeconds}'");
    assert_eq!(grace, "30");
    assert!(cluster.api.store().delete("pods", "default", "one", &DeleteOptions::now()).unwrap());
    assert_eq!(cluster.ok("get pods -o name"), "");
    cluster.ok("run a --image=busybox -l app=x");
    cluster.ok("run b --image=busybox -l app=x");
    cluster.ok("run c --image=busybox -l app=y");
    cluster.ok("delete pod -l app=x");
    assert_eq!(cluster.ok("get pods -o 'custom-columns=NAME:.metadata.name' --no-headers"), "c\n");
}

#[test]
fn commands_run_in_pods_and_end_with_their_code() {
    let cluster = Cluster::start();
    cluster.ok("run one --image=busybox");
    assert_eq!(cluster.ok("exec one -- printenv CONTAINER"), "one\n");
    assert_eq!(cluster.ok("exec one -c one -- echo a b"), "a b\n");
    let output = cluster.output("exec one -- sh -c 'echo out; echo err >&2; exit 56'", "");
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), "err\ncommand terminated with exit code 56\n");
    assert_eq!(output.status.code(), Some(56));
    let long = "x".repeat(1 << 20);
    assert_eq!(cluster.ok_with("exec -i one -- cat", &long).len(), long.len());
    // A command that reads nothing of what it is sent.
    assert_eq!(cluster.ok_with("exec -i one -- echo done", &long), "done\n");
    let said = cluster.fails_with("exec one -c two -- true", "");
    assert!(said.contains("container two is not valid for pod one"), "{said}");
    assert!(cluster.fails_with("exec one -- /no/such/program", "").contains("/no/such/program"));
    assert!(cluster.fails_with("exec two -- true", "").contains("pods \"two\" not found"));
    cluster.ok("create deployment web --image=nginx");
    cluster.ok("label pod one app=web");
    assert_eq!(cluster.ok("exec deploy/web -- echo yes"), "yes\n");
}

#[test]
fn logs_are_shown_and_followed() {
    let cluster = Cluster::start();
    cluster.ok("run one --image=busybox");
    let path = cluster.home.path().join("log");
    std::fs::write(&path, "a\nb\nc\n").unwrap();
    assert_eq!(cluster.ok("logs one"), "a\nb\nc\n");
    assert_eq!(cluster.ok("logs one --tail 1"), "c\n");
    let mut follow =
        cluster.command("logs one -f --tail 1").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "c");
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"d\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "d");
    follow.kill().unwrap();
    follow.wait().unwrap();
}
