//! `cargo xtask e2e`: the acceptance, on the cluster that KUBECONFIG names, by the Kubernetes API alone.
//!
//! Installs what the documents install, shows each row's fact with pods of its own, takes everything off again, and
//! ends with a table. It works on clusters without Istio and without Sotto: others it leaves alone.

mod beside;
mod clients;
mod istiod;
mod kubectl;
mod mesh;
mod objects;
mod process;
mod rows;
mod suite;
mod table;
mod tutorials;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::istiod::Istiod;
use self::kubectl::Kubectl;
use self::rows::{INSTALL, ROWS, Row, UNINSTALL};
use self::suite::{PLAIN, STRICT, Settings, Suite};
use self::table::{Line, Outcome};
use crate::image::VERSION;
use crate::{needs, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image that the nodes have or can pull.
    #[arg(long, default_value_t = format!("sotto:{VERSION}"))]
    image: String,
    /// An image that is installed first, and upgraded from.
    #[arg(long)]
    from: Option<String>,
    /// What the suite's own pods run: any image with curl, ip, nc, procps, sh and Python 3.
    #[arg(long, default_value = "docker.io/nicolaka/netshoot:v0.13")]
    tools_image: String,
    /// The folder of deploy that is installed.
    #[arg(long, default_value = "base")]
    overlay: String,
    /// These rows alone; they are installed for if nothing is.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The tutorials' own commands instead, with what their text says beside what is seen.
    #[arg(long)]
    tutorials: bool,
    /// Agents under a real istiod instead: the folder with the istioctl that installs it and asks agents.
    #[arg(long, value_name = "DIR", conflicts_with = "tutorials")]
    istiod: Option<PathBuf>,
    /// Of that istiod, where nodes have or can pull it: HUB/pilot:TAG.
    #[arg(long, default_value = "docker.io/istio/pilot:1.31.0")]
    istiod_image: String,
    /// With --istiod: an image with Envoy as `envoy` and Istio's agent as `pilot-agent` in its path, for waypoints and ingresses.
    #[arg(long, requires = "istiod")]
    envoy_image: Option<String>,
    /// With --istiod: the address of a Prometheus that reads the cluster's pods.
    #[arg(long, requires = "istiod", value_name = "URL")]
    prometheus: Option<String>,
    /// With --istiod: the address of a Kiali that asks it, as http://127.0.0.1:20001/kiali.
    #[arg(long, requires = "istiod", value_name = "URL")]
    kiali: Option<String>,
    /// With --istiod: beside its own ztunnel and istio-cni, whose images are of the same hub and tag.
    #[arg(long, requires = "istiod")]
    beside: bool,
    /// Reboots the node whose name it is given, undrained, and returns when that is booting.
    #[arg(long, value_name = "COMMAND")]
    reboot: Option<String>,
    /// How often.
    #[arg(long, default_value_t = 10)]
    reboots: u32,
    /// Run with `stop` it takes the API server away, and with `start` it brings it back.
    #[arg(long, value_name = "COMMAND")]
    api: Option<String>,
    /// Leaves mesh and pods in the cluster. The next run goes on with them.
    #[arg(long)]
    keep: bool,
    /// Removes what a run with --keep, or a killed one, has left, and does nothing else.
    #[arg(long)]
    clean: bool,
    /// Fails also if a row cannot be run here.
    #[arg(long)]
    complete: bool,
    /// Prints the rows' names and what they expect.
    #[arg(long)]
    list: bool,
    /// The kubectl that is used.
    #[arg(long, default_value = "kubectl")]
    kubectl: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.list {
        let rows = all_rows(args).map(|row| format!("{:<16}  {}\n", row.name, row.expected));
        return Ok(std::io::stdout().write_all(rows.collect::<String>().as_bytes())?);
    }
    let sh = shell::at_root()?;
    if args.kubectl == "kubectl" {
        needs::kubectl(&sh)?;
    }
    let unknown: Vec<&String> =
        args.only.iter().filter(|name| all_rows(args).all(|row| row.name != **name)).collect();
    if !unknown.is_empty() {
        bail!("there are no such rows: {unknown:?} (--list names them)");
    }
    process::watch_signals()?;
    let suite = Suite::new(Kubectl::new(&args.kubectl), settings(args)?, shell::root()?)?;
    let was_there = refuse_others_clusters(&suite)?;
    if args.clean {
        return clean(&suite);
    }
    let lines = run_rows(&suite, args, was_there);
    if args.keep {
        eprintln!("kept: `cargo xtask e2e --clean` removes it");
        return finish(&lines, args);
    }
    let cleaned =
        clean(&suite).context("not all was removed: `cargo xtask e2e --clean` tries again");
    if let Err(error) = &cleaned {
        eprintln!("{error:#}");
    }
    finish(&lines, args).and(cleaned)
}

fn settings(args: &Args) -> Result<Settings> {
    Ok(Settings {
        image: args.image.clone(),
        from: args.from.clone(),
        tools_image: args.tools_image.clone(),
        overlay: args.overlay.clone(),
        reboot: args.reboot.clone(),
        reboots: args.reboots,
        api: args.api.clone(),
        beside: args.beside,
        istiod: args.istiod.as_ref().map(|folder| real(folder, args)).transpose()?,
    })
}

