//! What the programs have to say. They do only when the kernel refuses them something, which should never be.

use aya_log::EbpfLogger;

/// The buffer of the node's programs, as what passes it on.
pub(super) enum Log {
    /// Not looked at yet; that of the program of this number.
    Unopened(u32),
    /// Passes on what is there.
    Open(Box<dyn FnMut() + Send>),
    /// Without it the programs work as well.
    Unreadable,
}

impl Log {
    /// Hands what is there to our own log. The buffer is looked for at the first time, which the start need not
    /// wait for.
    pub(super) fn pass_on(&mut self) {
        if let &mut Self::Unopened(program) = self {
            *self = Self::open(program);
        }
        if let Self::Open(pass_on) = self {
            pass_on();
        }
    }

    fn open(program: u32) -> Self {
        match EbpfLogger::init_from_id(program) {
            Ok(mut logger) => Self::Open(Box::new(move || logger.flush())),
            Err(error) => {
                tracing::warn!(%error, "the eBPF programs' log cannot be read");
                Self::Unreadable
            }
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unopened(program) => f.debug_tuple("Unopened").field(program).finish(),
            Self::Open(_) => f.write_str("Open"),
            Self::Unreadable => f.write_str("Unreadable"),
        }
    }
}
