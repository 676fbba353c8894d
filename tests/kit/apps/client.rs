//! A small HTTP/1.1 client: one GET, one connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most that is read of an answer.
const ANSWER_BYTES: u64 = 16 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body, chunked encoding left as it is.
    pub body: String,
}

/// GETs `path` of `host:port`, the host resolved as any app does it.
///
/// # Errors
/// No connection, a broken answer, or no answer within `limit`.
pub async fn get(host: &str, port: u16, path: &str, limit: Duration) -> Result<Answer> {
    let work = async {
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.with_context(|| format!("connect to {host}:{port}"))?;
        ask(stream, &format!("{host}:{port}"), path).await
    };
    tokio::time::timeout(limit, work).await.with_context(|| format!("{host}:{port} is silent"))?
}

/// GETs `path` of an address.
///
/// # Errors
/// As [`get`].
pub async fn get_at(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    get(&address.ip().to_string(), address.port(), path, limit).await
}

async fn ask(mut stream: TcpStream, host: &str, path: &str) -> Result<Answer> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kit-app\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.context("send the request")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await.context("read the answer")?;
    parse(&String::from_utf8_lossy(&answer))
}

/// The answer in the text of a whole HTTP/1 response.
///
/// # Errors
/// It is not one.
pub fn parse(text: &str) -> Result<Answer> {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("the answer has no end") };
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("no status in {:?}", head.lines().next()))?;
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse("HTTP/1.1 503 No\r\nA: b\r\n\r\nbody").unwrap();
        assert_eq!(answer, Answer { status: 503, body: String::from("body") });
        for bad in ["", "HTTP/1.1 200 OK\r\n", "garbage\r\n\r\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
