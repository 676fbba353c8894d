//! The module under test, built alone, and what drives it.

#[path = "../../../agent/src/tunnel"]
pub mod tunnel {
    pub mod h2;
    pub mod tls;
}

pub mod answers;
pub mod drive;
pub mod oracle;
pub mod records;
pub mod replies;
pub mod script;
pub mod verdict;
pub mod wire;

/// The header decoder by itself.
#[path = "../../../agent/src/tunnel/h2"]
pub mod headers {
    #[allow(dead_code, unused_imports, reason = "only its decoder is of use here")]
    mod hpack;

    /// Decodes blocks in a row until one is refused.
    pub fn decode<'a>(blocks: impl Iterator<Item = &'a [u8]>) {
        let mut decoder = hpack::Decoder::new(hpack::TABLE_SIZE);
        for block in blocks {
            let mut bytes = 0;
            let decoded =
                decoder.decode(block, usize::MAX, |name, value| bytes += name.len() + value.len());
            // Each byte refers to at most one entry.
            assert!(bytes <= (block.len() + 1) * (hpack::TABLE_SIZE + block.len() * 2));
            if decoded.is_err() {
                return;
            }
        }
    }
}
