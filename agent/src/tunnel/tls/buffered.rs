//! Sessions whose records rustls opens and seals, in its own buffers.

use std::io::{self, Read as _, Write as _};

use rustls::{Connection, Error, IoState};

use super::Opened;
use super::framing::{Framing, first_record};

/// Sealed at once, in bytes: whole records of the largest size.
const SEALED: usize = 4 << 14;

/// A connection of rustls, its handshake included.
pub(super) struct Buffered {
    pub(super) connection: Connection,
    /// Of its handshake.
    framing: Framing,
    /// The peer sends no more.
    closed: bool,
}

impl Buffered {
    pub(super) fn new(connection: impl Into<Connection>) -> Self {
        let mut connection = connection.into();
        // The caller bounds what it has sealed.
        connection.set_buffer_limit(None);
        Self { connection, framing: Framing::default(), closed: false }
    }

    /// As [`Handshake::advance`](super::handshake::Handshake::advance).
    pub(super) fn advance(&mut self, wire: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, Error> {
        loop {
            self.flush(out).map_err(local)?;
            if !self.connection.is_handshaking() {
                return Ok(true);
            }
            let Some(length) = self.framing.next(wire)? else { return Ok(false) };
            if let Err(error) = self.feed(&wire[..length]) {
                self.flush(out).map_err(local)?;
                return Err(error);
            }
            wire.drain(..length);
        }
    }

    /// As [`Session::open`](super::Session::open).
    pub(super) fn open(&mut self, wire: &mut [u8]) -> Result<Opened, Error> {
        let mut opened = Opened::default();
        while !self.closed
            && let Some(length) = first_record(&wire[opened.consumed..])
        {
            let end = opened.consumed + length;
            let state = self.feed(&wire[opened.consumed..end])?;
            let plain = opened.plain + state.plaintext_bytes_to_read();
            // Plaintext is shorter than its record, and nothing was left from the one before.
            let into = wire[..end].get_mut(opened.plain..plain);
            let into = into.ok_or(Error::General("more plaintext than record".into()))?;
            if !into.is_empty() {
                self.connection.reader().read_exact(into).map_err(local)?;
            }
            opened.plain = plain;
            opened.consumed = end;
            self.closed = state.peer_has_closed();
        }
        if self.closed {
            opened.consumed = wire.len();
            opened.closed = true;
        }
        Ok(opened)
    }

    /// As [`Session::seal`](super::Session::seal).
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        // rustls seals into buffers of its own, which are freed as they are flushed: few at a time.
        for part in plain.chunks(SEALED) {
            self.connection.writer().write_all(part)?;
            self.flush(out)?;
        }
        self.flush(out)
    }

    /// As [`Session::flush`](super::Session::flush).
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(out)?;
        }
        Ok(())
    }

    /// As [`Session::close`](super::Session::close).
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush(out)
    }

    /// Gives rustls bytes that make up a record.
    fn feed(&mut self, mut record: &[u8]) -> Result<IoState, Error> {
        loop {
            let read = self.connection.read_tls(&mut record).map_err(local)?;
            let state = self.connection.process_new_packets()?;
            // rustls takes nothing after the peer's last word.
            if record.is_empty() || read == 0 {
                return Ok(state);
            }
        }
    }
}

fn local(error: io::Error) -> Error {
    Error::General(error.to_string())
}
