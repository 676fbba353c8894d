//! The container runtime's side of CNI, as libcni and containerd have it: the first file of the
//! configuration directory rules, every plugin of its list is a program of the plugins' directory
//! that is run without arguments, and is told everything in its environment and on its stdin.

mod list;
pub mod primary;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

pub use self::list::{List, load};
use crate::launch::Launch;

/// As the kubelet's: a sandbox that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// A node's container runtime, as far as networks go.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Directory of network configurations.
    pub conf_dir: PathBuf,
    /// Directory of plugins.
    pub bin_dir: PathBuf,
    /// Where results are kept from ADD to DEL; it survives reboots.
    pub cache_dir: PathBuf,
    /// Where the runtime runs: the kubelet's cgroup.
    pub cgroup: PathBuf,
    /// And the node's network namespace.
    pub netns: PathBuf,
}

/// Which pod a call is about.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// The sandbox container.
    pub container_id: String,
    /// The pin of its network namespace.
    pub netns: PathBuf,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Pod UID.
    pub uid: String,
}

/// What a call tells of a pod.
struct About<'a> {
    pod: &'a Sandbox,
    netns: &'a str,
    ips: &'a [IpAddr],
    prev_result: Option<Value>,
}

impl Runtime {
    /// Runs the chain for a pod that is to start, with these addresses for it; its result.
    ///
    /// # Errors
    /// No network is configured, a plugin refuses (then with its own words), or the pod got no address.
    pub async fn add(&self, pod: &Sandbox, ips: &[IpAddr]) -> Result<Value> {
        let list = self.ready().await?;
        let netns = pod.netns.display().to_string();
        let mut prev_result = None;
        for plugin in &list.plugins {
            let about = About { pod, netns: &netns, ips, prev_result };
            let mut result = self.call(&list, plugin, "ADD", Some(&about)).await?;
            let name = list::kind(plugin);
            ensure!(result.is_object(), "CNI ADD: {name} printed no result");
            // As libcni: what names no version is of the configuration's.
            if result["cniVersion"].as_str().unwrap_or_default().is_empty() {
                result["cniVersion"] = json!(list.version);
            }
            ensure!(result["cniVersion"] == list.version, "CNI ADD: {name} printed {result}");
            prev_result = Some(result);
        }
        let result = prev_result.context("an empty list")?;
        let found = list::addresses(&result);
        ensure!(
            ips.iter().all(|ip| found.contains(ip)),
            "failed to find network info for the sandbox in {result}"
        );
        std::fs::create_dir_all(&self.cache_dir).context("make the results' directory")?;
        std::fs::write(self.cached(&list, pod), result.to_string()).context("keep the result")?;
        Ok(result)
    }

    /// Asks the chain whether a pod is as ADD left it; without an answer before version 0.4.0.
    ///
    /// # Errors
    /// It is not, or ADD was not called.
    pub async fn check(&self, pod: &Sandbox) -> Result<()> {
        let list = load(&self.conf_dir)?;
        if !list.is_at_least("0.4.0") {
            return Ok(());
        }
        let prev_result = self.result(&list, pod);
        ensure!(prev_result.is_some(), "CNI CHECK: no result of {} is known", pod.pod);
        let netns = pod.netns.display().to_string();
        for plugin in &list.plugins {
            let prev_result = prev_result.clone();
            let about = About { pod, netns: &netns, ips: &[], prev_result };
            self.call(&list, plugin, "CHECK", Some(&about)).await?;
        }
        Ok(())
    }

