//! Echo, sink and source over plain TCP.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::listen;

const BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, Copy)]
enum Role {
    Echo,
    Sink,
    Source,
}

/// Serves echo at `port`, sink at `port + 1`, source at `port + 2` for ever.
///
/// # Errors
/// A port is taken.
pub async fn serve(port: u16) -> Result<()> {
    let (echo, sink, source) =
        (listen(port).await?, listen(port + 1).await?, listen(port + 2).await?);
    tokio::join!(
        accept(&echo, Role::Echo),
        accept(&sink, Role::Sink),
        accept(&source, Role::Source)
    );
    Ok(())
}

async fn accept(listener: &TcpListener, role: Role) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    // A peer that goes away is how most of these connections end.
                    if let Err(error) = serve_one(stream, role).await {
                        tracing::debug!(%error, ?role, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_one(mut stream: TcpStream, role: Role) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match role {
        Role::Echo => {
            let (mut reader, mut writer) = stream.split();
            let mut buffer = vec![0; 16 << 10];
            loop {
                let count = reader.read(&mut buffer).await?;
                if count == 0 {
                    return writer.shutdown().await;
                }
                writer.write_all(&buffer[..count]).await?;
            }
        }
        Role::Sink => {
            let mut buffer = vec![0; BUFFER_BYTES];
            while stream.read(&mut buffer).await? > 0 {}
            // Tells the sender that all has arrived.
            stream.write_all(b"!").await?;
            stream.shutdown().await
        }
        Role::Source => {
            let buffer = vec![0x5a; BUFFER_BYTES];
            loop {
                stream.write_all(&buffer).await?;
            }
        }
    }
}
