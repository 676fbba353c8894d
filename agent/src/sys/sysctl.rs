//! Network settings under `/proc/sys/net`, of the namespace that the calling thread is in.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens it, so these work inside
//! [`super::Netns::enter`] without mounting anything.

use std::io;
use std::path::PathBuf;

/// Reads a setting such as `net.ipv4.tcp_fwmark_accept`.
///
/// # Errors
/// This kernel or namespace has no such setting.
pub fn read(name: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(name))?.trim().to_owned())
}

/// Changes a setting.
///
/// # Errors
/// No such setting, no permission, or the value is refused.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(name), value)
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name.replace('.', "/"))
}
