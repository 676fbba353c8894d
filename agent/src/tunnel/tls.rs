//! The TLS of tunnels behind four verbs: shake hands, open, seal, close.
//!
//! After the handshake a [`Session`] does no IO: it opens records in the caller's buffer and appends
//! records to the caller's buffer, and holds nothing in between. What is behind it today is rustls'
//! buffered connection; nobody else knows.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, Connection, IoState, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The one application protocol of tunnels.
pub(super) const ALPN: &[u8] = b"h2";
/// A record's header (RFC 8446 5.1), in bytes.
const HEADER: usize = 5;
/// The longest protected record's payload (RFC 8446 5.2), in bytes.
const MAX_PAYLOAD: usize = (1 << 14) + 256;
/// Read at once during a handshake, in bytes.
const HANDSHAKE_READ: usize = 4 << 10;

/// An established session.
pub(super) struct Session {
    connection: Connection,
}

/// What [`Session::open`] did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    /// Bytes of whole records, which are done with; the rest is the start of another.
    pub(super) consumed: usize,
    /// Bytes of plaintext, which now are at the buffer's start.
    pub(super) plain: usize,
    /// The peer said that it sends no more.
    pub(super) closed: bool,
}

/// A handshake that ended well.
pub(super) struct Established {
    pub(super) session: Session,
    /// Bytes from the wire that came after the handshake, still sealed.
    pub(super) rest: Vec<u8>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The peer, or the way to it, failed; it has been sent an alert, if there is one.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The peer does not speak our protocol; it has been told that this is the end.
    #[error("the peer did not agree to speak h2")]
    Protocol,
}

/// Shakes hands as the one who dialled.
pub(super) async fn connect(
    tcp: &mut TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Established, HandshakeError> {
    let connection = ClientConnection::new(config, name);
    let connection = connection.map_err(|error| HandshakeError::Tls(invalid(error)))?;
    establish(tcp, connection.into()).await
}

/// Shakes hands as the one who was dialled.
pub(super) async fn accept(
    tcp: &mut TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Established, HandshakeError> {
    let connection = ServerConnection::new(config);
    let connection = connection.map_err(|error| HandshakeError::Tls(invalid(error)))?;
    establish(tcp, connection.into()).await
}

async fn establish(
    tcp: &mut TcpStream,
    connection: Connection,
) -> Result<Established, HandshakeError> {
    let mut session = Session { connection };
    let mut rest = Vec::new();
    session.shake(tcp, &mut rest).await.map_err(HandshakeError::Tls)?;
    if session.connection.alpn_protocol() != Some(ALPN) {
        // rustls lets a client pass that offers no protocol at all.
        let mut out = Vec::new();
        session.close(&mut out).map_err(HandshakeError::Tls)?;
        tcp.write_all(&out).await.map_err(HandshakeError::Tls)?;
        return Err(HandshakeError::Protocol);
    }
    // The caller bounds what it has sealed.
    session.connection.set_buffer_limit(None);
    Ok(Established { session, rest })
}

impl Session {
    /// The peer's verified certificate chain, its own first.
    pub(super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.connection.peer_certificates().unwrap_or_default()
    }

    /// Opens all whole records at the start of `wire`, and puts the plaintext in their place.
    ///
    /// # Errors
    /// A record is none, or the peer sent an alert. What [`Session::flush`] then gives tells the
    /// peer.
    pub(super) fn open(&mut self, wire: &mut [u8]) -> Result<Opened, rustls::Error> {
        let mut opened = Opened::default();
        while let Some(length) = first_record(&wire[opened.consumed..]) {
            let end = opened.consumed + length;
            let state = self.feed(&wire[opened.consumed..end])?;
            let plain = opened.plain + state.plaintext_bytes_to_read();
            // Plaintext is shorter than its record, and nothing was left from the one before.
            let into = wire[..end].get_mut(opened.plain..plain);
            let into = into.ok_or(rustls::Error::General("more plaintext than record".into()))?;
            if !into.is_empty() {
                let read = self.connection.reader().read_exact(into);
                read.map_err(|error| rustls::Error::General(error.to_string()))?;
            }
            opened.plain = plain;
            opened.consumed = end;
            opened.closed |= state.peer_has_closed();
        }
        Ok(opened)
    }

    /// Appends `plain` to `out` as records.
    ///
    /// # Errors
    /// The session has ended.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.connection.writer().write_all(plain)?;
        self.flush(out)
    }

    /// Appends to `out` what the session itself has to say: answers to key updates, and alerts.
    ///
    /// # Errors
    /// None by the buffer.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(out)?;
        }
        Ok(())
    }

    /// Appends the word that this side sends no more.
    ///
    /// # Errors
    /// None by the buffer.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush(out)
    }

    /// Gives rustls bytes that make up records.
    fn feed(&mut self, mut records: &[u8]) -> Result<IoState, rustls::Error> {
        loop {
            self.connection
                .read_tls(&mut records)
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            let state = self.connection.process_new_packets()?;
            if records.is_empty() {
                return Ok(state);
            }
        }
    }

    /// Leaves in `wire` what came after the handshake.
    async fn shake(&mut self, tcp: &mut TcpStream, wire: &mut Vec<u8>) -> io::Result<()> {
        let mut out = Vec::new();
        loop {
            self.flush(&mut out)?;
            tcp.write_all(&out).await?;
            out.clear();
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            let Some(length) = first_record(wire) else {
                wire.reserve(HANDSHAKE_READ);
                if tcp.read_buf(wire).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                continue;
            };
            if let Err(error) = self.feed(&wire[..length]) {
                self.flush(&mut out)?;
                // The handshake's error is the one to tell.
                if let Err(unsent) = tcp.write_all(&out).await {
                    tracing::trace!(error = %unsent, "an alert could not be sent");
                }
                return Err(invalid(error));
            }
            wire.drain(..length);
        }
    }
}

/// The length of the record that `wire` starts with; none while it is not all there. What cannot be
/// a record is taken as one, for rustls to judge.
fn first_record(wire: &[u8]) -> Option<usize> {
    let header = wire.first_chunk::<HEADER>()?;
    let [kind, major, _, high, low] = *header;
    let payload = usize::from(u16::from_be_bytes([high, low]));
    let record = (20..=23).contains(&kind) && major == 3 && payload <= MAX_PAYLOAD;
    if !record {
        return Some(wire.len());
    }
    (wire.len() >= HEADER + payload).then_some(HEADER + payload)
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
