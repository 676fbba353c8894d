//! The bill of materials (CycloneDX, JSON): what is linked into the one program of the image.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::needs;

/// Beside the archive too, for those who ask before they pull.
const BILL: &str = "target/image/sotto.cdx.json";

/// Writes what the program is made of, each crate with version, licence and checksum, and returns it.
pub(super) fn write(sh: &Shell, epoch_seconds: u64) -> Result<Vec<u8>> {
    needs::cargo(sh, &needs::CYCLONEDX)?;
    cmd!(
        sh,
        "cargo cyclonedx --quiet --manifest-path agent/Cargo.toml --format json --spec-version 1.5"
    )
    .args(["--override-filename", "sotto-bill", "--no-build-deps"])
    .run()?;
    let text = sh.read_file("agent/sotto-bill.json");
    // The tool writes one beside each manifest of the workspace.
    for package in ["agent", "ebpf/abi", "proto", "tests", "xtask", "ebpf"] {
        sh.remove_path(format!("{package}/sotto-bill.json"))?;
    }
    let bill = settled(&text?, &sh.current_dir().display().to_string(), epoch_seconds)?;
    sh.create_dir("target/image")?;
    sh.write_file(BILL, &bill)?;
    eprintln!("{BILL} written");
    Ok(bill)
}

/// The same for each run: without a number of its own, with the sources' time, and without this machine's folders.
fn settled(text: &str, root: &str, epoch_seconds: u64) -> Result<Vec<u8>> {
    let text = text.replace(root, "/sotto");
    let mut bill: Value = serde_json::from_str(&text).context("the bill is not JSON")?;
    let fields = bill.as_object_mut().context("the bill is not an object")?;
    fields.remove("serialNumber");
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(epoch_seconds));
    bill["metadata"]["timestamp"] = time.to_string().into();
    let mut bytes = serde_json::to_vec_pretty(&bill)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::settled;

    #[test]
    fn bills_of_two_runs_on_two_machines_are_equal() {
        let bill = |root: &str, serial: &str, time: &str| {
            let text = format!(
                r#"{{"serialNumber":"{serial}","metadata":{{"timestamp":"{time}"}},"components":[{{"bom-ref":"path+file://{root}/proto"}}]}}"#
            );
            String::from_utf8(settled(&text, root, 0).expect("it is a bill")).expect("UTF-8")
        };
        let one = bill("/a/b", "urn:1", "2001-01-01T00:00:00Z");
        assert_eq!(one, bill("/c", "urn:2", "2002-02-02T00:00:00Z"));
        assert!(one.contains("path+file:///sotto/proto"), "{one}");
        assert!(one.contains("1970-01-01T00:00:00Z"), "{one}");
    }
}
