//! A layer: files as a tar archive, compressed. The same entries and the same time are the same bytes.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Something in the image.
pub(super) struct Entry {
    /// From the root, without a slash before it.
    path: &'static str,
    mode: u32,
    kind: Kind,
}

enum Kind {
    File(Vec<u8>),
    Folder,
    Link(&'static str),
}

impl Entry {
    pub(super) fn file(path: &'static str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path, mode, kind: Kind::File(bytes.into()) }
    }

    pub(super) const fn folder(path: &'static str, mode: u32) -> Self {
        Self { path, mode, kind: Kind::Folder }
    }

    pub(super) const fn link(path: &'static str, target: &'static str) -> Self {
        Self { path, mode: 0o777, kind: Kind::Link(target) }
    }
}

/// A layer as it is stored, and the digest of what is in it.
pub(super) struct Layer {
    pub(super) bytes: Vec<u8>,
    /// Of the archive before it was compressed: `sha256:` and hexadecimal digits.
    pub(super) diff_id: String,
}

impl Layer {
    /// All entries are root's and of the same time.
    pub(super) fn pack(entries: &[Entry], epoch_seconds: u64) -> Result<Self> {
        let mut tar = Builder::new(Vec::new());
        for folder in folders(entries) {
            append(
                &mut tar,
                &Entry { path: folder, mode: 0o755, kind: Kind::Folder },
                epoch_seconds,
            )?;
        }
        let mut sorted: Vec<&Entry> = entries.iter().collect();
        sorted.sort_by_key(|entry| entry.path);
        for entry in sorted {
            append(&mut tar, entry, epoch_seconds)?;
        }
        let plain = tar.into_inner()?;
        // Without a name and a time: these would be the machine's.
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&plain)?;
        Ok(Self { bytes: gzip.finish()?, diff_id: digest(&plain) })
    }
}

/// The folders that entries lie in and that are no entries themselves, parents first.
fn folders(entries: &[Entry]) -> BTreeSet<&'static str> {
    let named: BTreeSet<&str> = entries.iter().map(|entry| entry.path).collect();
    let mut found = BTreeSet::new();
    for entry in entries {
        for folder in Path::new(entry.path).ancestors().skip(1) {
            let folder = folder.to_str().unwrap_or_default();
            if !folder.is_empty() && !named.contains(folder) {
                found.insert(folder);
            }
        }
    }
    found
}

fn append(tar: &mut Builder<Vec<u8>>, entry: &Entry, epoch_seconds: u64) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_mode(entry.mode);
    header.set_mtime(epoch_seconds);
    header.set_uid(0);
    header.set_gid(0);
    match &entry.kind {
        Kind::File(bytes) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, entry.path, bytes.as_slice())?;
        }
        Kind::Folder => {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            tar.append_data(&mut header, format!("{}/", entry.path), std::io::empty())?;
        }
        Kind::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, entry.path, target)?;
        }
    }
    Ok(())
}

/// `sha256:` and hexadecimal digits, as images name content.
pub(super) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let digits: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", digits.concat())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::{Entry, Layer, digest};

    fn entries() -> Vec<Entry> {
        vec![
            Entry::link("var/run", "/run"),
            Entry::file("usr/bin/a", 0o755, "program"),
            Entry::folder("tmp", 0o1777),
        ]
    }

    fn plain(layer: &Layer) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut gzip = flate2::read::GzDecoder::new(layer.bytes.as_slice());
        gzip.read_to_end(&mut bytes).expect("it is compressed");
        bytes
    }

    #[test]
    fn entries_are_sorted_roots_and_of_one_time() {
        let layer = Layer::pack(&entries(), 7).expect("it packs");
        let plain = plain(&layer);
        let mut archive = tar::Archive::new(plain.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().expect("it is an archive") {
            let entry = entry.expect("an entry");
            let header = entry.header();
            assert_eq!(header.mtime().expect("a time"), 7);
            assert_eq!((header.uid().expect("a user"), header.gid().expect("a group")), (0, 0));
            let path = entry.path().expect("a path").display().to_string();
            seen.push(format!("{path} {:o}", header.mode().expect("a mode")));
        }
        let expected =
            ["usr/ 755", "usr/bin/ 755", "var/ 755", "tmp/ 1777", "usr/bin/a 755", "var/run 777"];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_same_content_is_the_same_bytes_in_any_order() {
        let one = Layer::pack(&entries(), 7).expect("it packs");
        let mut turned = entries();
        turned.reverse();
        let other = Layer::pack(&turned, 7).expect("it packs");
        assert_eq!(one.bytes, other.bytes);
        assert_eq!(one.diff_id, digest(&plain(&one)));
    }

    #[test]
    fn digests_are_named_as_images_do() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
    }
}
