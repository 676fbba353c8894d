//! `cargo xtask chart`: the Helm chart, made from what `kubectl kustomize` renders of `deploy/crds` and `deploy/base`.
//!
//! There is one source: what can be set is a list of places in that text, each found as often as it should be, or
//! this fails. With the chart's own values Helm renders the base again.

mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};
use xshell::{Shell, cmd};

use self::values::{VALUES, Value};
use crate::image::VERSION;
use crate::{needs, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where it is written; target/chart/sotto-VERSION.tgz if it is not given.
    #[arg(long)]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = shell::at_root()?;
    needs::kubectl(&sh)?;
    let files = files(&rendered(&sh)?)?;
    let default = || sh.current_dir().join(format!("target/chart/sotto-{VERSION}.tgz"));
    let output = args.output.clone().unwrap_or_else(default);
    if let Some(folder) = output.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&output, pack(&files)?)
        .with_context(|| format!("failed to write {}", output.display()))?;
    eprintln!("{} written:", output.display());
    eprintln!("  helm install sotto {} -n istio-system --create-namespace", output.display());
    Ok(())
}

fn rendered(sh: &Shell) -> Result<String> {
    let kinds = cmd!(sh, "kubectl kustomize deploy/crds").quiet().read()?;
    let base = cmd!(sh, "kubectl kustomize deploy/base").quiet().read()?;
    Ok(format!("{kinds}\n---\n{base}"))
}

/// The chart's files by their paths.
fn files(base: &str) -> Result<BTreeMap<String, String>> {
    let mut crds = Vec::new();
    let mut templates = Vec::new();
    for document in base.split("\n---\n") {
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: "));
        match kind.context("a document has no kind")? {
            // Helm installs them, and neither changes nor deletes them: policies outlive a release.
            "CustomResourceDefinition" => crds.push(document),
            // The one that the release is installed in: Helm's own affair.
            "Namespace" => {}
            _ => templates.push(document),
        }
    }
    let templates = template(&templates.join("\n---\n"))?;
    let mut files = BTreeMap::new();
    let mut add = |path: &str, text: String| files.insert(format!("sotto/{path}"), text);
    add("Chart.yaml", chart());
    add("values.yaml", values::yaml());
    add("crds/crds.yaml", crds.join("\n---\n") + "\n");
    add("templates/sotto.yaml", format!("{ONLY_THERE}{templates}\n"));
    Ok(files)
}

/// The namespace is part of identities and of what admission looks at.
const ONLY_THERE: &str = "{{- if ne .Release.Namespace \"istio-system\" }}\n\
    {{- fail \"sotto is installed in the namespace istio-system: -n istio-system\" }}\n{{- end }}\n";

fn chart() -> String {
    format!(
        "apiVersion: v2\nname: sotto\ntype: application\nversion: {VERSION}\nappVersion: \"{VERSION}\"\n\
         description: \"An ambient mesh for Kubernetes: mutual TLS between pods, without sidecars\"\n\
         kubeVersion: \">=1.30.0-0\"\n"
    )
}

/// The text with what can be set in place of what the base has.
fn template(base: &str) -> Result<String> {
    if base.contains("{{") {
        bail!("the base has braces, which Helm would read");
    }
    let mut text = base.to_owned();
    for Value { path, places, times, .. } in VALUES {
        for place in *places {
            let found = text.matches(place.base).count();
            if found != *times {
                bail!("{path}: `{}` stands {found} times in the base, not {times}", place.base);
            }
            text = text.replace(place.base, place.template);
        }
    }
    Ok(text)
}

fn pack(files: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let mut tar = Builder::new(gzip);
    for (path, text) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        header.set_mtime(0);
        tar.append_data(&mut header, path, text.as_bytes())?;
    }
    Ok(tar.into_inner()?.finish()?)
}

#[cfg(test)]
mod tests {
    use super::values::{VALUES, yaml};
    use super::{files, rendered, template};

    fn base() -> String {
        let sh = crate::shell::at_root().expect("the tests run under cargo");
        rendered(&sh).expect("kubectl renders the base")
    }

    #[test]
    fn the_base_has_every_place_and_nothing_else_changes() {
        let base = base();
        let mut back = template(&base).expect("all places are found");
        for value in VALUES {
            for place in value.places {
                back = back.replace(place.template, place.base);
            }
        }
        assert_eq!(back, base);
    }

    #[test]
    fn every_value_is_used_and_documented() {
        let files = files(&base()).expect("a chart");
        let text = &files["sotto/templates/sotto.yaml"];
        let documented = yaml();
        for value in VALUES {
            assert!(text.contains(&format!(".Values.{}", value.path)), "{}", value.path);
            let last = value.path.rsplit('.').next().expect("a name");
            assert!(documented.contains(&format!("{last}: {}", value.default)), "{}", value.path);
        }
        let used = text.matches(".Values.").count();
        let known: usize = VALUES
            .iter()
            .map(|value| text.matches(&format!(".Values.{} ", value.path)).count())
            .sum();
        assert_eq!(used, known, "a value that no list has");
    }

    #[test]
    fn definitions_are_kept_apart_so_that_policies_outlive_a_release() {
        let files = files(&base()).expect("a chart");
        assert_eq!(
            files["sotto/crds/crds.yaml"].matches("kind: CustomResourceDefinition").count(),
            3
        );
        assert!(!files["sotto/templates/sotto.yaml"].contains("kind: CustomResourceDefinition"));
        assert!(!files["sotto/templates/sotto.yaml"].contains("kind: Namespace\n"));
    }
}
