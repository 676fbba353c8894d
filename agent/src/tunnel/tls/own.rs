//! Sessions whose records we open and seal ourselves, in the caller's buffers.
//!
//! rustls shakes hands, and gives up the traffic secrets as it makes them: see [`Shaking`]. From then on the keys are
//! ours, and a session is a plain value: see [`Frozen`]. Opening decrypts in place; sealing encrypts from the
//! plaintext into the record.
//!
//! | of a peer | comes |
//! |---|---|
//! | application data | plaintext |
//! | `close_notify` | [`Opened::closed`]; what follows is dropped |
//! | another alert | an error, unanswered |
//! | a ticket | to rustls, which keeps it or not |
//! | a key update | the next keys to open with; asked to, we update ours before the next data |
//! | more than [`PATIENCE`] records in a row without data | an error |
//! | anything else | an error, and the alert that RFC 8446 has for it |
//!
//! An error is for good: nothing is opened or sealed after it but its alert.

mod fault;
mod frozen;
mod key;
mod messages;
mod schedule;
mod shaking;
mod tickets;
mod traffic;

use std::io;

use rustls::{AlertDescription, ContentType, Error, InvalidMessage, PeerMisbehaved};

use super::{HEADER, Opened, invalid};
use fault::Fault;
use key::{MAX_CONTENT, Opener, Sealer, record_length};
use messages::{Message, Messages};
use tickets::Tickets;

pub use frozen::{Frozen, FrozenError};
pub(super) use shaking::Shaking;

/// Records without application data that are taken in a row.
const PATIENCE: u8 = 32;
/// Records sealed under one key. RFC 8446 5.5 has AES-GCM seal 2^24.5 of full size at most.
const REKEY_AFTER: u64 = 1 << 22;
/// A `KeyUpdate` that asks for none (RFC 8446 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
/// The two alert levels (RFC 8446 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// An established session.
pub(super) struct Own {
    sealer: Sealer,
    opener: Opener,
    tickets: Tickets,
    messages: Messages,
    /// Records without data since the last one with some.
    fruitless: u8,
    /// The peer sends no more.
    closed: bool,
    /// Why nothing is opened any more.
    failed: Option<Error>,
    /// We send no more.
    ended: bool,
    /// An alert to be sent.
    alert: Option<AlertDescription>,
    /// The peer asked us to update our keys.
    asked: bool,
    /// Records sealed before our keys are updated.
    rekey_after: u64,
}

impl Own {
    fn new(sealer: Sealer, opener: Opener, tickets: Tickets) -> Self {
        Self {
            sealer,
            opener,
            tickets,
            messages: Messages::default(),
            fruitless: 0,
            closed: false,
            failed: None,
            ended: false,
            alert: None,
            asked: false,
            rekey_after: REKEY_AFTER,
        }
    }

