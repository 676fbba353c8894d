//! What the Secret of the root may hold, by which names. Pure.
//!
//! | | Istio's `cacerts`, and what we make | cert-manager (`kubernetes.io/tls`) |
//! |---|---|---|
//! | what signs | `ca-cert.pem` | `tls.crt`, its first certificate |
//! | its key | `ca-key.pem` | `tls.key` |
//! | what stands between it and a root | `cert-chain.pem` | the rest of `tls.crt` |
//! | what is trusted | `root-cert.pem`; without, what signs | `root-cert.pem`; without, `ca.crt` |

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use zeroize::Zeroizing;

use crate::control_plane::ca::{AuthorityError, KeptAuthority};

pub(super) const CERTIFICATE: &str = "ca-cert.pem";
pub(super) const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";
const TLS_CERTIFICATE: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const TLS_ROOT: &str = "ca.crt";

/// What is wrong with what is kept.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// A part is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A part is not text.
    #[error("{0} is not text")]
    NotText(&'static str),
    /// There are two that could sign.
    #[error("it holds both {CERTIFICATE} and {TLS_CERTIFICATE}, or their keys: take one pair away")]
    Two,
    /// Its content cannot sign.
    #[error(transparent)]
    Content(#[from] AuthorityError),
}

/// The parts of a Secret.
///
/// # Errors
/// One is missing or no text, or it is not clear which counts.
pub(super) fn parts(secret: &Secret) -> Result<KeptAuthority, Corruption> {
    let part = |name: &'static str| {
        let Some(ByteString(bytes)) = secret.data.as_ref().and_then(|data| data.get(name)) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes).map_err(|_| Corruption::NotText(name))?;
        Ok::<_, Corruption>(Some(text.to_owned()))
    };
    let there = |name: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(name));
    let (ours, theirs) =
        (there(CERTIFICATE) || there(KEY), there(TLS_CERTIFICATE) || there(TLS_KEY));
    if ours && theirs {
        return Err(Corruption::Two);
    }
    let names = if theirs { [TLS_CERTIFICATE, TLS_KEY] } else { [CERTIFICATE, KEY] };
    let must = |name| part(name)?.ok_or(Corruption::Missing(name));
    let mut roots = part(ROOTS)?;
    if theirs && roots.is_none() {
        // An issuer that does not know its root leaves it empty.
        roots = part(TLS_ROOT)?.filter(|text| !text.trim().is_empty());
    }
    Ok(KeptAuthority {
        certificate: must(names[0])?,
        key: Zeroizing::new(must(names[1])?),
        chain: part(CHAIN)?.unwrap_or_default(),
        roots,
    })
}

#[cfg(test)]
mod tests;
