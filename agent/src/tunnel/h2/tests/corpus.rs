//! Replays what the fuzz targets of `tests/fuzz` found to be worth keeping.

use std::fs;
use std::path::Path;

use self::fuzz::{answers, drive, oracle};
use crate::tunnel::h2::hpack::{Decoder, TABLE_SIZE};

#[path = "../../../../../tests/fuzz/src"]
#[expect(unreachable_pub, reason = "they are part of the fuzz targets too")]
mod fuzz {
    pub(super) mod answers;
    pub(super) mod drive;
    pub(super) mod oracle;
    mod replies;
    mod script;
    mod verdict;
    mod wire;
}

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let mut count = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let input = fs::read(&path).unwrap();
        // The name of the file that fails is all one needs to know.
        eprintln!("{}", path.display());
        run(&input);
        count += 1;
    }
    assert!(count > 10, "{count} files in {}", folder.display());
}

#[test]
fn no_bytes_break_a_connections_invariants() {
    replay("bytes", drive::bytes);
}

#[test]
fn frames_mean_the_same_to_the_crates_server() {
    replay("frames", oracle::frames);
}

#[test]
fn answers_mean_the_same_to_the_crates_client() {
    replay("answers", answers::answers);
}

#[test]
fn no_header_blocks_break_the_decoder() {
    replay("hpack", |input| {
        let mut decoder = Decoder::new(TABLE_SIZE);
        for block in drive::blocks(input) {
            if decoder.decode(block, usize::MAX, |_, _| ()).is_err() {
                return;
            }
            assert!(decoder.table_size() <= TABLE_SIZE);
        }
    });
}