    /// As [`Session::open`](super::Session::open).
    pub(super) fn open(&mut self, wire: &mut [u8]) -> Result<Opened, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.open_records(wire).map_err(|fault| {
            if !self.ended {
                self.alert = fault.alert;
            }
            self.failed = Some(fault.error.clone());
            fault.error
        })
    }

    fn open_records(&mut self, wire: &mut [u8]) -> Result<Opened, Fault> {
        let mut opened = Opened::default();
        while !self.closed
            && let Some(length) = record_length(&wire[opened.consumed..])?
        {
            let start = opened.consumed + HEADER;
            opened.consumed += length;
            let (kind, length) = self.opener.open(&mut wire[start - HEADER..opened.consumed])?;
            if kind == ContentType::ApplicationData && length > 0 {
                self.messages.expect_whole(kind)?;
                self.fruitless = 0;
                wire.copy_within(start..start + length, opened.plain);
                opened.plain += length;
            } else {
                self.control(kind, &wire[start..start + length])?;
            }
        }
        if self.closed {
            opened.consumed = wire.len();
            opened.closed = true;
        }
        Ok(opened)
    }

    /// A record without application data.
    fn control(&mut self, kind: ContentType, content: &[u8]) -> Result<(), Fault> {
        if self.fruitless == PATIENCE {
            return Err(Fault::unexpected(match kind {
                ContentType::Handshake => PeerMisbehaved::TooManyKeyUpdateRequests,
                _ => PeerMisbehaved::TooManyEmptyFragments,
            }));
        }
        self.fruitless += 1;
        if kind == ContentType::Handshake {
            return self.handshake(content);
        }
        self.messages.expect_whole(kind)?;
        match kind {
            ContentType::ApplicationData => Ok(()),
            ContentType::Alert => self.alerted(content),
            _ => Err(Fault::unexpected(Error::InappropriateMessage {
                expect_types: vec![ContentType::ApplicationData],
                got_type: kind,
            })),
        }
    }

    fn alerted(&mut self, content: &[u8]) -> Result<(), Fault> {
        // RFC 8446 6: the level means nothing.
        match *content {
            [_, description] => match AlertDescription::from(description) {
                AlertDescription::CloseNotify => self.closed = true,
                // Its `close_notify` comes next.
                AlertDescription::UserCanceled => {}
                other => return Err(Fault::silent(Error::AlertReceived(other))),
            },
            // RFC 8446 5.4.
            [] => return Err(Fault::unexpected(InvalidMessage::InvalidEmptyPayload)),
            _ => return Err(Fault::malformed(InvalidMessage::TrailingData("alert"))),
        }
        Ok(())
    }

    fn handshake(&mut self, content: &[u8]) -> Result<(), Fault> {
        let mut messages = std::mem::take(&mut self.messages);
        messages.take_in(content)?;
        while let Some(message) = messages.next(self.tickets.are_taken())? {
            match message {
                Message::Ticket(ticket) => self.tickets.keep(&ticket)?,
                Message::KeyUpdate { asks } => {
                    // RFC 8446 5.1: nothing follows in the same record.
                    if !messages.is_done() {
                        let error = PeerMisbehaved::KeyEpochWithPendingFragment;
                        return Err(Fault::unexpected(error));
                    }
                    self.opener.update().map_err(Fault::ours)?;
                    self.asked |= asks;
                }
            }
        }
        messages.tidy();
        self.messages = messages;
        Ok(())
    }

    /// As [`Session::seal`](super::Session::seal).
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if self.ended || self.failed.is_some() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let sealed = self.seal_records(plain, out);
        sealed.map_err(|error| {
            // Not even an alert can be sealed.
            self.ended = true;
            self.failed = Some(error.clone());
            invalid(error)
        })
    }

    fn seal_records(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        for content in plain.chunks(MAX_CONTENT) {
            if self.asked || self.sealer.sealed() >= self.rekey_after {
                self.sealer.seal(ContentType::Handshake, &KEY_UPDATE, out)?;
                self.sealer.update()?;
                self.asked = false;
            }
            self.sealer.seal(ContentType::ApplicationData, content, out)?;
        }
        Ok(())
    }

    /// As [`Session::flush`](super::Session::flush). The answer to a key update waits for the next
    /// data, so that a peer that asks and does not read has nothing pile up.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self.alert.take() {
            Some(alert) => self.say(FATAL, alert, out),
            None => Ok(()),
        }
    }

    /// As [`Session::close`](super::Session::close).
    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.flush(out)?;
        if self.ended || self.failed.is_some() {
            return Ok(());
        }
        self.say(WARNING, AlertDescription::CloseNotify, out)
    }

    /// Seals our last word.
    fn say(&mut self, level: u8, alert: AlertDescription, out: &mut Vec<u8>) -> io::Result<()> {
        self.ended = true;
        let sealed = self.sealer.seal(ContentType::Alert, &[level, alert.into()], out);
        sealed.map_err(invalid)
    }
}

#[cfg(test)]
mod tests;
