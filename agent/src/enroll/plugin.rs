//! `sotto cni`: the CNI plugin. Chained last, it asks the local agent to capture a pod before the
//! pod starts, and passes the result of the plugins before it on unchanged.
//!
//! A runtime calls it without arguments: all that it tells is in the environment and on standard
//! input. It needs no API credentials. While the agent is not there, or cannot tell, pods of enrolled
//! namespaces do not start (the kubelet tries again), by the list that the agent keeps on the node;
//! all others do, and among them the agent's own and those of exempt namespaces whatever the list
//! says: else a node could never come up.

pub mod ask;
mod conf;
mod error;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::conf::{Conf, Env, Pod};
pub use self::conf::{DEFAULT_AGENT_NAMESPACE, DEFAULT_SOCKET, SUPPORTED_VERSIONS};
use self::error::{CniError, Code};
use super::cni::wire::{Reply, Request, Verb};
use super::enrolled::{self, ListError, Namespaces};
use crate::error::chain;

/// Largest configuration read.
const MAX_STDIN_BYTES: u64 = 1024 * 1024;

/// How long a pod that has to wait for the agent waits here. A kubelet comes back to a pod that was refused after 10 s and
/// more, and at a boot all pods are started at once, the agent's too: it is there a moment later.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the plugin prints, and how it exits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Printed {
    stdout: String,
    failed: bool,
}

/// Asks the agent behind a socket; an error says why it could not be asked.
type Ask<'a> = &'a dyn Fn(&Path, Verb, &Request) -> Result<Reply, String>;
/// Reads the list of enrolled namespaces.
type List<'a> = &'a dyn Fn(&Path) -> Result<Namespaces, ListError>;

/// Lets a moment pass; false if there is none left.
type Pause<'a> = &'a dyn Fn() -> bool;

/// What the plugin goes by besides what the runtime tells.
#[derive(Clone, Copy)]
struct Node<'a> {
    ask: Ask<'a>,
    list: List<'a>,
    pause: Pause<'a>,
}

/// Whether a runtime has started this process as its plugin: it gives no arguments, and a command in the
/// environment (CNI specification, section 2).
pub fn is_called() -> bool {
    std::env::args_os().len() <= 1 && std::env::var_os("CNI_COMMAND").is_some()
}

