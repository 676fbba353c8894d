//! `kubectl logs`: a container's output so far, and with `follow` as it comes.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::request::Params;

/// Of a longer log only the end is shown.
const LONGEST_BYTES: u64 = 16 * 1024 * 1024;
/// What is read at once.
const READ_BYTES: usize = 16 * 1024;
/// How often a followed log is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers a request for a log.
///
/// # Errors
/// `InternalError` if the file cannot be read, `BadRequest` for a number that is none.
pub(super) async fn start(
    path: &Path,
    params: &Params,
    stop: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let unreadable = |error: std::io::Error| ApiError::internal(format!("read the log: {error}"));
    let mut file = File::open(path).await.map_err(unreadable)?;
    let mut text = Vec::new();
    skip_to_last(&mut file).await.map_err(unreadable)?;
    (&mut file).take(LONGEST_BYTES).read_to_end(&mut text).await.map_err(unreadable)?;
    if let Some(lines) = params.number("tailLines")? {
        text = last_lines(text, usize::try_from(lines).unwrap_or(0));
    }
    let body = if params.flag("follow") {
        let more = stream::unfold((file, stop), |(mut file, stop)| async move {
            let chunk = stop.run_until_cancelled(next(&mut file)).await?;
            Some((chunk, (file, stop)))
        });
        let first = stream::once(async { Ok(Bytes::from(text)) });
        Body::from_stream(futures::StreamExt::chain(first, more))
    } else {
        Body::from(text)
    };
    let mut response = Response::new(body);
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(response)
}

async fn skip_to_last(file: &mut File) -> std::io::Result<()> {
    let length = file.metadata().await?.len();
    if length > LONGEST_BYTES {
        let start = std::io::SeekFrom::Start(length - LONGEST_BYTES);
        tokio::io::AsyncSeekExt::seek(file, start).await?;
    }
    Ok(())
}

fn last_lines(text: Vec<u8>, lines: usize) -> Vec<u8> {
    let ends: Vec<usize> = (0..text.len()).filter(|at| text[*at] == b'\n').collect();
    let unended = usize::from(text.last().is_some_and(|last| *last != b'\n'));
    match (ends.len() + unended).checked_sub(lines) {
        None | Some(0) => text,
        // The last line may have no end of its own.
        Some(skipped) => match ends.get(skipped - 1) {
            Some(end) => text[end + 1..].to_vec(),
            None => Vec::new(),
        },
    }
}

/// What is new in the file, when there is something.
async fn next(file: &mut File) -> std::io::Result<Bytes> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut buffer).await?;
        if count > 0 {
            buffer.truncate(count);
            return Ok(Bytes::from(buffer));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log() {
        let check = |text: &str, lines, expected: &str| {
            let kept = last_lines(text.as_bytes().to_vec(), lines);
            assert_eq!(String::from_utf8(kept).unwrap(), expected);
        };
        check("a\nb\nc\n", 2, "b\nc\n");
        check("a\nb\nc", 2, "b\nc");
        check("a\nb\n", 5, "a\nb\n");
        check("a\nb\n", 0, "");
        check("a\nb", 0, "");
        check("", 1, "");
    }
}
