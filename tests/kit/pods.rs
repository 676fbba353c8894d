//! Running pods as other programs find them: `demo exec` in a demo that was kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::node::RunningPod;
use crate::run;

const FILE: &str = "running.json";

/// Notes a running pod in its directory.
pub(crate) fn note(dir: &Path, pod: &RunningPod) -> Result<()> {
    fs::write(dir.join(FILE), serde_json::to_vec(pod)?).context("note the running pod")
}

/// Finds a pod of any living run: by its name, or by the start of it (a deployment's name).
///
/// # Errors
/// None or several match.
pub fn find(namespace: &str, name: &str) -> Result<RunningPod> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for dir in run::living().iter().flat_map(|run| pod_dirs(run)) {
        let Some(file) = dir.file_name().and_then(|file| file.to_str()) else { continue };
        let mut parts = file.splitn(3, '_');
        let (of, pod) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let fits = pod == name || pod.starts_with(&format!("{name}-"));
        if of == namespace && fits && dir.join(FILE).exists() {
            found.push((pod.to_owned(), dir));
        }
    }
    if found.iter().any(|(pod, _)| pod == name) {
        found.retain(|(pod, _)| pod == name);
    }
    match found.as_slice() {
        [] => bail!("no pod {namespace}/{name} runs in a pocket cluster"),
        [(_, dir)] => {
            let text = fs::read(dir.join(FILE)).context("read the running pod")?;
            serde_json::from_slice(&text).context("read the running pod")
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(pod, _)| pod.as_str()).collect();
            bail!("{namespace}/{name} is several pods: {}", names.join(", "))
        }
    }
}

/// The directories of a run's pods.
fn pod_dirs(run: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    below(run).iter().flat_map(|node| below(&node.join("pods"))).collect()
}
