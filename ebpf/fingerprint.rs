// The fingerprint of the kernel programs' sources. Included by the agent's build script, which compares it with
// the one recorded beside the prebuilt object, and by `cargo xtask ebpf`, which records it.

/// What the object is built from, below the root of the work tree.
pub(super) const FINGERPRINTED: [&str; 4] =
    ["ebpf/Cargo.toml", "ebpf/src", "ebpf/abi/Cargo.toml", "ebpf/abi/src"];

/// SHA-256, in hex, over the names and contents of all source files, in the order of their names.
pub(super) fn fingerprint(root: &std::path::Path) -> std::io::Result<String> {
    use sha2::Digest;

    let mut files = Vec::new();
    for entry in FINGERPRINTED {
        collect(&root.join(entry), &mut files)?;
    }
    files.sort();
    let mut hash = sha2::Sha256::new();
    for file in files {
        let name = file.strip_prefix(root).map_err(std::io::Error::other)?;
        let content = std::fs::read(&file)?;
        hash.update(format!("{}\0{}\0", name.display(), content.len()));
        hash.update(content);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(path: &std::path::Path, files: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() || path.extension().is_some_and(|end| end == "rs") {
            collect(&path, files)?;
        }
    }
    Ok(())
}
