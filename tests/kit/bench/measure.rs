//! What is measured: names, and the load that measures each.

use std::net::SocketAddr;

/// A measure: a load and where it goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) load: Load,
    pub(super) target: Target,
}

/// What is driven, over how many connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Load {
    Up(u16),
    Down(u16),
    Request {
        bytes: u16,
        connections: u16,
    },
    Connect(u16),
    /// As `Connect`, for longer, and however many there are.
    Churn(u16),
    AtOnce(u16),
    /// Not a load of rounds: connections that are held while memory is read.
    Hold,
    /// No load: agents are started.
    Start,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The pod on the other node, of the same side.
    Pod,
    /// A host outside of cluster and mesh: both sides' clients go there.
    Outside,
}

/// The measure of memory, taken before and after all rounds.
pub(super) const MEMORY: &str = "memory";
/// That of agents that start, taken at the end.
pub(super) const STARTUP: &str = "startup";

const fn pod(name: &'static str, title: &'static str, load: Load) -> Measure {
    Measure { name, title, load, target: Target::Pod }
}

const fn outside(name: &'static str, title: &'static str, load: Load) -> Measure {
    Measure { name, title, load, target: Target::Outside }
}

const fn request(bytes: u16, connections: u16) -> Load {
    Load::Request { bytes, connections }
}

/// All measures, in the order they are taken.
pub(super) const ALL: [Measure; 19] = [
    pod(MEMORY, "agents' memory, and idle connections", Load::Hold),
    pod("up-1", "1 stream up", Load::Up(1)),
    pod("down-1", "1 stream down", Load::Down(1)),
    pod("up-4", "4 streams up", Load::Up(4)),
    pod("down-4", "4 streams down", Load::Down(4)),
    pod("request-1", "1 B request, 1 connection", request(1, 1)),
    pod("request-32", "1 B request, 32 connections", request(1, 32)),
    pod("request-1k-1", "1 KiB request, 1 connection", request(1024, 1)),
    pod("request-1k-32", "1 KiB request, 32 connections", request(1024, 32)),
    pod("connect-1", "new connections, 1 at a time", Load::Connect(1)),
    pod("connect-32", "new connections, 32 at a time", Load::Connect(32)),
    pod("at-once-1000", "1000 connections at once", Load::AtOnce(1000)),
    pod("churn-8", "new connections for long, 8 at a time", Load::Churn(8)),
    outside("outside-up-1", "outside the mesh: 1 stream up", Load::Up(1)),
    outside("outside-down-1", "outside the mesh: 1 stream down", Load::Down(1)),
    outside("outside-request-1", "outside the mesh: 1 B request, 1 connection", request(1, 1)),
    outside("outside-request-32", "outside the mesh: 1 B request, 32 connections", request(1, 32)),
    outside("outside-connect-1", "outside the mesh: new connections, 1", Load::Connect(1)),
    pod(STARTUP, "an agent's start to an open port 15008", Load::Start),
];

/// The measure called `name`.
pub(super) fn parse(name: &str) -> Result<Measure, String> {
    let found = ALL.iter().find(|measure| measure.name == name).copied();
    found.ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|measure| measure.name).collect();
        format!("the measures are {}", names.join(", "))
    })
}

impl Target {
    /// How many samples a round takes. Outside the mesh no agent is in the way: what there is to see is a
    /// per cent, less than two samples of plain TCP differ by.
    pub(super) const fn parts(self) -> u16 {
        match self {
            Self::Pod => 1,
            Self::Outside => 8,
        }
    }

    /// How long each of them is, where a load takes so many seconds: together twice as long, if there are several.
    pub(super) fn seconds(self, of_load: f64) -> f64 {
        match self {
            Self::Pod => of_load,
            Self::Outside => 2.0 * of_load / f64::from(self.parts()),
        }
    }
}

impl Load {
    /// Whether it is taken once in each round.
    pub(super) const fn of_rounds(self) -> bool {
        !matches!(self, Self::Hold | Self::Start)
    }

    /// Whether it uses up ports.
    pub(super) const fn connects(self) -> bool {
        matches!(self, Self::Connect(_) | Self::Churn(_) | Self::AtOnce(_))
    }

    /// What follows `load drive` to drive it.
    pub(super) fn arguments(self, to: SocketAddr, seconds: f64) -> Vec<String> {
        let (connections, kind): (u16, &[&str]) = match self {
            Self::Up(connections) => (connections, &["up"]),
            Self::Down(connections) => (connections, &["down"]),
            Self::Request { connections, .. } => (connections, &["request"]),
            Self::Connect(connections) => (connections, &["connect"]),
            Self::Churn(connections) => (connections, &["churn"]),
            Self::AtOnce(connections) => (connections, &["at-once"]),
            Self::Hold | Self::Start => (1000, &["at-once", "--hold"]),
        };
        let mut words = vec![
            format!("--to={to}"),
            format!("--connections={connections}"),
            format!("--seconds={seconds}"),
        ];
        words.extend(kind.iter().map(|word| String::from(*word)));
        if let Self::Request { bytes, .. } = self {
            words.push(format!("--bytes={bytes}"));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;
    use crate::bench::load::Side;

    #[derive(Parser)]
    struct Program {
        #[command(subcommand)]
        side: Side,
    }

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<&str> = ALL.iter().map(|measure| measure.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(parse("up-4").unwrap().load, Load::Up(4));
        assert!(parse("up").unwrap_err().contains("request-1k-32"));
    }

    #[test]
    fn the_load_generator_takes_every_measure() {
        for measure in ALL {
            let words = measure.load.arguments(([127, 0, 0, 1], 7000).into(), 0.5);
            let all = ["load", "drive"].map(String::from).into_iter().chain(words);
            let parsed = Program::try_parse_from(all);
            assert!(parsed.is_ok_and(|program| matches!(program.side, Side::Drive(_))));
        }
    }
}
