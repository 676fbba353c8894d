//! Files that change in one step: a reader sees the old content or the new.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Gives `path` a new content in one step, also across a power cut.
///
/// # Errors
/// The file beside it that takes its place cannot be written or renamed.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, mode, |file| file.write_all(content))
}

/// The same, with what is written.
///
/// # Errors
/// What `write` has, and as above.
pub fn replace_with(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    // Beside it, hidden, and with an extension that no container runtime reads.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.sotto-new"));
    let mut file = File::create(&new)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    write(&mut file)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Removes a file; tells whether it was there.
///
/// # Errors
/// It is there and stays.
pub fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
