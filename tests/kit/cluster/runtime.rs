//! What `kubectl exec` and `kubectl logs` reach: the pods of this cluster's nodes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::api::{self, ContainerRef, Exec, PodRuntime};
use crate::node::Node;

/// The nodes, as far as they are made.
#[derive(Default)]
pub(super) struct Runtime(pub(super) Mutex<Vec<Arc<Node>>>);

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Runtime").field(&self.0.lock().len()).finish()
    }
}

impl Runtime {
    fn node(&self, container: &ContainerRef) -> Result<Arc<Node>> {
        let nodes = self.0.lock();
        let found = nodes.iter().find(|node| node.name() == container.node).cloned();
        found.with_context(|| format!("the pod {} is on no node", container.pod))
    }
}

impl PodRuntime for Runtime {
    fn exec(&self, container: ContainerRef, exec: Exec) -> BoxFuture<'static, Result<i32>> {
        let pod = self.node(&container).and_then(|node| {
            let pod = node.pod(&container.namespace, &container.pod);
            pod.with_context(|| format!("the pod {} does not run", container.pod))
        });
        Box::pin(async move {
            let words =
                if exec.terminal { in_terminal(&exec.command) } else { exec.command.clone() };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let launch = pod?.launch(&words);
            api::run(launch.command(), exec, |command| launch.start(command)).await
        })
    }

    fn log(&self, container: &ContainerRef) -> Result<PathBuf> {
        let dir = self.node(container)?.config.dir.clone();
        let ContainerRef { namespace, pod, uid, container, .. } = container;
        let file = dir.join("pods").join(format!("{namespace}_{pod}_{uid}/{container}.log"));
        // The agent's pod is run by the cluster itself.
        Ok(if file.exists() { file } else { dir.join(format!("{container}.log")) })
    }
}

/// The command with a terminal of its own, by script(1).
fn in_terminal(command: &[String]) -> Vec<String> {
    let quoted: Vec<String> =
        command.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    ["script", "-qefc", &quoted.join(" "), "/dev/null"].map(String::from).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_a_terminal_keeps_its_words() {
        let words = in_terminal(&[String::from("echo"), String::from("it's a word")]);
        assert_eq!(words[2], r"'echo' 'it'\''s a word'");
    }
}
