//! What the programs have to say. They do only when the kernel refuses them something, which should never be.

use aya::Ebpf;
use aya_log::EbpfLogger;

/// The buffer of the node's programs, as what passes it on.
pub(super) struct Log(Option<Box<dyn FnMut() + Send>>);

impl Log {
    /// That of an instance. Without one the programs work as well.
    pub(super) fn of(object: &mut Ebpf) -> Self {
        match EbpfLogger::init(object) {
            Ok(mut logger) => Self(Some(Box::new(move || logger.flush()))),
            Err(error) => {
                tracing::warn!(%error, "the eBPF programs' log cannot be read");
                Self(None)
            }
        }
    }

    /// Hands what is there to our own log.
    pub(super) fn pass_on(&mut self) {
        if let Some(pass_on) = &mut self.0 {
            pass_on();
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Log").field(&self.0.is_some()).finish()
    }
}
