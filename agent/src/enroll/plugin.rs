//! `sotto cni`: the CNI plugin. Chained last, it asks the local agent to capture a pod before the
//! pod starts, and passes the result of the plugins before it on unchanged.
//!
//! It needs no API credentials. While the agent is not there, pods that may be ours do not start
//! (the kubelet tries again), but the agent's own and those of exempt namespaces do: else a node
//! could never come up.

pub mod ask;
mod conf;
mod error;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use self::conf::{Conf, Env, Pod};
pub use self::conf::{DEFAULT_AGENT_NAMESPACE, DEFAULT_SOCKET, SUPPORTED_VERSIONS};
use self::error::{CniError, Code};
use super::cni::wire::{Reply, Request, Verb};

/// Largest configuration read.
const MAX_STDIN_BYTES: u64 = 1024 * 1024;

/// What the plugin prints, and how it exits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Printed {
    stdout: String,
    failed: bool,
}

/// Asks the agent behind a socket; an error says why it could not be asked.
type Ask<'a> = &'a dyn Fn(&std::path::Path, Verb, &Request) -> Result<Reply, String>;

/// Runs the plugin on the process's environment, standard input and output.
pub fn main() -> ExitCode {
    let env = Env::from_process();
    let mut stdin = Vec::new();
    let printed = match std::io::stdin().lock().take(MAX_STDIN_BYTES).read_to_end(&mut stdin) {
        Ok(_) => execute(&env, &stdin, &ask::ask),
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
fn execute(env: &Env, stdin: &[u8], ask: Ask<'_>) -> Printed {
    let conf = Conf::parse(stdin);
    let version = conf.as_ref().map_or("", |conf| &conf.cni_version).to_owned();
    finish(env, &version, conf.and_then(|conf| dispatch(env, conf, ask)))
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

fn dispatch(env: &Env, conf: Conf, ask: Ask<'_>) -> Result<String, CniError> {
    if env.command == "VERSION" {
        let version = if conf.cni_version.is_empty() { "1.0.0" } else { &conf.cni_version };
        let answer = json!({ "cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS });
        return Ok(answer.to_string());
    }
    conf.check_version()?;
    match env.command.as_str() {
        "ADD" => add(env, conf, ask),
        "DEL" => del(env, &conf, ask),
        "CHECK" => check(env, &conf, ask),
        // The network works without the agent, for the pods that are not its business; saying
        // otherwise would keep the node from ever starting the agent.
        "STATUS" | "GC" => Ok(String::new()),
        other => {
            let message = format!("CNI_COMMAND {other:?} is unknown");
            Err(CniError::new(Code::Environment, message))
        }
    }
}

fn add(env: &Env, conf: Conf, ask: Ask<'_>) -> Result<String, CniError> {
    env.validate(true)?;
    let Some(result) = conf.prev_result.clone() else {
        let message =
            "there is no prevResult: sotto must come after the plugin that makes the interface";
        return Err(CniError::new(Code::Config, message));
    };
    let Some(pod) = Pod::of(&env.args) else { return Ok(result.to_string()) };
    let request = request(env, &pod, conf::ips(&result));
    let refuse = |message: String| Err(CniError::new(Code::TryAgain, message));
    match ask(&conf.agent_socket, Verb::Add, &request) {
        Ok(Reply::Proceed(_)) => Ok(result.to_string()),
        Ok(Reply::Fail(reason)) => refuse(format!("the pod could not be captured: {reason}")),
        Ok(Reply::Unsure(why)) | Err(why) if conf.is_exempt(&pod.namespace) => {
            eprintln!("sotto: pod {}/{} starts without the agent: {why}", pod.namespace, pod.name);
            Ok(result.to_string())
        }
        Ok(Reply::Unsure(reason)) => refuse(format!("the agent cannot tell yet: {reason}")),
        Err(reason) => refuse(format!("the agent is not there: {reason}")),
    }
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

fn check(env: &Env, conf: &Conf, ask: Ask<'_>) -> Result<String, CniError> {
    env.validate(true)?;
    let Some(pod) = Pod::of(&env.args) else { return Ok(String::new()) };
    match ask(&conf.agent_socket, Verb::Check, &request(env, &pod, Vec::new())) {
        Ok(Reply::Proceed(_)) => Ok(String::new()),
        Ok(Reply::Fail(why) | Reply::Unsure(why)) | Err(why) => {
            Err(CniError::new(Code::TryAgain, format!("the pod cannot be checked: {why}")))
        }
    }
}

fn request(env: &Env, pod: &Pod, ips: Vec<super::cni::wire::IpConfig>) -> Request {
    Request {
        netns: env.netns.clone(),
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