/// What is needed of a real istiod.
fn real(folder: &Path, args: &Args) -> Result<Istiod> {
    let image = &args.istiod_image;
    let found = ["istioctl", "bin/istioctl"].map(|name| folder.join(name));
    let istioctl = found.into_iter().find(|path| path.is_file());
    let istioctl =
        istioctl.with_context(|| format!("there is no istioctl in {}", folder.display()))?;
    let image =
        image.rsplit_once("/pilot:").with_context(|| format!("{image} is not HUB/pilot:TAG"))?;
    Ok(Istiod {
        istioctl,
        image: (image.0.to_owned(), image.1.to_owned()),
        folder: folder.to_owned(),
        envoy: args.envoy_image.clone(),
        prometheus: args.prometheus.clone(),
        kiali: args.kiali.clone(),
    })
}

/// Prints the table; an error if not all is well.
fn finish(lines: &[Line], args: &Args) -> Result<()> {
    std::io::stdout().write_all(table::render(lines).as_bytes())?;
    let (failed, not_run) = (table::failed(lines), table::not_run(lines));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    if args.complete && !not_run.is_empty() {
        bail!("not run: {}", not_run.join(", "));
    }
    Ok(())
}

fn all_rows(args: &Args) -> impl Iterator<Item = &'static Row> {
    let (first, between, last) = match (&args.istiod, args.tutorials) {
        (Some(_), _) if args.beside => (&beside::INSTALL, beside::ROWS, &beside::UNINSTALL),
        (Some(_), _) => (&istiod::INSTALL, istiod::ROWS, &istiod::UNINSTALL),
        (None, true) => (&INSTALL, tutorials::ROWS, &UNINSTALL),
        (None, false) => (&INSTALL, ROWS, &UNINSTALL),
    };
    std::iter::once(first).chain(between).chain(std::iter::once(last))
}

/// The suite removes what it installs, definitions and namespace included: not where others use them.
///
/// Returns whether a run before this one has left its own there.
fn refuse_others_clusters(suite: &Suite) -> Result<bool> {
    if suite.kubectl.get(&format!("namespace {PLAIN}"))?.is_some() {
        return Ok(true);
    }
    let definition = "crd peerauthentications.security.istio.io";
    for what in ["namespace istio-system", definition] {
        if suite.kubectl.get(what)?.is_some() {
            bail!(
                "this cluster has a mesh: {what} is there. The suite would take it off at its end; \
                 use a cluster without one"
            );
        }
    }
    Ok(false)
}

/// Runs the rows that were chosen; installing comes first and taking off last.
fn run_rows(suite: &Suite, args: &Args, was_there: bool) -> Vec<Line> {
    let chosen = |row: &Row| args.only.is_empty() || args.only.iter().any(|name| name == row.name);
    let mut lines = Vec::new();
    for row in all_rows(args) {
        let needed = match row.name {
            "install" => chosen(row) || !was_there,
            "uninstall" => chosen(row) && !args.keep,
            _ => chosen(row),
        };
        if !needed || process::interrupted() {
            continue;
        }
        let line = run_row(suite, row);
        let failed = matches!(line.outcome, Outcome::Fails(_));
        lines.push(line);
        // A warning is a failure, but not one that keeps the others from being seen.
        if failed && row.name == "install" && !is_settled(suite) {
            break;
        }
    }
    lines
}

/// Whether installing came to its end: the last object is there.
fn is_settled(suite: &Suite) -> bool {
    let last = suite.kubectl.get(&format!("peerauthentication -n {STRICT} default"));
    last.is_ok_and(|found| found.is_some())
}

fn run_row(suite: &Suite, row: &Row) -> Line {
    eprintln!("=== {}: {}", row.name, row.expected);
    suite.kubectl.allow(row.limit);
    let started = Instant::now();
    let outcome = (row.run)(suite).unwrap_or_else(|error| {
        let all: Vec<String> = error.chain().map(ToString::to_string).collect();
        Outcome::Fails(all.join(": "))
    });
    let took = started.elapsed();
    let line = Line { row: row.name, expected: row.expected, outcome, took };
    eprint!("{}", table::render(std::slice::from_ref(&line)));
    if matches!(line.outcome, Outcome::Fails(_)) {
        suite.kubectl.allow(Duration::from_secs(60));
        suite.tell_state();
    }
    line
}

/// Removes the mesh, if it is still there, and all that the suite made.
fn clean(suite: &Suite) -> Result<()> {
    process::tidy_up();
    suite.kubectl.allow(Duration::from_secs(600));
    if suite.settings.istiod.is_some() {
        if suite.settings.beside { beside::remove(suite) } else { istiod::remove(suite) }?;
        return suite.remove_ours();
    }
    tutorials::remove(suite)?;
    let there = suite.kubectl.get("daemonset -n istio-system sotto")?.is_some();
    if there {
        rows::take_off(suite)?;
    }
    // The suite begins where there is no mesh: so these are its own, too.
    for folder in [&suite.settings.overlay, mesh::KINDS] {
        let folder = suite.kustomization(folder, &suite.settings.image)?;
        let line = format!("delete --ignore-not-found --wait=false -k {}", folder.display());
        suite.kubectl.ok(&line)?;
    }
    suite.remove_ours()
}
