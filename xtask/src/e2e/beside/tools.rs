//! What istioctl gets from a ztunnel, and from one of ours, side by side.

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::mesh::NAMESPACE;
use super::super::rows::judge;
use super::super::suite::{MESH, Suite, items};
use super::super::table::Outcome;
use super::shape;

/// Where both outputs are left, to be read.
const KEPT: &str = "target/e2e/beside";

impl Suite {
    /// Keeps what was said of both kinds of agents.
    pub(super) fn keep_pair(&self, name: &str, pair: &[String; 2]) -> Result<()> {
        let folder = self.root.join(KEPT);
        std::fs::create_dir_all(&folder)?;
        for (text, whose) in pair.iter().zip(["ztunnel", "ours"]) {
            let path = folder.join(format!("{name}.{whose}.txt"));
            std::fs::write(&path, text)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(())
    }

    /// What istioctl says of the agent of either node.
    fn pair(&self, args: &[&str]) -> Result<[String; 2]> {
        let ask = |node: &str| -> Result<String> {
            let all: Vec<&str> =
                ["ztunnel-config"].iter().chain(args).copied().chain(["--node", node]).collect();
            let said = self.istioctl(&all)?;
            anyhow::ensure!(said.code == 0, "istioctl {}: {}", all.join(" "), said.last_line());
            Ok(said.out)
        };
        let pair = [ask(&self.near)?, ask(&self.far)?];
        self.keep_pair(&args.join("-").replace("--", ""), &pair)?;
        Ok(pair)
    }
}

/// Lists that both know alike, and by what their elements are known.
const ALIKE: [(&str, &str); 3] = [("workload", "uid"), ("service", "hostname"), ("policy", "name")];
/// Those whose elements are each agent's own.
const OWN: [&str; 3] = ["certificate", "connections", "all"];

pub(super) fn outputs(suite: &Suite) -> Result<Outcome> {
    let held = hold(suite)?;
    let outcome = compared(suite);
    drop(held);
    outcome
}

fn compared(suite: &Suite) -> Result<Outcome> {
    let mut told = Vec::new();
    let mut well = true;
    for (what, key) in ALIKE {
        let pair =
            suite.pair(&[what, "-o", "json"])?.map(|text| serde_json::from_str::<Value>(&text));
        let [theirs, ours] = pair;
        let (count, different) = different(&theirs?, &ours?, key);
        well &= count > 0 && different.is_empty();
        let said =
            if different.is_empty() { String::from("the same") } else { different.join(", ") };
        told.push(format!("{count} of {what}: {said}"));
    }
    for what in OWN {
        let [theirs, ours] = suite.pair(&[what, "-o", "json"])?;
        let [theirs, ours] = [serde_json::from_str(&theirs)?, serde_json::from_str(&ours)?];
        let missing = shape::missing(&theirs, &ours);
        well &= missing.is_empty();
        told.push(format!(
            "{what}: {}",
            if missing.is_empty() { String::from("the same fields") } else { missing.join(", ") }
        ));
    }
    for what in ["workload", "service", "policy", "certificate", "connections", "all"] {
        let heads = suite.pair(&[what])?.map(|text| heads(&text));
        well &= heads[0] == heads[1] && !heads[0].is_empty();
        if heads[0] != heads[1] {
            told.push(format!("{what}: heads {:?} and {:?}", heads[0], heads[1]));
        }
    }
    judge(well, told.join("; "))
}

/// A connection either way that is open meanwhile.
fn hold(suite: &Suite) -> Result<Vec<super::super::process::Running>> {
    let mut held = Vec::new();
    for (client, server) in [("client", "server"), ("client-far", "server-near")] {
        let program = format!(
            "import socket, time; s = socket.create_connection(('{server}.{MESH}', 80)); time.sleep(60)"
        );
        let argv = ["timeout", "70", "python3", "-c", &program];
        held.push(suite.kubectl.exec_start((MESH, client), &argv)?);
    }
    suite.wait("both connections are listed", super::super::suite::SOON, || {
        let pair = suite.pair(&["connections"])?;
        let open = |text: &String| text.contains("Inbound") && text.contains("Outbound");
        Ok(if pair.iter().all(open) { Ok(()) } else { Err(pair.join("\n")) })
    })?;
    Ok(held)
}

/// The lines of capitals above each table.
fn heads(text: &str) -> Vec<Vec<String>> {
    let is_head = |line: &&str| !line.trim().is_empty() && !line.chars().any(char::is_lowercase);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().filter(is_head).map(words).collect()
}

/// How many elements theirs has, and which fields of which are otherwise in ours.
fn different(theirs: &Value, ours: &Value, key: &str) -> (usize, Vec<String>) {
    let mut found = Vec::new();
    let by = |list: &Value, one: &Value| {
        items(list)
            .iter()
            .find(|other| other[key] == one[key] && other["namespace"] == one["namespace"])
            .cloned()
    };
    for one in items(theirs) {
        let name = one[key].as_str().unwrap_or("?");
        match by(ours, one) {
            None => found.push(format!("{name} is missing")),
            Some(other) if other == *one => (),
            Some(other) => {
                let fields = one
                    .as_object()
                    .into_iter()
                    .flatten()
                    .chain(other.as_object().into_iter().flatten());
                let mut fields: Vec<_> = fields
                    .map(|(field, _)| field)
                    .filter(|field| one[*field] != other[*field])
                    .collect();
                fields.sort();
                fields.dedup();
                let told = fields
                    .iter()
                    .map(|field| format!("{field} {} / {}", one[*field], other[*field]));
                found.push(format!("{name}: {}", told.collect::<Vec<_>>().join(" ")));
            }
        }
    }
    for one in items(ours).iter().filter(|one| by(theirs, one).is_none()) {
        found.push(format!("{} is ours alone", one[key]));
    }
    (items(theirs).len(), found)
}

pub(super) fn levels(suite: &Suite) -> Result<Outcome> {
    let mut told = Vec::new();
    let mut well = true;
    for level in ["", "--level=debug", "--level=access:debug", "--level=info", "--reset"] {
        let mut pair = Vec::new();
        for node in [&suite.near, &suite.far] {
            let agent = format!("{}.{NAMESPACE}", suite.any_agent_on(node)?.name);
            let mut args = vec!["ztunnel-config", "log", agent.as_str()];
            args.extend(Some(level).filter(|level| !level.is_empty()));
            let said = suite.istioctl(&args)?;
            let line = said.out.trim().lines().last().unwrap_or_default();
            let line = line.rsplit_once(':').map_or(line, |(_, level)| level).trim();
            pair.push((said.code, line.to_owned()));
        }
        well &= pair[0].0 != 0 || pair[1].0 == 0;
        told.push(format!("log {level}: {:?} / {:?}", pair[0], pair[1]));
    }
    judge(well, told.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{different, heads};

    #[test]
    fn what_is_otherwise_is_told_by_its_field() {
        let theirs = json!([{ "uid": "a", "node": "x", "n": 1 }, { "uid": "b" }]);
        let ours = json!([{ "uid": "a", "node": "y", "n": 1 }, { "uid": "c" }]);
        let (count, told) = different(&theirs, &ours, "uid");
        assert_eq!(count, 2);
        assert_eq!(told, ["a: node \"x\" / \"y\"", "b is missing", "\"c\" is ours alone"]);
        assert_eq!(different(&theirs, &theirs, "uid"), (2, Vec::new()));
    }

    #[test]
    fn heads_of_tables_are_lines_of_capitals() {
        assert_eq!(
            heads("NAMESPACE POD NAME\na b c\n\nX Y\n"),
            [vec!["NAMESPACE", "POD", "NAME"], vec!["X", "Y"]]
        );
    }
}
