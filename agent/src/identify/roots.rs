//! The file of the mesh's roots, which Kubernetes replaces when they change: every certificate is then renewed soon, so
//! that what is trusted and what signs move on together, and not with half a certificate's life.
//!
//! What the file holds is not trusted for peers: that is what the CA answers with each certificate.

use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio_util::sync::CancellationToken;

use super::anchor::RootsId;
use super::certs::Certificates;
use crate::sys::files;

/// Why a file holds no roots.
#[derive(Debug, thiserror::Error)]
enum RootsError {
    /// It cannot be read.
    #[error("failed to read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It holds none, or something that is none.
    #[error("{0} holds no certificates (PEM)")]
    Malformed(PathBuf),
}

/// Tells `certificates` of the roots in `file` whenever they change, until `stop`.
pub async fn follow(file: PathBuf, certificates: Certificates, stop: CancellationToken) {
    let of_read = file.clone();
    let read = move || {
        let roots = read(&of_read)?;
        certificates.roots_are(roots);
        Ok::<_, RootsError>(())
    };
    files::follow(vec![file], stop, "the roots' file is not as it should be", read).await;
}

fn read(path: &Path) -> Result<RootsId, RootsError> {
    let text = std::fs::read(path).map_err(|error| RootsError::Read(path.to_owned(), error))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match roots {
        Ok(roots) if !roots.is_empty() => Ok(RootsId::of(&roots)),
        _ => Err(RootsError::Malformed(path.to_owned())),
    }
}

#[cfg(test)]
mod tests;
