//! What a tunnel's peer has shown of itself, and by what it was last believed.

use std::cell::{Cell, OnceCell};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

/// The peer's verified certificates, its own first.
#[derive(Debug)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    trust: Cell<u32>,
    shown: u32,
    lapse: OnceCell<Lapse>,
}

/// By what the ends of a tunnel believe each other. Numbers to be compared, whatever they stand
/// for; small, as connections carry them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trust {
    /// By what this end believes the other: roots and revocations.
    pub by: u32,
    /// On what the certificate hangs that this end has shown: its root.
    pub shown: u32,
}

/// When a tunnel must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lapse {
    /// From when on it takes no more streams.
    pub drain: SystemTime,
    /// From when on it is no more.
    pub end: SystemTime,
}

impl Chain {
    /// As a handshake has verified it.
    pub fn new(certificates: Vec<CertificateDer<'static>>, Trust { by, shown }: Trust) -> Self {
        Self { certificates, trust: Cell::new(by), shown, lapse: OnceCell::new() }
    }

    /// All of them.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// By what it was last believed.
    pub fn trust(&self) -> u32 {
        self.trust.get()
    }

    /// On what hangs that the peer was shown: see [`Trust::shown`].
    pub fn shown(&self) -> u32 {
        self.shown
    }

    /// It is believed by this, too.
    pub fn believed(&self, trust: u32) {
        self.trust.set(trust);
    }

    /// When it lapses; read once.
    pub fn lapse(&self, read: impl FnOnce(&[CertificateDer<'static>]) -> Lapse) -> Lapse {
        *self.lapse.get_or_init(|| read(&self.certificates))
    }
}
