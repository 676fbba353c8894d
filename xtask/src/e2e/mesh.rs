//! The mesh under test: installed and taken off as the documents say, and asked through its own pages.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::clients::in_url;
use super::suite::{PLAIN, Suite, is_ready, items, name};

/// Where it is installed.
pub(super) const NAMESPACE: &str = "istio-system";
/// The folder of what stays when it is deleted: kinds of objects, the namespace.
pub(super) const KINDS: &str = "crds";
/// The pods of the agents.
const AGENTS: &str = "app.kubernetes.io/name=sotto,app.kubernetes.io/component=agent";
/// What a rollout over all nodes may take.
pub(super) const ROLLOUT: Duration = Duration::from_secs(300);

/// An agent's pod.
pub(super) struct Agent {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) node: String,
}

impl Suite {
    /// Applies a folder of `deploy` with the image under test; returns what kubectl warned of.
    pub(super) fn install(&self, folder: &str, image: &str) -> Result<Vec<String>> {
        let folder = self.kustomization(folder, image)?;
        let args = ["apply", "-k", &folder.display().to_string()];
        let said = self.kubectl.call(&args, "")?;
        if said.code != 0 {
            bail!("kubectl apply -k: exit {}: {}", said.code, said.err.trim());
        }
        Ok(said.err.lines().map(str::to_owned).collect())
    }

