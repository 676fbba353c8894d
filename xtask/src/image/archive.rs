//! The archive: an OCI image layout as a tar file, with what older engines read beside it.
//!
//! `index.json` names one index with a manifest for each platform. Runtimes, registries' tools and newer engines read
//! that; engines that know no OCI layout read `manifest.json`, which names the first platform alone.
//! Formats: <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md>

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::layer::{Layer, digest};
use super::name::Name;
use super::platform::Platform;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a container of the image runs.
const ENTRYPOINT: &str = "/usr/local/bin/sotto";

/// One platform's part.
pub(super) struct Image {
    pub(super) platform: Platform,
    pub(super) layer: Layer,
}

/// An image of one name, for one platform or more.
pub(super) struct Archive<'a> {
    pub(super) name: &'a Name,
    /// Annotations of the index and the manifests, and labels of the containers.
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) images: &'a [Image],
}

/// Content by its digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Takes content in, and returns its descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        self.0.insert(digest, bytes);
        descriptor
    }

    fn add_json(&mut self, media_type: &str, value: &Value) -> Result<Value> {
        Ok(self.add(media_type, serde_json::to_vec(value)?))
    }
}

impl Archive<'_> {
    /// `created` is the time of all files, as RFC 3339 has it.
    pub(super) fn pack(&self, created: &str) -> Result<Vec<u8>> {
        let mut blobs = Blobs::default();
        let mut manifests = Vec::new();
        let mut legacy = None;
        for image in self.images {
            let config = blobs.add_json(CONFIG, &self.config(image, created))?;
            let layer = blobs.add(LAYER, image.layer.bytes.clone());
            legacy.get_or_insert_with(|| self.legacy(&config, &layer));
            let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config,
                "layers": [layer], "annotations": self.annotations() });
            let mut manifest = blobs.add_json(MANIFEST, &manifest)?;
            manifest["platform"] =
                json!({ "os": "linux", "architecture": image.platform.architecture() });
            manifests.push(manifest);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests,
            "annotations": self.annotations() });
        let mut named = blobs.add_json(INDEX, &index)?;
        // The specification's own is the tag alone; containerd and engines go by the whole name.
        named["annotations"] = json!({ "org.opencontainers.image.ref.name": self.name.tag(),
            "io.containerd.image.name": self.name.to_string() });
        let entry = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });
        self.tar(blobs, &entry, &legacy.context("an image of no platform")?)
    }

    fn tar(&self, blobs: Blobs, entry: &Value, legacy: &Value) -> Result<Vec<u8>> {
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        let mut files = BTreeMap::new();
        files.insert(String::from("oci-layout"), serde_json::to_vec(&layout)?);
        files.insert(String::from("index.json"), serde_json::to_vec(entry)?);
        files.insert(String::from("manifest.json"), serde_json::to_vec(legacy)?);
        files.extend(blobs.0.into_iter().map(|(digest, bytes)| (path(&digest), bytes)));
        let mut tar = Builder::new(Vec::new());
        for folder in ["blobs/", "blobs/sha256/"] {
            let mut header = header(EntryType::Directory, 0o755, 0);
            tar.append_data(&mut header, folder, std::io::empty())?;
        }
        for (path, bytes) in &files {
            let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice())?;
        }
        Ok(tar.into_inner()?)
    }

    fn annotations(&self) -> Value {
        self.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
    }

    fn config(&self, image: &Image, created: &str) -> Value {
        json!({
            "created": created,
            "os": "linux",
            "architecture": image.platform.architecture(),
            "config": {
                "Entrypoint": [ENTRYPOINT],
                "Env": ["PATH=/usr/local/bin"],
                "Labels": self.annotations(),
            },
            "rootfs": { "type": "layers", "diff_ids": [image.layer.diff_id] },
            "history": [{ "created": created, "created_by": "cargo xtask image" }],
        })
    }

    /// <https://github.com/moby/docker-image-spec/blob/v1.3.1/spec.md#combined-image-json--filesystem-changeset-format>
    fn legacy(&self, config: &Value, layer: &Value) -> Value {
        let path = |descriptor: &Value| path(descriptor["digest"].as_str().unwrap_or_default());
        // Engines take Docker Hub's names without their registry.
        let name = self.name.repository();
        let name = name.strip_prefix("docker.io/library/").unwrap_or(name);
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let tag = format!("{name}:{}", self.name.tag());
        json!([{ "Config": path(config), "RepoTags": [tag], "Layers": [path(layer)] }])
    }
}

