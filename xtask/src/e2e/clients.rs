//! Clients in pods, and what they saw.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::process::{Running, Said};
use super::suite::Suite;

/// What a counting client saw.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Counted {
    pub(super) asked: u64,
    pub(super) answered: u64,
    /// Answers by the pod that gave them.
    #[serde(default)]
    pub(super) by: BTreeMap<String, u64>,
    /// Answers by the address that the server saw.
    #[serde(default)]
    pub(super) clients: BTreeMap<String, u64>,
    /// By errno's name, or `timeout`.
    pub(super) errors: BTreeMap<String, u64>,
    /// The longest time without an answer, in seconds.
    #[serde(default)]
    pub(super) longest_gap: f64,
}

impl Counted {
    /// All that was asked was answered, and something was asked.
    pub(super) fn lost_nothing(&self) -> bool {
        self.asked > 0 && self.asked == self.answered
    }

    /// In few words.
    pub(super) fn told(&self) -> String {
        let list = |counts: &BTreeMap<String, u64>| {
            counts
                .iter()
                .map(|(what, count)| format!("{count} {what}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mut told = format!("{} of {} answered", self.answered, self.asked);
        if !self.by.is_empty() {
            told.push_str(&format!(": {}", list(&self.by)));
        }
        if !self.errors.is_empty() {
            told.push_str(&format!("; {}", list(&self.errors)));
        }
        told
    }
}

/// What a client saw that went on by itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct Recorded {
    /// Until things had settled.
    pub(super) first: Counted,
    /// After that.
    pub(super) then: Counted,
}

/// What a client that asked every address of a range saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Swept {
    pub(super) asked: u64,
    pub(super) refused: u64,
    /// Answers by the namespace of the pod that gave them.
    pub(super) answered: BTreeMap<String, u64>,
}

/// A client that counts until it is stopped.
pub(super) struct Load<'a> {
    suite: &'a Suite,
    pod: (&'a str, &'a str),
    stop: String,
    running: Running,
}

impl Suite {
    /// `curl` in a pod: silent but for errors, with the code of the answer as its output.
    pub(super) fn curl(&self, pod: (&str, &str), url: &str) -> Result<Said> {
        let argv =
            ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", url];
        self.kubectl.exec(pod, &argv)
    }

    /// Waits until `curl` in a pod gets the answer 200.
    pub(super) fn reaches(&self, pod: (&str, &str), url: &str) -> Result<()> {
        let what = format!("{}/{} gets an answer from {url}", pod.0, pod.1);
        self.wait(&what, Duration::from_secs(60), || {
            let said = self.curl(pod, url)?;
            let told = format!("exit {}: {}", said.code, said.last_line());
            Ok(if said.out == "200" { Ok(()) } else { Err(told) })
        })
    }

    /// Asks a number of times, each on a connection of its own.
    pub(super) fn ask(
        &self,
        pod: (&str, &str),
        times: u32,
        (host, port): (&str, u16),
    ) -> Result<Counted> {
        let (times, port) = (times.to_string(), port.to_string());
        let said =
            self.kubectl.exec(pod, &["python3", "/e2e/pod.py", "ask", &times, host, &port])?;
        read(&said)
    }

