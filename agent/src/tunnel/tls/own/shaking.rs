//! rustls' handshake without its records.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, Error, ExtractedSecrets, ServerConfig};
use rustls_pki_types::ServerName;

use super::super::framing::Framing;
use super::Own;
use super::key::{Opener, Sealer};
use super::tickets::Tickets;
use super::traffic::Traffic;

/// Bytes of records that one handshake message may take: rustls bounds the message only, and a peer
/// who has shown nothing yet may pad each of its bytes to a whole record. Its buffered connections
/// take as many.
const MAX_SEEN: usize = 64 << 10;

/// A handshake whose session will be ours.
pub(in super::super) struct Shaking {
    connection: Unbuffered,
    traffic: Arc<Traffic>,
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
    /// As the one who dialled. The configuration is copied, as the secrets of this handshake are taken through it.
    ///
    /// # Errors
    /// rustls cannot begin.
    pub(in super::super) fn client(
        config: &ClientConfig,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let traffic = Arc::new(Traffic::default());
        let mut config = config.clone();
        config.key_log = Arc::clone(&traffic) as _;
        let connection = UnbufferedClientConnection::new(Arc::new(config), name)?;
        Ok(Self::new(Unbuffered::Client(connection), traffic))
    }

    /// As the one who was dialled; else as [`client`](Self::client).
    ///
    /// # Errors
    /// rustls cannot begin.
    pub(in super::super) fn server(config: &ServerConfig) -> Result<Self, Error> {
        let traffic = Arc::new(Traffic::default());
        let mut config = config.clone();
        config.key_log = Arc::clone(&traffic) as _;
        let connection = UnbufferedServerConnection::new(Arc::new(config))?;
        Ok(Self::new(Unbuffered::Server(connection), traffic))
    }

    fn new(connection: Unbuffered, traffic: Arc<Traffic>) -> Self {
        Self { connection, traffic, framing: Framing::default(), seen: 0, done: false }
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
        let suite = self.common().negotiated_cipher_suite().map(|suite| suite.suite());
        let [client, server] = self.traffic.take(suite)?;
        // Of what rustls gives, how many records it has sealed and opened itself is what is missing.
        let (ExtractedSecrets { tx, rx }, [seal, open], tickets) = match self.connection {
            Unbuffered::Client(connection) => {
                let (extracted, kernel) = connection.dangerous_into_kernel_connection()?;
                (extracted, [client, server], Tickets::Kept(Box::new(kernel)))
            }
            Unbuffered::Server(connection) => {
                let (extracted, _) = connection.dangerous_into_kernel_connection()?;
                (extracted, [server, client], Tickets::Refused)
            }
        };
        Ok(Own::new(Sealer::new(seal, tx.0)?, Opener::new(open, rx.0)?, tickets))
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