fn path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use serde_json::Value;

    use super::super::layer::{Entry, Layer, digest};
    use super::super::name::Name;
    use super::super::platform::Platform;
    use super::{Archive, Image};

    fn archive() -> Vec<u8> {
        let name = Name::parse("registry.example/sotto:0.1.0").expect("a name");
        let image = |platform, program: &str| {
            let entry = Entry::file("usr/local/bin/sotto", 0o755, program);
            Image { platform, layer: Layer::pack(&[entry], 7).expect("it packs") }
        };
        let images = [image(Platform::Amd64, "a"), image(Platform::Arm64, "b")];
        let labels = vec![("org.opencontainers.image.version", String::from("0.1.0"))];
        let archive = Archive { name: &name, labels, images: &images };
        archive.pack("1970-01-01T00:00:07Z").expect("it packs")
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let mut files = BTreeMap::new();
        for entry in archive.entries().expect("it is an archive") {
            let mut entry = entry.expect("an entry");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            files.insert(entry.path().expect("a path").display().to_string(), bytes);
        }
        files
    }

    /// What a descriptor names, after looking at its digest and size.
    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let name = descriptor["digest"].as_str().expect("a digest");
        let bytes = &files[&format!("blobs/{}", name.replace(':', "/"))];
        assert_eq!(digest(bytes), name);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    fn read(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn every_platform_is_found_from_the_index_with_its_own_program() {
        let files = files(&archive());
        assert_eq!(read(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let entry = read(&files["index.json"]);
        let named = &entry["manifests"][0];
        let annotations = &named["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "registry.example/sotto:0.1.0");
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "0.1.0");
        let index = read(blob(&files, named));
        assert_eq!(index["annotations"]["org.opencontainers.image.version"], "0.1.0");
        let mut programs = Vec::new();
        for descriptor in index["manifests"].as_array().expect("manifests") {
            let manifest = read(blob(&files, descriptor));
            let config = read(blob(&files, &manifest["config"]));
            let of_platform = &descriptor["platform"]["architecture"];
            assert_eq!(&config["architecture"], of_platform);
            assert_eq!(config["config"]["Labels"], manifest["annotations"]);
            assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/sotto");
            let layer = blob(&files, &manifest["layers"][0]);
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(layer).read_to_end(&mut plain).expect("gzip");
            assert_eq!(config["rootfs"]["diff_ids"][0], digest(&plain));
            let program = self::files(&plain).remove("usr/local/bin/sotto").expect("a program");
            programs.push((of_platform.clone(), program));
        }
        let expected = [("amd64".into(), b"a".to_vec()), ("arm64".into(), b"b".to_vec())];
        assert_eq!(programs, expected);
    }

    #[test]
    fn engines_without_oci_layouts_find_the_first_platform() {
        let files = files(&archive());
        let legacy = read(&files["manifest.json"]);
        assert_eq!(legacy[0]["RepoTags"][0], "registry.example/sotto:0.1.0");
        let config = read(&files[legacy[0]["Config"].as_str().expect("a path")]);
        assert_eq!(config["architecture"], "amd64");
        assert!(files.contains_key(legacy[0]["Layers"][0].as_str().expect("a path")));
    }

    #[test]
    fn nothing_but_what_is_named_lies_in_it_and_it_is_the_same_each_time() {
        let one = archive();
        assert_eq!(one, archive());
        let blobs = files(&one).into_keys().filter(|path| path.starts_with("blobs/sha256/"));
        // Of each platform layer, configuration and manifest; and the index. The folder itself.
        assert_eq!(blobs.count(), 2 * 3 + 1 + 1);
    }
}
