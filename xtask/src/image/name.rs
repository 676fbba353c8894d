//! An image's name, as registries and runtimes resolve it.

use std::fmt;

use anyhow::{Result, bail};

/// Repository and tag, with the registry that runtimes take where none is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    repository: String,
    tag: String,
}

impl Name {
    /// # Errors
    /// There is no tag, or it is not one.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some((repository, tag)) = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
        else {
            bail!("`{text}` has no tag: name:tag");
        };
        let in_tag = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
        let fits = !tag.is_empty() && tag.len() <= 128 && tag.chars().all(in_tag);
        if !fits || tag.starts_with(['.', '-']) {
            bail!("`{tag}` cannot be a tag");
        }
        let in_name = |letter: char| letter.is_ascii_alphanumeric() || "._-/:".contains(letter);
        if repository.is_empty() || !repository.chars().all(in_name) {
            bail!("`{repository}` cannot be an image's name");
        }
        Ok(Self { repository: full(repository), tag: tag.to_owned() })
    }

    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// `sotto` is `docker.io/library/sotto`: the first part is a registry if it can be a host.
fn full(repository: &str) -> String {
    match repository.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => {
            repository.to_owned()
        }
        Some(_) => format!("docker.io/{repository}"),
        None => format!("docker.io/library/{repository}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    fn check(text: &str, expected: &str) {
        let name = Name::parse(text).expect("it is a name");
        assert_eq!(name.to_string(), expected);
    }

    #[test]
    fn short_names_are_completed_as_runtimes_do() {
        check("sotto:dev", "docker.io/library/sotto:dev");
        check("lab/sotto:e2e", "docker.io/lab/sotto:e2e");
        check("registry.example/sotto:0.1.0", "registry.example/sotto:0.1.0");
        check("localhost:5000/a/sotto:1", "localhost:5000/a/sotto:1");
        check("localhost/sotto:1", "localhost/sotto:1");
    }

    #[test]
    fn what_has_no_tag_is_refused() {
        for text in ["sotto", "localhost:5000/sotto", "sotto:", "sotto:-a", ":a", "so tto:a"] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
    }
}
