//! What is wrong in agents' answers, and what to do about it.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::answer::Answer;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wrong {
    pub(super) node: String,
    pub(super) what: String,
    /// What to do.
    pub(super) help: &'static str,
}

const CONTROL_PLANE: &str = "look at the control plane's pods and logs (`kubectl -n istio-system get pods`), and whether a \
     NetworkPolicy keeps this node's agent from it";
const PENDING: &str =
    "what follows may say why; else the agent's log does (`kubectl -n istio-system logs`)";
const REMARK: &str = "deploy/README.md has what it is about; connections go on meanwhile";
const TROUBLE: &str =
    "it is tried again every 30 s; the pod's Event `NotCaptured` and the agent's log have it, too";
const REJECTED: &str = "`kubectl describe` of the policy says which field; what it governs is closed until it is mended";
const CERTIFICATE: &str = "the control plane's log says whom it refused, and why; connections of these pods wait or are refused";
const RENEWAL: &str =
    "the certificate counts until it expires: mend the way to the authority before that";
const VERSIONS: &str = "an update is under way, or has stopped: `kubectl -n istio-system rollout status daemonset/sotto`";

/// All that is wrong, node by node.
pub(super) fn wrong(answers: &[Answer]) -> Vec<Wrong> {
    let mut all = Vec::new();
    let versions: BTreeSet<_> = answers.iter().map(|answer| answer.version.as_str()).collect();
    if versions.len() > 1 {
        let versions: Vec<_> = versions.into_iter().collect();
        let what = format!("agents are of different versions: {}", versions.join(", "));
        all.push(Wrong { node: String::from("all"), what, help: VERSIONS });
    }
    for answer in answers {
        of_agent(answer, &mut all);
        of_pods(answer, &mut all);
    }
    all
}

fn of_agent(answer: &Answer, all: &mut Vec<Wrong>) {
    let mut tell = |what: String, help| all.push(Wrong { node: answer.node.clone(), what, help });
    if !answer.pending.is_empty() {
        tell(
            format!("the agent is not ready: it waits for {}", answer.pending.join(", ")),
            PENDING,
        );
    }
    let control_plane = &answer.control_plane;
    if !control_plane.connected {
        let why = control_plane.last_error.as_deref().unwrap_or("no connection yet");
        tell(format!("no connection to {}: {why}", control_plane.address), CONTROL_PLANE);
    }
    for (name, why) in &control_plane.rejected {
        tell(format!("{name} cannot be read: {why}"), REJECTED);
    }
    // Pods and certificates in trouble are told one by one.
    let told = |about: &str| about == "pods" || about == "certificates";
    for (_, text) in answer.remarks.iter().filter(|(about, _)| !told(about)) {
        tell(text.clone(), REMARK);
    }
}

fn of_pods(answer: &Answer, all: &mut Vec<Wrong>) {
    let mut tell = |what: String, help| all.push(Wrong { node: answer.node.clone(), what, help });
    for pod in &answer.pods {
        if let Some(trouble) = &pod.trouble {
            tell(format!("{} is {}, not captured: {trouble}", pod.name, pod.state), TROUBLE);
        }
    }
    for certificate in &answer.certificates {
        let identity = &certificate.identity;
        if let Some(trouble) = &certificate.trouble {
            tell(format!("no certificate for {identity}: {trouble}"), CERTIFICATE);
        } else if certificate.failures > 0 {
            let times = certificate.failures;
            tell(format!("the certificate of {identity} was not renewed, {times} times"), RENEWAL);
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}: {}", self.node, self.what)?;
        writeln!(f, "    {}", self.help)
    }
}
