//! Settings that count from the moment they are changed: a folder with a file for each, as Kubernetes mounts a `ConfigMap`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum as _;

use super::{AgentConfig, ConfigErrors, Mistakes, UnknownDestinations};
use crate::observe::log;

const LOG_LEVEL: &str = "log-level";
const UNKNOWN_DESTINATIONS: &str = "unknown-destinations";
const DRAIN_DEADLINE: &str = "drain-deadline";
/// Every file, named as the flag in whose place it counts.
const FILES: [&str; 3] = [LOG_LEVEL, UNKNOWN_DESTINATIONS, DRAIN_DEADLINE];

/// What of the agent's configuration can change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the flag of the same name")]
pub struct LiveSettings {
    pub log_level: String,
    pub unknown_destinations: UnknownDestinations,
    pub drain_deadline: Duration,
}

impl LiveSettings {
    /// What the flags say.
    pub fn of(config: &AgentConfig) -> Self {
        Self {
            log_level: config.log_level.clone(),
            unknown_destinations: config.unknown_destinations,
            drain_deadline: config.drain_deadline,
        }
    }

    /// What of a folder to look at for a change.
    pub fn files(folder: &Path) -> Vec<PathBuf> {
        // The folder itself, for files that come, go, or have no business there.
        let all = FILES.iter().map(|name| folder.join(name));
        all.chain([folder.to_owned()]).collect()
    }

    /// What counts by a folder: a setting without a file stays what the flags say; so do all without a folder.
    ///
    /// # Errors
    /// Every mistake in it, told at once.
    pub fn read(&self, folder: &Path) -> Result<Self, ConfigErrors> {
        let mut mistakes = Mistakes::default();
        let names = names(folder, &mut mistakes);
        let mut text = |name| {
            let there = names.iter().any(|there| there == name);
            there.then(|| content(&folder.join(name), name, &mut mistakes)).flatten()
        };
        let texts = FILES.map(&mut text);
        let [log_level, unknown, drain] = &texts;
        let mut read = self.clone();
        if let Some(level) = log_level {
            match log::check_level(level) {
                Ok(()) => read.log_level.clone_from(level),
                Err(error) => mistakes.note(LOG_LEVEL, &error.to_string()),
            }
        }
        if let Some(text) = unknown {
            match UnknownDestinations::from_str(text, false) {
                Ok(mode) => read.unknown_destinations = mode,
                Err(_) => mistakes
                    .note(UNKNOWN_DESTINATIONS, &format!("{text:?} is neither direct nor proxy")),
            }
        }
        if let Some(deadline) = drain.as_ref().and_then(|t| mistakes.duration(DRAIN_DEADLINE, t)) {
            read.drain_deadline = deadline;
        }
        mistakes.into_result(Some(read))
    }
}

/// The files of a folder. Kubernetes' own begin with two dots.
fn names(folder: &Path, mistakes: &mut Mistakes) -> Vec<String> {
    let listed = std::fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    let mut names: Vec<String> = match listed {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            mistakes.note("--live-settings", &format!("cannot list {}: {error}", folder.display()));
            Vec::new()
        }
    };
    names.retain(|name| !name.starts_with(".."));
    for name in names.iter().filter(|name| !FILES.contains(&name.as_str())) {
        let can = FILES.join(", ");
        mistakes.note(name, &format!("is no setting that can change while the agent runs: {can}"));
    }
    names
}

fn content(file: &Path, name: &str, mistakes: &mut Mistakes) -> Option<String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) => {
            mistakes.note(name, &format!("cannot read {}: {error}", file.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> LiveSettings {
        LiveSettings {
            log_level: "info".into(),
            unknown_destinations: UnknownDestinations::Direct,
            drain_deadline: Duration::from_secs(25),
        }
    }

    /// What a folder with these files says.
    fn read(files: &[(&str, &str)]) -> Result<LiveSettings, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        std::fs::create_dir(folder.path().join("..2026_11_30")).unwrap();
        flags().read(folder.path()).map_err(|errors| errors.0)
    }

    #[test]
    fn a_file_counts_in_place_of_its_flag_and_no_file_leaves_the_flag() {
        assert_eq!(read(&[]), Ok(flags()));
        assert_eq!(flags().read(Path::new("/nowhere/at/all")), Ok(flags()));
        let one = read(&[("drain-deadline", "90s\n")]);
        assert_eq!(one, Ok(LiveSettings { drain_deadline: Duration::from_secs(90), ..flags() }));
        let all = [
            ("log-level", "warn,access=off"),
            ("unknown-destinations", "proxy\n"),
            ("drain-deadline", "1m"),
        ];
        let expected = LiveSettings {
            log_level: "warn,access=off".into(),
            unknown_destinations: UnknownDestinations::Proxy,
            drain_deadline: Duration::from_secs(60),
        };
        assert_eq!(read(&all), Ok(expected));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let mistakes = read(&[
            ("log-level", "loud"),
            ("unknown-destinations", "refuse"),
            ("drain-deadline", "soon"),
            ("threads", "4"),
        ]);
        let mistakes = mistakes.unwrap_err();
        for name in ["log-level", "unknown-destinations", "drain-deadline", "threads"] {
            assert!(mistakes.iter().any(|told| told.starts_with(name)), "{name}: {mistakes:?}");
        }
    }
}
