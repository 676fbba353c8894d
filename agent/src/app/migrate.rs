//! `sotto migrate`: who still comes in the clear, and would break under STRICT.
#![expect(clippy::print_stdout, reason = "this command answers on standard output")]

pub(super) mod answer;
mod verdict;

use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::table::Table;
use super::{EXIT_DENIED, ask};
use crate::config::MigrateArgs;
use answer::{Answer, Client, Counts};
use verdict::{Redirections, Told};

/// Asks all agents and prints one report.
pub(super) fn run(args: &MigrateArgs) -> ExitCode {
    let printed = ask::block_on(ask_all(args)).and_then(|answers| {
        let report = Report::new(answers, now(), args.since)?;
        let text =
            if args.json { serde_json::to_string_pretty(&report)? } else { report.to_string() };
        Ok((text, report.would_break))
    });
    match printed {
        Ok((text, would_break)) => {
            println!("{}", text.trim_end());
            if would_break { ExitCode::from(EXIT_DENIED) } else { ExitCode::SUCCESS }
        }
        Err(error) => super::exit(Err(error)),
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

async fn ask_all(args: &MigrateArgs) -> anyhow::Result<Vec<Told>> {
    let query = match &args.namespace {
        Some(namespace) => format!("/plaintext?namespace={namespace}"),
        None => "/plaintext".to_owned(),
    };
    ask::each(&args.admin, async |admin| {
        let asked = now();
        let answer = ask::get::<Answer>(admin, &query).await?;
        Ok(Told { answer, asked, answered: now() })
    })
    .await
}

/// What all agents told, together.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    would_break: bool,
    /// The nodes whose agents answered.
    nodes: BTreeSet<String>,
    not_enrolled: BTreeSet<String>,
    clients: Vec<Client>,
    others: Counts,
    #[serde(skip)]
    now: Duration,
}

impl Report {
    /// Puts answers together.
    ///
    /// # Errors
    /// A node that runs enrolled pods was not asked: what it knows would be missing.
    fn new(answers: Vec<Told>, now: Duration, since: Option<Duration>) -> anyhow::Result<Self> {
        let nodes: BTreeSet<_> = answers.iter().map(|told| told.answer.node.clone()).collect();
        let needed = answers.iter().flat_map(|told| told.answer.enrolled.keys());
        ask::ensure_all(&nodes, needed)?;
        let mut others = Counts::default();
        let redirections = Redirections::new(&answers);
        // An agent that was asked twice counts once.
        let mut heard = BTreeSet::new();
        let (mut not_enrolled, mut clients) = (BTreeSet::new(), Vec::new());
        for mut told in answers {
            if !heard.insert(told.answer.node.clone()) {
                continue;
            }
            others.add(told.answer.others);
            not_enrolled.extend(std::mem::take(&mut told.answer.not_enrolled));
            // Before rows of several nodes are put together: each has a clock of its own.
            for mut client in std::mem::take(&mut told.answer.clients) {
                client.passes_since = redirections.pass_since(&client, &told);
                client.opened.clear();
                clients.push(client);
            }
        }
        let recent = |client: &Client| {
            let age = now.as_secs().saturating_sub(client.last_seen);
            client.counts.open > 0 || since.is_none_or(|since| age <= since.as_secs())
        };
        let mut clients = answer::merged(clients);
        clients.retain(recent);
        let breaks = clients.iter().any(would_break) || others.open + others.total > 0;
        Ok(Self { would_break: breaks, nodes, not_enrolled, clients, others, now })
    }
}

/// Policy lets it in now, and it may come in the clear again.
fn would_break(client: &Client) -> bool {
    client.denied_by.is_none() && client.passes_since.is_none()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(String::as_str).collect();
        writeln!(f, "Plaintext clients since the agents of {} started:", nodes.join(", "))?;
        if !self.clients.is_empty() {
            write!(f, "{}", self.table())?;
        }
        if !self.others.is_zero() {
            let Counts { open, total, denied } = self.others;
            writeln!(
                f,
                "and clients that did not fit into the table: {open} open, {total} in all, {denied} denied"
            )?;
        }
        if !self.not_enrolled.is_empty() {
            let names: Vec<_> = self.not_enrolled.iter().map(String::as_str).collect();
            writeln!(f, "Not enrolled, so STRICT changes nothing for: {}", names.join(", "))?;
        }
        let breaking = self.clients.iter().filter(|client| would_break(client)).count();
        match breaking {
            _ if !self.would_break => writeln!(f, "Nobody would break."),
            0 => writeln!(f, "Clients without a name would break."),
            1 => writeln!(f, "1 client would break."),
            many => writeln!(f, "{many} clients would break."),
        }
    }
}

impl Report {
    fn table(&self) -> Table<8> {
        let head = ["DESTINATION", "PORT", "CLIENT", "OPEN", "TOTAL", "DENIED", "SEEN", "STRICT"];
        Table::new(head).with(self.clients.iter().map(|client| self.row(client)))
    }

    fn row(&self, client: &Client) -> [String; 8] {
        let age = self.now.as_secs().saturating_sub(client.last_seen);
        let age = humantime::format_duration(Duration::from_secs(age));
        let fate = match (&client.denied_by, client.passes_since) {
            (Some(_), _) => "denied already".to_owned(),
            (None, Some(since)) => {
                let since = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
                let since = humantime::format_rfc3339_seconds(since);
                format!("was plaintext until enrolled at {since}; would pass now")
            }
            (None, None) if client.client_enrolled => {
                "breaks (enrolled by now, but seen in the clear since, or since when is not known)"
                    .to_owned()
            }
            (None, None) => "breaks".to_owned(),
        };
        let Counts { open, total, denied } = client.counts;
        [
            client.destination.clone(),
            client.port.to_string(),
            client.client.clone(),
            open.to_string(),
            total.to_string(),
            denied.to_string(),
            format!("{age} ago"),
            fate,
        ]
    }
}

#[cfg(test)]
mod tests;
