//! Tunnels do not outlive what their handshakes have shown: a peer's certificate that expires or is taken back, a root
//! that is no longer the mesh's. And when this end's certificate hangs on another root than it did, what has shown the
//! former takes no more streams.
//!
//! Each thread looks at its tunnels once a second, at both kinds: those it dialled and those it was dialled for. Nothing
//! is verified again unless the roots or the revocations have changed.

use std::cell::Cell;
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::context::Context;
use crate::identify::peer;
use crate::identify::revocation::PeerEnd;
use crate::identify::svid::Svid;
use crate::mesh::SpiffeId;
use crate::tunnel::{Chain, Lapse, Trust, Verdict};

/// So long before a certificate expires its tunnels take no more streams, at most..
const NOTICE: Duration = Duration::from_secs(30);
/// ..and at most this part of its life.
const PART: u32 = 10;

impl Context {
    /// Ends the tunnels whose peers are not to be believed any more. Call it once a second.
    pub fn review(&self) {
        let of_old_root = Cell::new(0);
        let judge = |local: &SpiffeId, peer: &Chain, end| {
            let verdict = self.judge(local, peer, end);
            // A peer takes what was shown in the handshake as long as it trusts that root: at its end of a change, none
            // of these must be open. So they take no more streams from now on.
            if verdict != Verdict::Cut && self.is_of_old_root(local, peer) {
                of_old_root.set(of_old_root.get() + 1);
                return Verdict::Drain;
            }
            verdict
        };
        self.pool.review(|key, peer| judge(&key.source, peer, PeerEnd::Server));
        self.accepted.review(|local, peer| judge(local, peer, PeerEnd::Client));
        self.counters.tunnels_of_old_root(of_old_root.get());
    }

    /// Whether this end has another root's certificate now than it has shown.
    fn is_of_old_root(&self, local: &SpiffeId, peer: &Chain) -> bool {
        let svid = self.certificates.current(local);
        svid.is_some_and(|svid| svid.root().id != peer.shown())
    }

    fn judge(&self, local: &SpiffeId, peer: &Chain, end: PeerEnd) -> Verdict {
        let (now, lapse) = (self.certificates.now(), peer.lapse(lapse));
        if now >= lapse.end {
            tracing::info!(peer = name(peer), "a tunnel ends: its peer's certificate has expired");
            return Verdict::Cut;
        }
        // Of an identity that left the node, what is open goes on as it began.
        if let Some(svid) = self.certificates.current(local)
            && svid.trust() != peer.trust()
        {
            if let Err(error) = svid.still_believes(peer.certificates(), end, now) {
                tracing::warn!(peer = name(peer), %error, "a tunnel ends: its peer is not believed any more");
                return Verdict::Cut;
            }
            peer.believed(svid.trust());
        }
        if now >= lapse.drain { Verdict::Drain } else { Verdict::Keep }
    }
}

/// By what the ends of a tunnel with this certificate believe each other.
pub(super) fn of(svid: &Svid) -> Trust {
    Trust { by: svid.trust(), shown: svid.root().id }
}

fn lapse(chain: &[CertificateDer<'static>]) -> Lapse {
    let validity = peer::validity(chain);
    let life = validity.until.duration_since(validity.since).unwrap_or_default();
    let notice = NOTICE.min(life / PART);
    Lapse {
        drain: validity.until.checked_sub(notice).unwrap_or(validity.until),
        end: validity.until,
    }
}

fn name(peer: &Chain) -> String {
    let identity = peer::chain_identity(peer.certificates());
    identity.map_or_else(|error| error.to_string(), |identity| identity.to_string())
}
