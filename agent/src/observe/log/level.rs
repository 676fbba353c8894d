//! Log levels by target, changeable while the process runs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// Why a level was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// No such level.
    #[error("{0:?} is no log level: use off, error, warn, info, debug or trace, or target=level")]
    Unknown(String),
    /// The logger is gone.
    #[error("the logger is gone")]
    Gone,
}

/// Whether levels are well-formed, as `info,access=off`.
///
/// # Errors
/// They are not.
pub fn check_level(text: &str) -> Result<(), LevelError> {
    Levels::parse(text).map(drop)
}

/// Levels by target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Levels {
    default: LevelFilter,
    targets: BTreeMap<String, LevelFilter>,
}

impl Levels {
    pub(super) fn parse(text: &str) -> Result<Self, LevelError> {
        let mut levels = Self { default: LevelFilter::INFO, targets: BTreeMap::new() };
        levels.change(text)?;
        Ok(levels)
    }

    /// Applies `level` and `target=level` (or `target:level`, as istioctl writes it), comma separated.
    fn change(&mut self, text: &str) -> Result<(), LevelError> {
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let split = part.rsplit_once('=').or_else(|| part.rsplit_once(':'));
            let unknown = |_| LevelError::Unknown(part.to_owned());
            match split {
                Some((target, level)) if !target.is_empty() => {
                    let level = LevelFilter::from_str(level).map_err(unknown)?;
                    self.targets.insert(target.to_owned(), level);
                }
                _ => self.default = LevelFilter::from_str(part).map_err(unknown)?,
            }
        }
        Ok(())
    }

    pub(super) fn targets(&self) -> Targets {
        let targets = self.targets.iter().map(|(target, level)| (target.clone(), *level));
        Targets::new().with_default(self.default).with_targets(targets)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default)?;
        self.targets.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

type Apply = Arc<dyn Fn(Targets) -> bool + Send + Sync>;

/// Changes log levels at run time.
#[derive(Clone)]
pub struct LogControl {
    initial: Arc<Mutex<Levels>>,
    current: Arc<Mutex<Levels>>,
    apply: Apply,
}

impl LogControl {
    pub(super) fn new(levels: Levels, apply: Apply) -> Self {
        let initial = Arc::new(Mutex::new(levels.clone()));
        Self { initial, current: Arc::new(Mutex::new(levels)), apply }
    }

    /// Control over no logger: it remembers what it was told.
    pub fn detached() -> Self {
        let levels = Levels { default: LevelFilter::INFO, targets: BTreeMap::new() };
        Self::new(levels, Arc::new(|_| true))
    }

    /// The levels now, as `info,access=off`.
    pub fn current(&self) -> String {
        self.current.lock().to_string()
    }

    /// Changes some levels, as `debug` or `access=off,sotto::xds=trace`.
    ///
    /// # Errors
    /// A level is malformed: nothing is changed then.
    pub fn change(&self, text: &str) -> Result<(), LevelError> {
        let mut levels = self.current.lock().clone();
        levels.change(text)?;
        self.set(levels)
    }

    /// Makes these the levels, as if the start had been with them.
    ///
    /// # Errors
    /// A level is malformed: nothing is changed then.
    pub fn settle(&self, text: &str) -> Result<(), LevelError> {
        let levels = Levels::parse(text)?;
        *self.initial.lock() = levels.clone();
        self.set(levels)
    }

    /// Back to the levels of the start.
    ///
    /// # Errors
    /// The logger is gone.
    pub fn reset(&self) -> Result<(), LevelError> {
        let initial = self.initial.lock().clone();
        self.set(initial)
    }

    fn set(&self, levels: Levels) -> Result<(), LevelError> {
        if !(self.apply)(levels.targets()) {
            return Err(LevelError::Gone);
        }
        *self.current.lock() = levels;
        Ok(())
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl").field("current", &self.current()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, ()>) {
        let control = LogControl::detached();
        let got = control.change(text).map(|()| control.current()).map_err(|_| ());
        assert_eq!(got, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn levels_apply_to_all_or_to_a_target() {
        check("debug", Ok("debug"));
        check("access=off", Ok("info,access=off"));
        check("access:off", Ok("info,access=off"));
        check("warn,sotto::xds=trace", Ok("warn,sotto::xds=trace"));
        check("", Ok("info"));
        check("loud", Err(()));
        check("access=loud", Err(()));
        check("=debug", Err(()));
    }

    #[test]
    fn a_bad_level_changes_nothing_and_reset_goes_back() {
        let control = LogControl::detached();
        control.change("debug").expect("a level");
        assert!(control.change("trace,nonsense").is_err());
        assert_eq!(control.current(), "debug");
        control.reset().expect("resets");
        assert_eq!(control.current(), "info");
    }

    #[test]
    fn settled_levels_are_what_reset_goes_back_to() {
        let control = LogControl::detached();
        control.change("access=off").expect("a level");
        control.settle("warn").expect("a level");
        assert_eq!(control.current(), "warn");
        control.change("trace").expect("a level");
        assert!(control.settle("loud").is_err());
        control.reset().expect("resets");
        assert_eq!(control.current(), "warn");
    }
}
