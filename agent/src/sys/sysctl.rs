//! Network settings under `/proc/sys/net`, of the namespace that the calling thread is in.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens it, so these work inside
//! [`super::Netns::enter`] without mounting anything. That holds for every mount of it: a container's
//! own is read-only under `sys`, so there the host's is used.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The mount of proc(5) that settings are written through.
static PROC: OnceLock<PathBuf> = OnceLock::new();

/// Says where proc(5) is mounted so that its `sys` can be written; `/proc` unless said. Call it once, at
/// start: later calls change nothing.
pub fn use_proc(mount: &Path) {
    PROC.get_or_init(|| mount.to_owned());
}

/// Reads a setting such as `net.ipv4.tcp_fwmark_accept`.
///
/// # Errors
/// This kernel or namespace has no such setting.
pub fn read(name: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(name))?.trim().to_owned())
}

/// Reads an IPv4 setting of a device, or of `all`; the device's name may have dots.
///
/// # Errors
/// No such setting or device.
pub fn read_of_device(device: &str, setting: &str) -> io::Result<String> {
    let path = path("net.ipv4.conf").join(device).join(setting);
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

/// Changes a setting.
///
/// # Errors
/// No such setting, no permission, or the value is refused.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(name), value)
}

fn path(name: &str) -> PathBuf {
    let proc = PROC.get().map_or_else(|| Path::new("/proc"), PathBuf::as_path);
    proc.join("sys").join(name.replace('.', "/"))
}