    /// Asks again and again until it is stopped.
    pub(super) fn load<'a>(
        &'a self,
        pod: (&'a str, &'a str),
        name: &str,
        (host, port): (&str, u16),
    ) -> Result<Load<'a>> {
        self.until_stopped(
            pod,
            name,
            |stop, port| ["load", stop, host, port].map(str::to_owned).to_vec(),
            port,
        )
    }

    /// Asks again and again on connections that stay open, until it is stopped.
    pub(super) fn keep<'a>(
        &'a self,
        pod: (&'a str, &'a str),
        name: &str,
        connections: u32,
        (host, port): (&str, u16),
    ) -> Result<Load<'a>> {
        let connections = connections.to_string();
        let line = |stop: &str, port: &str| {
            ["keep", stop, &connections, host, port].map(str::to_owned).to_vec()
        };
        self.until_stopped(pod, name, line, port)
    }

    fn until_stopped<'a>(
        &'a self,
        pod: (&'a str, &'a str),
        name: &str,
        line: impl Fn(&str, &str) -> Vec<String>,
        port: u16,
    ) -> Result<Load<'a>> {
        let stop = stop_file(name);
        let line = line(&stop, &port.to_string());
        let program = ["python3", "/e2e/pod.py"].into_iter();
        self.start(pod, stop.clone(), program.chain(line.iter().map(String::as_str)).collect())
    }

    /// Echoes, or drives, connections of every kind, until it is stopped.
    pub(super) fn streams<'a>(
        &'a self,
        pod: (&'a str, &'a str),
        name: &str,
        command: &str,
        arguments: &[&str],
    ) -> Result<Load<'a>> {
        let stop = stop_file(name);
        let line = ["python3", "/e2e/streams.py", command, &stop];
        self.start(pod, stop.clone(), [&line, arguments].concat())
    }

    fn start<'a>(
        &'a self,
        pod: (&'a str, &'a str),
        stop: String,
        argv: Vec<&str>,
    ) -> Result<Load<'a>> {
        self.kubectl.exec(pod, &["rm", "-f", &stop])?;
        let running = self.kubectl.exec_start(pod, &argv)?;
        Ok(Load { suite: self, pod, stop, running })
    }

    /// Asks for so many seconds, also if the API server goes meanwhile; what comes after `settled` is counted apart.
    pub(super) fn record(
        &self,
        pod: (&str, &str),
        name: &str,
        (seconds, settled): (u64, u64),
        (host, port): (&str, u16),
    ) -> Result<()> {
        let file = recorded(name);
        let line = format!(
            "rm -f {file}; setsid python3 /e2e/pod.py record {file} {seconds} {settled} {host} {port} \
             </dev/null >/dev/null 2>&1 &"
        );
        let said = self.kubectl.exec(pod, &["sh", "-c", &line])?;
        if said.code != 0 {
            bail!("a client was not started: exit {}: {}", said.code, said.last_line());
        }
        Ok(())
    }

    /// What such a client saw, once it has ended.
    pub(super) fn recorded(&self, pod: (&str, &str), name: &str) -> Result<Recorded> {
        let file = recorded(name);
        self.wait(&format!("the client {name} has ended"), Duration::from_secs(120), || {
            let said = self.kubectl.exec(pod, &["cat", &file])?;
            Ok(if said.code == 0 { read(&said).map(Ok)? } else { Err(said.last_line().to_owned()) })
        })
    }

    /// Asks every address of the ranges, on the port that all pods of the suite serve.
    pub(super) fn sweep<'a>(
        &'a self,
        pod: (&'a str, &'a str),
        name: &str,
        ranges: &[String],
    ) -> Result<Load<'a>> {
        let stop = stop_file(name);
        let mut argv = vec!["python3", "/e2e/pod.py", "sweep", &stop, "3600", "8000"];
        argv.extend(ranges.iter().map(String::as_str));
        self.start(pod, stop.clone(), argv)
    }
}

impl Load<'_> {
    /// Ends it, and tells what it saw.
    pub(super) fn stop<T: DeserializeOwned>(self) -> Result<T> {
        self.stop_within(Duration::from_secs(60))
    }

    /// The same of one that may take so long to end.
    pub(super) fn stop_within<T: DeserializeOwned>(self, limit: Duration) -> Result<T> {
        read(&self.end(limit)?)
    }

    /// Ends it; what it said.
    pub(super) fn end(self, limit: Duration) -> Result<Said> {
        self.suite.kubectl.exec(self.pod, &["touch", &self.stop])?;
        self.running.finish(limit)
    }
}

/// An address as a URL has it.
pub(super) fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// What ends a client.
fn stop_file(name: &str) -> String {
    format!("/tmp/stop-{name}")
}

fn recorded(name: &str) -> String {
    format!("/tmp/recorded-{name}.json")
}

fn read<T: DeserializeOwned>(said: &Said) -> Result<T> {
    serde_json::from_str(said.out.trim())
        .with_context(|| format!("the client said: exit {}: {}", said.code, said.last_line()))
}

#[cfg(test)]
mod tests {
    use super::{Counted, read};
    use crate::e2e::process::Said;

    #[test]
    fn what_clients_print_is_read_and_told() {
        let out = r#"{"asked": 4, "answered": 3, "by": {"server": 3}, "clients": {"10.0.0.1": 3}, "errors": {"ECONNRESET": 1}}"#;
        let counted: Counted =
            read(&Said { out: out.to_owned(), ..Said::default() }).expect("it is JSON");
        assert!(!counted.lost_nothing());
        assert_eq!(counted.told(), "3 of 4 answered: 3 server; 1 ECONNRESET");
        assert!(!Counted::default().lost_nothing(), "nothing asked shows nothing");
    }
}
