//! What is known of the mesh, on the node's disk: an agent that starts while its control plane is away goes on with what
//! the one before it knew. No key is in it.
//!
//! It is written a while after something changed, and at the end, in one step, for root alone; and it is read once, by
//! an agent that has waited in vain for its control plane. It counts only if every byte is as it was written, since the
//! node booted, not long ago, by an agent of the same mesh: of anything else as little is known as without it, so that
//! connections are held, and refused. It is written as it is made, so that it is never in memory as a whole.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sotto_proto::ads::DeltaDiscoveryResponse;
use tokio_util::sync::CancellationToken;

use super::StatusReader;
use crate::error::chain;
use crate::mesh::{Mesh, MeshReader};
use crate::sys::file;

mod body;

/// Its name, in the agent's directory of state.
const FILE: &str = "mesh.kept";
/// Of the format: one that is not known is not read.
const VERSION: u32 = 2;
/// As long as a digest.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// What was known longer ago is of no use: pods' addresses are others' by then.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The least time between two writes.
const PAUSE: Duration = Duration::from_secs(30);
/// Between looks whether anything is known at all.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(1);
/// How often it is written although nothing changed, so that it is known to be true.
const REFRESH: Duration = Duration::from_secs(60 * 60);
/// More than a large mesh takes.
const MAX_BYTES: u64 = 1 << 30;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file in the agent's directory of state.
pub fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Where it is, and of which mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    path: PathBuf,
    mesh: String,
    boot: String,
}

/// The first line: all of it goes into the digest, and so does what follows.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    /// Control plane and cluster.
    mesh: String,
    boot: String,
    /// In seconds of the Unix epoch.
    written: u64,
    /// Of the digest of the body.
    body: String,
}

/// Why nothing is known from before.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It cannot be read; perhaps it was never written.
    #[error("failed to read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is not as it was written.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// It was not written for this agent, or not lately.
    #[error("{} is of {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is of.
        what: &'static str,
    },
}

impl Kept {
    /// In a directory of state, of the mesh that is named.
    pub fn new(state_dir: &Path, mesh: String) -> Self {
        // Without it no boot is told from another, and nothing is believed.
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self { path: file_in(state_dir), mesh, boot }
    }

    /// What was known, as two first responses of a control plane, and how long ago that was.
    ///
    /// # Errors
    /// Nothing is to be believed.
    pub(super) fn read(
        &self,
        now: SystemTime,
    ) -> Result<([DeltaDiscoveryResponse; 2], Duration), KeptError> {
        let unread = |error| KeptError::Read(self.path.clone(), error);
        let damaged = || KeptError::Damaged(self.path.clone());
        if std::fs::metadata(&self.path).map_err(unread)?.len() > MAX_BYTES {
            return Err(damaged());
        }
        let bytes = Bytes::from(std::fs::read(&self.path).map_err(unread)?);
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
        let (header, body) = (&bytes[..end], bytes.slice(end + 1..));
        let header: Header = serde_json::from_slice(header).map_err(|_| damaged())?;
        if header.body != hex(header.hash().chain_update(&body)) {
            return Err(damaged());
        }
        let foreign = |what| Err(KeptError::Foreign { path: self.path.clone(), what });
        let age = now.duration_since(UNIX_EPOCH + Duration::from_secs(header.written));
        match age {
            _ if header.version != VERSION => foreign("another version"),
            _ if header.mesh != self.mesh => foreign("another mesh"),
            _ if self.boot.is_empty() || header.boot != self.boot => {
                foreign("before the node booted")
            }
            Ok(age) if age <= LONGEST => {
                let both = body::read(body).ok_or_else(damaged)?;
                Ok((both, age))
            }
            Ok(_) | Err(_) => foreign("another day"),
        }
    }

    fn write(&self, mesh: &Mesh, now: SystemTime) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        }
        let written = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut header = Header {
            version: VERSION,
            mesh: self.mesh.clone(),
            boot: self.boot.clone(),
            written,
            body: NO_DIGEST.to_owned(),
        };
        file::replace_with(&self.path, 0o600, |file| {
            // The digest takes the place of another one as long, once it is known.
            write_line(&mut *file, &header)?;
            header.body = hex(write_body(&mut *file, mesh, header.hash())?);
            file.rewind()?;
            write_line(file, &header)
        })
    }

    /// Keeps it in step with what the control plane says, until `stop`, and once more then.
    pub async fn keep(self, mesh: MeshReader, status: StatusReader, stop: CancellationToken) {
        let mut written = None;
        loop {
            let stopping = stop.is_cancelled();
            let snapshot = mesh.load();
            let version = snapshot.version();
            // What is only remembered is not written again, lest it seem to be new.
            let known = status.borrow().synced();
            if known && !(stopping && written == Some(version)) {
                let kept = self.clone();
                let write = move || kept.write(&snapshot, SystemTime::now());
                match tokio::task::spawn_blocking(write).await {
                    Ok(Ok(())) => written = Some(version),
                    Ok(Err(error)) => {
                        tracing::warn!(error = chain(&error), path = %self.path.display(),
                        "failed to write down what is known of the mesh; tried again")
                    }
                    Err(error) => tracing::error!(%error, "writing down the mesh panicked"),
                }
            }
            if stopping {
                return;
            }
            let pause = if known { PAUSE } else { UNKNOWN_PAUSE };
            // Either way it is looked at again.
            stop.run_until_cancelled(due(&mesh, written, pause)).await;
        }
    }
}

/// Waits until there may be something to write.
async fn due(mesh: &MeshReader, written: Option<u64>, pause: Duration) {
    tokio::time::sleep(pause).await;
    let mut changes = mesh.changes();
    changes.mark_unchanged();
    if written == Some(mesh.load().version()) {
        // Unchanged, it is refreshed now and then.
        drop(tokio::time::timeout(REFRESH, changes.changed()).await);
    }
}

impl Header {
    /// A hash that has all of it but the digest.
    fn hash(&self) -> Sha256 {
        let Self { version, mesh, boot, written, body: _ } = self;
        Sha256::new_with_prefix(format!("{version}\n{mesh}\n{boot}\n{written}\n"))
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_line(mut file: impl Write, header: &Header) -> io::Result<()> {
    let mut line = serde_json::to_vec(header)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Writes the body; gives the hash with it.
fn write_body(file: &mut File, mesh: &Mesh, hash: Sha256) -> io::Result<Sha256> {
    let mut body = Hashed { inner: BufWriter::new(file), hash };
    body::write(mesh, &mut body)?;
    body.flush()?;
    Ok(body.hash)
}

/// Hashes what it hands on.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.hash.update(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