/// Runs the plugin on the process's environment, standard input and output.
pub fn main() -> ExitCode {
    let started = Instant::now();
    let pause = || {
        let left = started.elapsed() < PATIENCE;
        if left {
            std::thread::sleep(LOOK_EVERY);
        }
        left
    };
    let node = Node { ask: &ask::ask, list: &enrolled::read, pause: &pause };
    let env = Env::from_process();
    let mut stdin = Vec::new();
    let printed = match std::io::stdin().lock().take(MAX_STDIN_BYTES).read_to_end(&mut stdin) {
        Ok(_) => execute(&env, &stdin, node),
        Err(error) => finish(
            &env,
            "",
            Err(CniError::new(Code::Io, "failed to read standard input").because(&error)),
        ),
    };
    let written = std::io::stdout().lock().write_all(printed.stdout.as_bytes());
    if printed.failed || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The plugin without its surroundings.
fn execute(env: &Env, stdin: &[u8], node: Node<'_>) -> Printed {
    let conf = Conf::parse(stdin);
    let version = conf.as_ref().map_or("", |conf| &conf.cni_version).to_owned();
    finish(env, &version, conf.and_then(|conf| dispatch(env, &conf, node)))
}

/// DEL never fails: a sandbox must be able to go, whatever its configuration has become.
fn finish(env: &Env, version: &str, result: Result<String, CniError>) -> Printed {
    match result {
        Ok(stdout) => Printed { stdout, failed: false },
        Err(error) if env.command == "DEL" => {
            eprintln!("sotto: DEL goes on in spite of this: {error}");
            Printed { stdout: String::new(), failed: false }
        }
        Err(error) => Printed { stdout: error.to_json(version), failed: true },
    }
}

fn dispatch(env: &Env, conf: &Conf, node: Node<'_>) -> Result<String, CniError> {
    if env.command == "VERSION" {
        let version = if conf.cni_version.is_empty() { "1.0.0" } else { &conf.cni_version };
        let answer = json!({ "cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS });
        return Ok(answer.to_string());
    }
    conf.check_version()?;
    match env.command.as_str() {
        "ADD" => add(env, conf, node),
        "DEL" => del(env, conf, node.ask),
        "CHECK" => check(env, conf, node),
        // The network works without the agent, for the pods that are not its business; saying
        // otherwise would keep the node from ever starting the agent.
        "STATUS" | "GC" => Ok(String::new()),
        other => {
            let message = format!("CNI_COMMAND {other:?} is unknown");
            Err(CniError::new(Code::Environment, message))
        }
    }
}

fn add(env: &Env, conf: &Conf, node: Node<'_>) -> Result<String, CniError> {
    env.validate(true)?;
    let Some(result) = &conf.prev_result else {
        let message =
            "there is no prevResult: sotto must come after the plugin that makes the interface";
        return Err(CniError::new(Code::Config, message));
    };
    // In the shape of its version, whichever that is.
    let passed_on = || Ok(result.to_string());
    let Some(pod) = Pod::of(&env.args) else { return passed_on() };
    let refuse = |message: String| Err(CniError::new(Code::TryAgain, message));
    let request = request(env, &pod, conf::ips(result));
    loop {
        let why = match (node.ask)(&conf.agent_socket, Verb::Add, &request) {
            Ok(Reply::Proceed(_)) => return passed_on(),
            Ok(Reply::Fail(reason)) => {
                return refuse(format!("the pod could not be captured: {reason}"));
            }
            Ok(Reply::Unsure(why)) => {
                alone(conf, &pod, node.list, &format!("the agent cannot tell yet: {why}"))?;
                return passed_on();
            }
            Err(why) => format!("the agent is not there: {why}"),
        };
        match alone(conf, &pod, node.list, &why) {
            Ok(()) => return passed_on(),
            Err(error) if !(node.pause)() => return Err(error),
            Err(_) => {}
        }
    }
}

/// Decides without the agent: whoever is not known to be enrolled may start.
///
/// A list that is lost or broken is no reason to let everybody out in the clear: as the plugin is
/// installed only once there is one, that node was ready before, and its agent can start and write it.
fn alone(conf: &Conf, pod: &Pod, list: List<'_>, why: &str) -> Result<(), CniError> {
    if !conf.is_exempt(&pod.namespace) {
        let refuse = |because: String| {
            let message = format!("{why}; {because}");
            Err(CniError::new(Code::TryAgain, message))
        };
        match list(&conf.enrolled_list) {
            Ok(enrolled) if enrolled.contains(pod.namespace.as_str()) => {
                return refuse(format!(
                    "pods of {}, which is enrolled, wait for it",
                    pod.namespace
                ));
            }
            Ok(_) => {}
            Err(error) => {
                return refuse(format!(
                    "pods wait for it, as it cannot be told which are enrolled: {} \
                     (where no agent is to come back: `sotto cni uninstall`)",
                    chain(&error)
                ));
            }
        }
    }
    eprintln!("sotto: pod {}/{} starts without the mesh: {why}", pod.namespace, pod.name);
    Ok(())
}

fn del(env: &Env, conf: &Conf, ask: Ask<'_>) -> Result<String, CniError> {
    if let Some(pod) = Pod::of(&env.args) {
        // An agent that is away sees by itself that the pod is gone.
        if let Err(why) = ask(&conf.agent_socket, Verb::Del, &request(env, &pod, Vec::new())) {
            eprintln!("sotto: the agent was not told: {why}");
        }
    }
    Ok(String::new())
}

fn check(env: &Env, conf: &Conf, node: Node<'_>) -> Result<String, CniError> {
    env.validate(true)?;
    let Some(pod) = Pod::of(&env.args) else { return Ok(String::new()) };
    match (node.ask)(&conf.agent_socket, Verb::Check, &request(env, &pod, Vec::new())) {
        Ok(Reply::Proceed(_)) => Ok(String::new()),
        Ok(Reply::Fail(why)) => {
            Err(CniError::new(Code::TryAgain, format!("the pod is not as it should be: {why}")))
        }
        Ok(Reply::Unsure(why)) | Err(why) => {
            alone(conf, &pod, node.list, &format!("the pod cannot be checked: {why}"))?;
            Ok(String::new())
        }
    }
}

fn request(env: &Env, pod: &Pod, ips: Vec<super::cni::wire::IpConfig>) -> Request {
    // Runtimes say `/var/run/netns/..`, and the agent's container need not have the node's link from
    // /var/run to /run. At DEL the namespace may be gone.
    let netns = std::fs::canonicalize(&env.netns).map(|path| path.to_string_lossy().into_owned());
    Request {
        netns: netns.unwrap_or_else(|_| env.netns.clone()),
        pod_name: pod.name.clone(),
        pod_namespace: pod.namespace.clone(),
        pod_uid: pod.uid.clone(),
        container_id: env.container_id.clone(),
        ips,
    }
}

/// A previous result, as it was.
type PrevResult = Value;

#[cfg(test)]
mod tests;
