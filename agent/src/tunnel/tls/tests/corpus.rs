//! Replays what the fuzz target of `tests/fuzz` found to be worth keeping.

use std::path::Path;

use self::records::{Ends, records};

#[path = "../../../../../tests/fuzz/src/records.rs"]
#[expect(unreachable_pub, reason = "it is part of the fuzz target too")]
mod records;

#[test]
fn rustls_hears_the_same_whoever_goes_on_with_ours() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/records");
    let (ends, mut count) = (Ends::default(), 0);
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        // The name of the file that fails is all one needs to know.
        eprintln!("{}", path.display());
        records(&ends, &std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 10, "{count} files in {}", folder.display());
}
