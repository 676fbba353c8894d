//! The TLS of tunnels behind four verbs: shake hands, open, seal, close.
//!
//! After the handshake a [`Session`] does no IO: it opens records in the caller's buffer and appends
//! records to the caller's buffer, and holds nothing in between. rustls shakes hands and verifies
//! the peer; the records are rustls' or our own, as [`RecordLayer`] says, and nobody else knows.

mod buffered;
mod framing;
mod handshake;
mod own;

use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use buffered::Buffered;
use handshake::Handshake;
use own::Own;
pub use own::{Frozen, FrozenError};

/// The one application protocol of tunnels.
pub const ALPN: &[u8] = b"h2";
/// A record's header (RFC 8446 5.1), in bytes.
const HEADER: usize = 5;
/// Read at once during a handshake, in bytes.
const HANDSHAKE_READ: usize = 4 << 10;

/// Who seals and opens the records.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum RecordLayer {
    /// We, in place, with the secrets rustls agreed on: where the configuration lets them be taken,
    /// and offers no suite but AES-GCM; elsewhere rustls.
    #[default]
    Own,
    /// rustls, which copies what it opens and seals.
    Rustls,
}

/// An established session.
pub struct Session(Records);

enum Records {
    Buffered(Box<Buffered>),
    Own(Box<Own>),
}

/// What [`Session::open`] did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of whole records, which are done with; the rest is the start of another.
    pub consumed: usize,
    /// Bytes of plaintext, which now are at the buffer's start.
    pub plain: usize,
    /// The peer said that it sends no more.
    pub closed: bool,
}

/// A handshake that ended well.
pub struct Established {
    /// What it is for.
    pub session: Session,
    /// The peer's verified certificate chain, its own first.
    pub peer: Vec<CertificateDer<'static>>,
    /// Bytes from the wire that came after the handshake, still sealed.
    pub rest: Vec<u8>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer, or the way to it, failed; it has been sent an alert, if there is one.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The peer does not speak our protocol; it has been told that this is the end.
    #[error("the peer did not agree to speak h2")]
    Protocol,
}

/// Shakes hands as the one who dialled.
///
/// # Errors
/// There is no session.
pub async fn connect(
    tcp: &mut TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    layer: RecordLayer,
) -> Result<Established, HandshakeError> {
    let handshake = Handshake::client(config, name, layer);
    establish(tcp, handshake.map_err(|error| HandshakeError::Tls(invalid(error)))?).await
}

/// Shakes hands as the one who was dialled.
///
/// # Errors
/// There is no session.
pub async fn accept(
    tcp: &mut TcpStream,
    config: Arc<ServerConfig>,
    layer: RecordLayer,
) -> Result<Established, HandshakeError> {
    let handshake = Handshake::server(config, layer);
    establish(tcp, handshake.map_err(|error| HandshakeError::Tls(invalid(error)))?).await
}

async fn establish(
    tcp: &mut TcpStream,
    mut handshake: Handshake,
) -> Result<Established, HandshakeError> {
    let mut rest = Vec::new();
    shake(tcp, &mut handshake, &mut rest).await.map_err(HandshakeError::Tls)?;
    let agreed = handshake.protocol() == Some(ALPN);
    let finished = handshake.finish(rest);
    let mut established = finished.map_err(|error| HandshakeError::Tls(invalid(error)))?;
    if !agreed {
        // rustls lets a client pass that offers no protocol at all.
        let mut out = Vec::new();
        established.session.close(&mut out).map_err(HandshakeError::Tls)?;
        tcp.write_all(&out).await.map_err(HandshakeError::Tls)?;
        return Err(HandshakeError::Protocol);
    }
    Ok(established)
}

/// Leaves in `wire` what came after the handshake.
async fn shake(
    tcp: &mut TcpStream,
    handshake: &mut Handshake,
    wire: &mut Vec<u8>,
) -> io::Result<()> {
    let mut out = Vec::new();
    loop {
        let advanced = handshake.advance(wire, &mut out);
        let sent = tcp.write_all(&out).await;
        out.clear();
        match (advanced, sent) {
            (Ok(true), Ok(())) => return Ok(()),
            (Ok(false), Ok(())) => {}
            (Ok(_), Err(unsent)) => return Err(unsent),
            (Err(error), sent) => {
                // The handshake's error is the one to tell.
                if let Err(unsent) = sent {
                    tracing::trace!(error = %unsent, "an alert could not be sent");
                }
                return Err(invalid(error));
            }
        }
        wire.reserve(HANDSHAKE_READ);
        if tcp.read_buf(wire).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

impl Session {
    /// What another process can go on with, which then is the only one to do so; the session itself if it has failed, or
    /// if its records are rustls'.
    ///
    /// # Errors
    /// It stays as it is, here.
    pub fn freeze(self) -> Result<Frozen, Self> {
        match self.0 {
            Records::Own(records) => records.freeze().map_err(|own| Self(Records::Own(own))),
            Records::Buffered(records) => Err(Self(Records::Buffered(records))),
        }
    }

    /// The session that another process froze.
    ///
    /// # Errors
    /// It is none that this version can go on with.
    pub fn thaw(frozen: &Frozen) -> Result<Self, FrozenError> {
        Ok(Self(Records::Own(Box::new(frozen.thaw()?))))
    }

    /// Opens all whole records at the start of `wire`, and puts the plaintext in their place. What
    /// follows the peer's last word is dropped.
    ///
    /// # Errors
    /// A record is none, or the peer sent an alert: the session has ended, and what came before in
    /// `wire` is lost. What [`Session::flush`] then gives tells the peer.
    pub fn open(&mut self, wire: &mut [u8]) -> Result<Opened, rustls::Error> {
        match &mut self.0 {
            Records::Buffered(records) => records.open(wire),
            Records::Own(records) => records.open(wire),
        }
    }

    /// Appends `plain` to `out` as records.
    ///
    /// # Errors
    /// The session has ended.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.0 {
            Records::Buffered(records) => records.seal(plain, out),
            Records::Own(records) => records.seal(plain, out),
        }
    }

    /// Appends to `out` what the session itself has to say.
    ///
    /// # Errors
    /// The alert cannot be sealed.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.0 {
            Records::Buffered(records) => records.flush(out),
            Records::Own(records) => records.flush(out),
        }
    }

    /// Appends the word that this side sends no more.
    ///
    /// # Errors
    /// The word cannot be sealed.
    pub fn close(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.0 {
            Records::Buffered(records) => records.close(out),
            Records::Own(records) => records.close(out),
        }
    }
}

/// What a record's header tells: its content type, and the length of the payload after it.
fn header(wire: &[u8]) -> Option<(u8, [u8; 2], usize)> {
    let &[kind, major, minor, high, low] = wire.first_chunk::<HEADER>()?;
    Some((kind, [major, minor], usize::from(u16::from_be_bytes([high, low]))))
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
