//! Handshakes, and the one place that chooses who deals with the records after them.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, CommonState, Error, ServerConfig, ServerConnection,
};
use rustls_pki_types::ServerName;

use super::buffered::Buffered;
use super::own::Shaking;
use super::{Established, RecordLayer, Records, Session};

/// A handshake under way.
pub(super) enum Handshake {
    Buffered(Box<Buffered>),
    Own(Box<Shaking>),
}

impl Handshake {
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        layer: RecordLayer,
    ) -> Result<Self, Error> {
        Ok(if is_ours(layer, config.enable_secret_extraction, config.crypto_provider()) {
            Self::Own(Box::new(Shaking::client(&config, name)?))
        } else {
            Self::Buffered(Box::new(Buffered::new(ClientConnection::new(config, name)?)))
        })
    }

    pub(super) fn server(config: Arc<ServerConfig>, layer: RecordLayer) -> Result<Self, Error> {
        Ok(if is_ours(layer, config.enable_secret_extraction, config.crypto_provider()) {
            Self::Own(Box::new(Shaking::server(&config)?))
        } else {
            Self::Buffered(Box::new(Buffered::new(ServerConnection::new(config)?)))
        })
    }

    /// Goes as far as the bytes in `wire` let it, takes them out, and appends what is to be sent.
    /// Tells whether it is done; the bytes that are left then come after the handshake.
    ///
    /// # Errors
    /// It failed; `out` tells the peer.
    pub(super) fn advance(&mut self, wire: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, Error> {
        match self {
            Self::Buffered(records) => records.advance(wire, out),
            Self::Own(shaking) => shaking.advance(wire, out),
        }
    }

    /// The application protocol agreed on.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The session of a handshake that is done, and of which `rest` was left.
    ///
    /// # Errors
    /// It is not done.
    pub(super) fn finish(self, rest: Vec<u8>) -> Result<Established, Error> {
        let peer = self.common().peer_certificates().unwrap_or_default().to_vec();
        let records = match self {
            Self::Buffered(records) => Records::Buffered(records),
            Self::Own(shaking) => Records::Own(Box::new(shaking.finish()?)),
        };
        Ok(Established { session: Session(records), peer, rest })
    }

    fn common(&self) -> &CommonState {
        match self {
            Self::Buffered(records) => &records.connection,
            Self::Own(shaking) => shaking.common(),
        }
    }
}

/// Whether the session's records can and shall be ours.
fn is_ours(layer: RecordLayer, extractable: bool, provider: &CryptoProvider) -> bool {
    let known = |suite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_256_GCM_SHA384 | CipherSuite::TLS13_AES_128_GCM_SHA256
        )
    };
    layer == RecordLayer::Own
        && extractable
        && provider.cipher_suites.iter().all(|suite| known(suite.suite()))
}
