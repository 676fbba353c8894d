//! Asking a running agent's admin page, from a command line.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// From the connect to the last byte.
const ANSWER: Duration = Duration::from_secs(15);
/// No answer is larger.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const ADMIN_PORT: u16 = 15000;

/// Waits for `work` on a runtime of its own.
///
/// # Errors
/// Those of the work.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Asks every agent, all at once.
///
/// # Errors
/// The first of them: half an answer is none.
pub(super) async fn each<T>(
    admins: &[String],
    ask: impl AsyncFn(&str) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    futures::future::try_join_all(admins.iter().map(|admin| ask(admin))).await
}

/// Makes sure that of all nodes which are `needed` the agents were asked.
///
/// # Errors
/// Some were not: what they know would be missing.
pub(super) fn ensure_all(
    asked: &BTreeSet<String>,
    needed: impl Iterator<Item = impl Into<String>>,
) -> anyhow::Result<()> {
    let needed: BTreeSet<String> = needed.map(Into::into).collect();
    let missing: Vec<_> = needed.difference(asked).map(String::as_str).collect();
    ensure!(
        missing.is_empty(),
        "not every node was asked: enrolled pods run on {} too; give the --admin of each agent",
        missing.join(", ")
    );
    Ok(())
}

/// GETs `query` (path and query) from the agent at `admin`, as `http://127.0.0.1:15000`.
///
/// # Errors
/// No answer, a refusal (its reason is told), or an answer of another version.
pub(super) async fn get<T: DeserializeOwned>(admin: &str, query: &str) -> anyhow::Result<T> {
    let answer = timeout(ANSWER, fetch(admin, query)).await;
    let text = answer
        .map_err(|_| anyhow!("no answer within {ANSWER:?}"))
        .and_then(|answer| answer)
        .with_context(|| format!("the agent at {admin} does not tell"))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("the agent at {admin} is of another version"))
}

async fn fetch(admin: &str, query: &str) -> anyhow::Result<Bytes> {
    let uri: Uri = admin.parse().context("not a URL, as http://127.0.0.1:15000")?;
    ensure!(uri.scheme_str() == Some("http"), "not a URL, as http://127.0.0.1:15000");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(ADMIN_PORT))).await;
    let stream = stream.context("failed to connect (is this the agent's node?)")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(query)
        .header(header::HOST, uri.authority().map_or("localhost", |authority| authority.as_str()))
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("the answer broke off: {error}"))?.to_bytes();
        if !status.is_success() {
            bail!("{}", String::from_utf8_lossy(&body).trim());
        }
        Ok(body)
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end first, with the answer in hand.
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}
