//! Asks the agent: one HTTP/1.0 request over the unix socket, bounded in size and time.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::enroll::cni::wire::{ADD_TIMEOUT, Answer, MAX_MESSAGE_BYTES, Reply, Request, Verb};

/// DEL must not hold a sandbox's end up.
const DEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the agent behind `socket`.
///
/// # Errors
/// Why there is no answer.
pub fn ask(socket: &Path, verb: Verb, request: &Request) -> Result<Reply, String> {
    let timeout = match verb {
        Verb::Add => ADD_TIMEOUT + Duration::from_secs(5),
        Verb::Del | Verb::Check => DEL_TIMEOUT,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("failed to start: {error}"))?;
    let exchanged = runtime
        .block_on(async { tokio::time::timeout(timeout, exchange(socket, verb, request)).await });
    match exchanged {
        Ok(Ok(response)) => parse(&response),
        Ok(Err(error)) => Err(format!("{}: {error}", socket.display())),
        Err(_) => Err(format!("{}: no answer within {timeout:?}", socket.display())),
    }
}

async fn exchange(socket: &Path, verb: Verb, request: &Request) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(request)?;
    let head = format!(
        "POST {} HTTP/1.0\r\nHost: sotto\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        verb.path(),
        body.len()
    );
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    let mut response = Vec::new();
    stream.take(MAX_MESSAGE_BYTES as u64).read_to_end(&mut response).await?;
    Ok(response)
}

/// The reply in an HTTP response.
fn parse(response: &[u8]) -> Result<Reply, String> {
    let text = String::from_utf8_lossy(response);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    let answer = serde_json::from_str::<Answer>(body);
    let reason = || answer.as_ref().map_or_else(|_| body.trim().to_owned(), |a| a.reason.clone());
    match (status, &answer) {
        ("200", Ok(answer)) => Ok(Reply::Proceed(answer.clone())),
        ("500", _) => Ok(Reply::Fail(reason())),
        ("503", _) => Ok(Reply::Unsure(reason())),
        _ => Err(format!("the agent answered {status:?}: {}", reason())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart_by_status() {
        let answer = |status: &str, body: &str| {
            parse(format!("HTTP/1.0 {status} X\r\nA: b\r\n\r\n{body}").as_bytes())
        };
        let no = r#"{"enrolled":false,"reason":"why"}"#;
        let proceed = Reply::Proceed(Answer { enrolled: false, reason: "why".to_owned() });
        assert_eq!(answer("200", no), Ok(proceed));
        assert_eq!(answer("500", no), Ok(Reply::Fail("why".to_owned())));
        assert_eq!(answer("503", "plain\n"), Ok(Reply::Unsure("plain".to_owned())));
        assert!(answer("200", "nonsense").is_err());
        assert!(answer("404", no).is_err());
        assert!(parse(b"garbage").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn no_socket_is_an_error_that_names_it() {
        let error = ask(Path::new("/nonexistent/cni.sock"), Verb::Del, &Request::default());
        assert!(error.expect_err("nobody is there").contains("/nonexistent/cni.sock"));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes: Vec<u8>) {
            drop(parse(&bytes));
        }
    }
}