    /// Runs the chain backwards for a sandbox that is stopped, or removed: then without its network
    /// namespace, which is gone, and without a result the second time.
    ///
    /// # Errors
    /// A plugin fails: the runtime will try again, and the pod stays until then.
    pub async fn del(&self, pod: &Sandbox, netns_is_there: bool) -> Result<()> {
        let list = load(&self.conf_dir)?;
        let prev_result = self.result(&list, pod).filter(|_| list.is_at_least("0.4.0"));
        let netns = if netns_is_there { pod.netns.display().to_string() } else { String::new() };
        for plugin in list.plugins.iter().rev() {
            let prev_result = prev_result.clone();
            let about = About { pod, netns: &netns, ips: &[], prev_result };
            self.call(&list, plugin, "DEL", Some(&about)).await?;
        }
        match std::fs::remove_file(self.cached(&list, pod)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Tells the chain which attachments are still there; from version 1.1.0 on.
    ///
    /// # Errors
    /// A plugin fails.
    pub async fn collect_garbage(&self, pods: &[Sandbox]) -> Result<()> {
        let mut list = load(&self.conf_dir)?;
        if !list.is_at_least("1.1.0") {
            return Ok(());
        }
        let valid =
            pods.iter().map(|pod| json!({ "containerID": pod.container_id, "ifname": "eth0" }));
        let valid: Vec<Value> = valid.collect();
        for plugin in &mut list.plugins {
            plugin["cni.dev/valid-attachments"] = json!(valid);
        }
        for plugin in &list.plugins {
            self.call(&list, plugin, "GC", None).await?;
        }
        Ok(())
    }

    /// The list that rules, with every plugin of it there, of its version, and able to work.
    ///
    /// # Errors
    /// The node's network is not ready.
    pub async fn ready(&self) -> Result<List> {
        let list = load(&self.conf_dir)?;
        for plugin in &list.plugins {
            let told = self.call(&list, plugin, "VERSION", None).await?;
            let versions = told["supportedVersions"].as_array().context("no supportedVersions")?;
            let wanted = if list.version.is_empty() { "0.1.0" } else { &list.version };
            let name = list::kind(plugin);
            ensure!(
                versions.iter().any(|version| version == wanted),
                "plugin {name} does not support config version {wanted:?}"
            );
            if list.is_at_least("1.1.0") {
                self.call(&list, plugin, "STATUS", None).await?;
            }
        }
        Ok(list)
    }

    async fn call(
        &self,
        list: &List,
        plugin: &Value,
        command: &str,
        about: Option<&About<'_>>,
    ) -> Result<Value> {
        let kind = list::kind(plugin);
        let program = self.bin_dir.join(&kind);
        if !program.exists() {
            bail!("failed to find plugin {kind:?} in path [{}]", self.bin_dir.display());
        }
        let mut config = plugin.clone();
        config["name"] = json!(list.name);
        config["cniVersion"] = json!(list.version);
        if let Some(about) = about {
            if let Some(result) = &about.prev_result {
                config["prevResult"] = result.clone();
            }
            if plugin["capabilities"]["ips"] == true && !about.ips.is_empty() {
                config["runtimeConfig"] = json!({ "ips": about.ips });
            }
        }
        let launch = Launch {
            argv: vec![program.display().to_string()],
            cgroup: self.cgroup.clone(),
            netns: Some(self.netns.clone()),
            env: self.environment(command, about),
            ..Launch::default()
        };
        let output = launch.output(config.to_string().as_bytes(), LIMIT).await?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error: Value = serde_json::from_str(&said).unwrap_or_default();
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("CNI {command}: {kind}: {} {} {}", error["msg"], error["details"], stderr.trim());
        }
        if said.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said)
            .with_context(|| format!("CNI {command}: {kind} printed {said:?}"))
    }

    fn environment(&self, command: &str, about: Option<&About<'_>>) -> Vec<(String, String)> {
        let mut env = vec![
            (String::from("CNI_COMMAND"), command.to_owned()),
            (String::from("CNI_PATH"), self.bin_dir.display().to_string()),
        ];
        if let Some(About { pod, netns, .. }) = about {
            let args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                pod.namespace, pod.pod, pod.container_id, pod.uid
            );
            let more = [
                ("CNI_CONTAINERID", pod.container_id.clone()),
                ("CNI_NETNS", (*netns).to_owned()),
                ("CNI_IFNAME", String::from("eth0")),
                ("CNI_ARGS", args),
            ];
            env.extend(more.map(|(key, value)| (key.to_owned(), value)));
        }
        env
    }

    fn cached(&self, list: &List, pod: &Sandbox) -> PathBuf {
        self.cache_dir.join(format!("{}-{}-eth0", list.name, pod.container_id))
    }

    fn result(&self, list: &List, pod: &Sandbox) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.cached(list, pod)).ok()?).ok()
    }
}