    /// A folder that asks for a folder of `deploy` with another image, as the documents say.
    pub(super) fn kustomization(&self, folder: &str, image: &str) -> Result<PathBuf> {
        let (new_name, new_tag) =
            image.rsplit_once(':').with_context(|| format!("`{image}` has no tag"))?;
        // Beside the tree's own: kustomize takes relative folders only.
        let path = self.root.join("target/e2e").join(folder.replace('/', "-"));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("failed to make {}", path.display()))?;
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
             resources:\n  - ../../../deploy/{folder}\n\
             images:\n  - name: sotto\n    newName: {new_name}\n    newTag: \"{new_tag}\"\n"
        );
        std::fs::write(path.join("kustomization.yaml"), text)?;
        Ok(path)
    }

    /// Waits until agents and control plane are there and ready.
    pub(super) fn installed(&self) -> Result<()> {
        let wait = |what: &str| {
            let line = format!("rollout status -n {NAMESPACE} {what} --timeout=290s");
            self.kubectl.ok_within(&line, ROLLOUT)
        };
        wait("daemonset/sotto").map_err(|error| self.why(error))?;
        wait("deployment/sotto-control-plane").map_err(|error| self.why(error))?;
        Ok(())
    }

    /// Adds to an error what the mesh's pods say of themselves.
    fn why(&self, error: anyhow::Error) -> anyhow::Error {
        let pods = self.kubectl.ok(&format!("get pods -n {NAMESPACE} --no-headers -o wide"));
        error.context(pods.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Tells, on stderr, what a failed row's reader wants to know first.
    pub(super) fn tell_state(&self) {
        let pods = self.kubectl.ok("get pods -A -o wide --no-headers").unwrap_or_default();
        let ours = pods.lines().filter(|line| line.contains("sotto"));
        eprintln!("{}", ours.collect::<Vec<_>>().join("\n"));
        for agent in self.agents().unwrap_or_default() {
            let line = self.logs(&agent, "--since=120s");
            let log = self.kubectl.ok(&line).unwrap_or_default();
            let bad = |line: &&str| line.contains("WARN") || line.contains("ERROR");
            let bad: Vec<&str> = log.lines().filter(bad).collect();
            let last = bad.len().saturating_sub(8);
            eprintln!("{} on {}:\n{}", agent.name, agent.node, bad[last..].join("\n"));
        }
    }

    /// How kubectl is asked for an agent's log.
    fn logs(&self, agent: &Agent, since: &str) -> String {
        format!("logs -n {NAMESPACE} {} -c {} {since}", agent.name, self.settings.container())
    }

    pub(super) fn agents(&self) -> Result<Vec<Agent>> {
        let pods = self.kubectl.list(&format!("pods -n {NAMESPACE} -l {AGENTS}"))?;
        let living = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(living
            .map(|pod| Agent {
                name: name(pod),
                address: text(&pod["status"]["podIP"]),
                node: text(&pod["spec"]["nodeName"]),
            })
            .collect())
    }

    pub(super) fn agent_on(&self, node: &str) -> Result<Agent> {
        let found = self.agents()?.into_iter().find(|agent| agent.node == node);
        found.with_context(|| format!("there is no agent on node {node}"))
    }

    /// Waits until a pod of the agents other than `before` is ready on a node.
    pub(super) fn agent_ready(&self, node: &str, limit: Duration) -> Result<()> {
        self.wait(&format!("the agent of {node} is ready"), limit, || {
            let agent = match self.agent_on(node) {
                Ok(agent) => agent,
                Err(error) => return Ok(Err(format!("{error:#}"))),
            };
            let Some(pod) = self.kubectl.get(&format!("pod -n {NAMESPACE} {}", agent.name))? else {
                return Ok(Err(String::from("gone again")));
            };
            Ok(if is_ready(&pod) { Ok(()) } else { Err(format!("{} is not ready", agent.name)) })
        })
    }

    /// The lines of an agent's metrics page, asked by a pod outside of the mesh.
    pub(super) fn metrics(&self, agent: &Agent) -> Result<Vec<String>> {
        let url = format!("http://{}:15020/metrics", in_url(&agent.address));
        let said =
            self.kubectl.exec((PLAIN, "client"), &["curl", "-sS", "--max-time", "10", &url])?;
        if said.code != 0 {
            bail!("{url}: exit {}: {}", said.code, said.last_line());
        }
        Ok(said.out.lines().map(str::to_owned).collect())
    }

    /// The sum of a metric's series that have all of these words.
    pub(super) fn metric(&self, agent: &Agent, metric: &str, words: &[&str]) -> Result<f64> {
        Ok(sum(&self.metrics(agent)?, metric, words))
    }

    /// The last lines of an agent's log, without quotes, that have all of these words.
    pub(super) fn log_lines(&self, agent: &Agent, words: &[&str]) -> Result<Vec<String>> {
        let line = self.logs(agent, "--since=60s --tail=5000");
        let log = self.kubectl.ok(&line)?.replace('"', "");
        let wanted = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        Ok(wanted.map(str::to_owned).collect())
    }

    /// The reasons and messages of a pod's Events.
    pub(super) fn events(&self, namespace: &str, pod: &str) -> Result<Vec<String>> {
        let line = format!("events -n {namespace} --field-selector involvedObject.name={pod}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.kubectl.list(&line)?;
        Ok(events
            .iter()
            .map(|event| format!("{}: {}", text(&event["reason"]), text(&event["message"])))
            .collect())
    }

    /// The ranges that pods of a node have addresses from.
    pub(super) fn pod_ranges(&self, node: &str) -> Result<Vec<String>> {
        let found = self.kubectl.get(&format!("node {node}"))?.context("the node is gone")?;
        let ranges = items(&found["spec"]["podCIDRs"]).iter().filter_map(Value::as_str);
        // More addresses than this cannot be asked ten times a second.
        let few = |range: &&str| {
            range.rsplit_once('/').and_then(|(_, bits)| bits.parse().ok()).is_some_and(
                |bits: u8| {
                    if range.contains(':') { bits >= 118 } else { bits >= 22 }
                },
            )
        };
        let ranges: Vec<String> = ranges.filter(few).map(str::to_owned).collect();
        if !ranges.is_empty() {
            return Ok(ranges);
        }
        let mut around: Vec<String> = Vec::new();
        for pod in self.kubectl.list(&format!("pods -A --field-selector spec.nodeName={node}"))? {
            let address = pod["status"]["podIP"].as_str().unwrap_or_default();
            let of_node = pod["spec"]["hostNetwork"] == true;
            if let Some((network, _)) = address.rsplit_once('.').filter(|_| !of_node) {
                around.push(format!("{network}.0/24"));
            }
        }
        around.sort();
        around.dedup();
        Ok(around)
    }
}

/// The sum of a metric's series that have all of these words in their labels.
fn sum(lines: &[String], metric: &str, words: &[&str]) -> f64 {
    let of_metric = lines.iter().filter_map(|line| line.strip_prefix(metric));
    let fitting = of_metric.filter(|rest| rest.starts_with(['{', ' ']));
    let fitting = fitting.filter(|rest| words.iter().all(|word| rest.contains(word)));
    let values = fitting.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    values.fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn series_are_summed_by_their_labels() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total_more{x=\"1\"} 100\nb 5";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(sum(&lines, "a_total", &["x=\"1\""]).to_string(), "7");
        assert_eq!(sum(&lines, "a_total", &["x=\"1\"", "y=\"3\""]).to_string(), "4");
        assert_eq!(sum(&lines, "b", &[]).to_string(), "5");
        assert_eq!(sum(&lines, "c", &[]).to_string(), "0");
    }
}
