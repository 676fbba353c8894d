//! The commands that ask running agents: `status`, `certs`, `connections`, `explain` and `migrate`; and their flags.

use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::Shell;

const DEFAULT_ADMIN: &str = "http://127.0.0.1:15000";

/// For people who run a mesh.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Tell how the mesh is, what is wrong, and what to do.
    #[command(
        long_about = "Ask running agents how they are: their pods, and which are not captured and why; certificates; the \
            control plane; what is wrong, and what to do.\n\n\
            With one agent, of its node. With an --admin for each agent, of the cluster: then a node with enrolled pods \
            that is left out is an error.\n\n\
            Exit code: 0 all is well, 3 something is wrong, 1 an agent did not answer or was not asked."
    )]
    Status(AskArgs),
    /// Tell the certificates of the nodes' pods.
    #[command(
        long_about = "Ask running agents for the certificates of their pods' identities: what they are for, and until \
            when. Keys are told to nobody.\n\n\
            Exit code: 0 all can be used, 3 one cannot, 1 an agent did not answer."
    )]
    Certs(AskArgs),
    /// Tell what is open, with identities and bytes.
    #[command(
        long_about = "Ask running agents which connections of their pods they carry, by whom and to whom, and how many \
            bytes went so far. What leaves the mesh does not pass through an agent, and is not listed.\n\n\
            Exit code: 0, or 1 if an agent did not answer."
    )]
    Connections(AskArgs),
    // The flags have the help of these: a word here would take its place.
    #[expect(missing_docs, reason = "their flags say")]
    Explain(ExplainArgs),
    #[expect(missing_docs, reason = "their flags say")]
    Migrate(MigrateArgs),
    /// Print a script with which a shell completes commands and flags.
    #[command(long_about = "Print a script with which a shell completes commands and flags.\n\n\
            bash: sotto completions bash >/etc/bash_completion.d/sotto\n\
            zsh:  sotto completions zsh >\"${fpath[1]}/_sotto\"\n\
            fish: sotto completions fish >~/.config/fish/completions/sotto.fish")]
    Completions(CompletionsArgs),
}

/// Flags of `sotto status`, `certs` and `connections`.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// An agent's admin page; one for each node.
    #[arg(long, env = "SOTTO_ADMIN", default_value = DEFAULT_ADMIN, value_delimiter = ',')]
    pub admin: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `sotto completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Of which shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Flags of `sotto explain`.
#[derive(Debug, Args)]
#[command(
    about = "Tell what policy says of one pod calling another, and why",
    long_about = "Ask a running agent what policy says of one pod calling another, and why.\n\n\
        The agent's admin page listens on its node's loopback only. Run this on the node (or in \
        the agent's container), or forward the port: kubectl -n istio-system port-forward \
        pod/AGENT 15000. The decision is the destination's agent's; ask that one to be sure.\n\n\
        Exit code: 0 allowed, 3 denied, 1 no answer."
)]
pub struct ExplainArgs {
    /// Who calls: NAMESPACE/POD, or an IP address.
    #[arg(long, value_parser = peer)]
    pub from: String,
    /// Who is called: `NAMESPACE/POD[:PORT]`; without a port, every port of its services.
    #[arg(long, value_parser = peer)]
    pub to: String,
    /// An agent's admin page.
    #[arg(long, env = "SOTTO_ADMIN", default_value = DEFAULT_ADMIN)]
    pub admin: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `sotto migrate`.
#[derive(Debug, Args)]
#[command(
    about = "Tell who would break if only mutual TLS were let in",
    long_about = "Ask running agents who still comes in the clear, and would break if only mutual \
        TLS (STRICT) were let in.\n\n\
        Agents count plaintext connections since their start. A client that was enrolled after its \
        last one does not count, if the agents of all its pods are asked too. Give --admin once for each node that \
        runs enrolled pods of the namespace: a node that is left out is an error. The admin page \
        listens on its node's loopback only: run this on the node, or forward each agent's port \
        (kubectl -n istio-system port-forward pod/AGENT 15000).\n\n\
        Exit code: 0 nobody would break, 3 somebody would, 1 an agent did not answer or was not \
        asked."
)]
pub struct MigrateArgs {
    /// The namespace that is to be STRICT.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = name)]
    pub namespace: Option<String>,
    /// Every namespace.
    #[arg(long)]
    pub all: bool,
    /// An agent's admin page; one for each node.
    #[arg(long, env = "SOTTO_ADMIN", default_value = DEFAULT_ADMIN, value_delimiter = ',')]
    pub admin: Vec<String>,
    /// Leave out who was last seen longer ago than this and has nothing open, as 24h.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What may stand in a query as it is.
fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("not a Kubernetes name".to_owned())
    }
}

fn peer(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._/:".contains(c);
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("not as NAMESPACE/POD, NAMESPACE/POD:PORT or an IP address".to_owned())
    }
}
