//! Telling an error with everything that led to it.

use std::error::Error;

/// An error and its causes, on one line: `failed to x: failed to y: no such file`.
///
/// Displays name one step each and never their source, so this is for the edge, once.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some wrappers print their source themselves.
        if !line.contains(&next) {
            line.push_str(": ");
            line.push_str(&next);
        }
        cause = error.source();
    }
    line
}
