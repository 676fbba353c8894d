//! rustls' handshake without its records, and what makes the next secrets after it.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{CommonState, Error, ExtractedSecrets};

use super::super::framing::Framing;
use super::Own;
use super::fault::Fault;
use super::key::{Opener, Sealer, Secret};

/// Bytes of records that one handshake message may take: rustls bounds the message only, and a peer
/// who has shown nothing yet may pad each of its bytes to a whole record. Its buffered connections
/// take as many.
const MAX_SEEN: usize = 64 << 10;

/// A handshake whose session will be ours.
pub(in super::super) struct Shaking {
    connection: Unbuffered,
    framing: Framing,
    /// Bytes that rustls has seen and wants to see again, with what follows.
    seen: usize,
    done: bool,
}

enum Unbuffered {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// How far one step brought a handshake.
enum Step {
    /// There is another.
    Again,
    /// It waits for the peer.
    Blocked,
}

impl Shaking {
    pub(in super::super) fn client(connection: UnbufferedClientConnection) -> Self {
        Self::new(Unbuffered::Client(connection))
    }

    pub(in super::super) fn server(connection: UnbufferedServerConnection) -> Self {
        Self::new(Unbuffered::Server(connection))
    }

    fn new(connection: Unbuffered) -> Self {
        Self { connection, framing: Framing::default(), seen: 0, done: false }
    }

    pub(in super::super) fn common(&self) -> &CommonState {
        match &self.connection {
            Unbuffered::Client(connection) => connection,
            Unbuffered::Server(connection) => connection,
        }
    }

    /// As [`Handshake::advance`](super::super::handshake::Handshake::advance).
    pub(in super::super) fn advance(
        &mut self,
        wire: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        while !self.done {
            let (discard, step) = self.connection.step(&mut wire[..self.seen], out);
            let discard = discard.min(self.seen);
            wire.drain(..discard);
            self.seen -= discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Blocked) if !self.common().is_handshaking() => {
                    if self.seen > 0 {
                        // RFC 8446 5.1 has the last message end its record, and rustls sees to it.
                        return Err(Error::General("bytes left of the last message".into()));
                    }
                    self.done = true;
                }
                Ok(Step::Blocked) => {
                    // One record at a time: what follows the last one is not for rustls.
                    let next = self.framing.next(&wire[self.seen..])?;
                    let Some(length) = next else { return Ok(false) };
                    self.seen += length;
                    if self.seen > MAX_SEEN {
                        return Err(Error::General(
                            "a handshake message in too many records".into(),
                        ));
                    }
                }
                Err(error) => {
                    self.alert(out);
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    /// Appends the alert of a handshake that failed.
    fn alert(&mut self, out: &mut Vec<u8>) {
        // rustls hands out what it has to send before it looks at any input, of which it must have
        // none after an error.
        while self.common().wants_write()
            && let (_, Ok(Step::Again)) = self.connection.step(&mut [], out)
        {}
    }

    /// The session of a handshake that is done.
    ///
    /// # Errors
    /// It is not, or its secrets are not for us.
    pub(in super::super) fn finish(self) -> Result<Own, Error> {
        let (ExtractedSecrets { tx, rx }, secrets) = match self.connection {
            Unbuffered::Client(connection) => {
                let (extracted, kernel) = connection.dangerous_into_kernel_connection()?;
                (extracted, Secrets::Client(kernel))
            }
            Unbuffered::Server(connection) => {
                let (extracted, kernel) = connection.dangerous_into_kernel_connection()?;
                (extracted, Secrets::Server(kernel))
            }
        };
        Ok(Own::new(Sealer::new(tx)?, Opener::new(rx)?, secrets))
    }
}

impl Unbuffered {
    /// Tells how many bytes of `wire` are done with also.
    fn step(&mut self, wire: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
        match self {
            Self::Client(connection) => step(connection.process_tls_records(wire), out),
            Self::Server(connection) => step(connection.process_tls_records(wire), out),
        }
    }
}

fn step<Data>(
    UnbufferedStatus { discard, state, .. }: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let step = state.and_then(|state| match state {
        ConnectionState::EncodeTlsData(data) => encode(data, out).map(|()| Step::Again),
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => Ok(Step::Blocked),
        state => Err(Error::General(format!("a handshake came to {state:?}"))),
    });
    (discard, step)
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    loop {
        match data.encode(&mut out[start..]) {
            Ok(_) => return Ok(()),
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                out.resize(start + required_size, 0);
            }
            Err(error @ EncodeError::AlreadyEncoded) => {
                return Err(Error::General(error.to_string()));
            }
        }
    }
}

/// Where the next secrets come from.
pub(super) enum Secrets {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Secrets {
    pub(super) fn next_to_seal(&mut self) -> Result<Secret, Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    pub(super) fn next_to_open(&mut self) -> Result<Secret, Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }

    /// Whether the peer may send tickets: it is the server.
    pub(super) fn takes_tickets(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    pub(super) fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Fault> {
        let kept = match self {
            Self::Client(kernel) => kernel.handle_new_session_ticket(ticket),
            Self::Server(_) => Ok(()),
        };
        kept.map_err(|error| match error {
            Error::InvalidMessage(invalid) => Fault::malformed(invalid),
            other => Fault::ours(other),
        })
    }
}
