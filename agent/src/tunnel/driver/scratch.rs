//! Buffers of the thread, shared by its tunnels: an idle tunnel holds none.

use std::cell::{Cell, RefCell};

/// Received at once, in bytes.
pub(super) const RECEIVE: usize = 512 << 10;
/// Larger buffers are not kept, in bytes.
const KEEP: usize = 2 << 20;
/// Buffers of sealed records kept.
const KEEP_SEALED: usize = 4;

thread_local! {
    static RECEIVED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static PLAIN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SEALED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer for what arrives. Give it back; the next to ask has none else.
pub(super) fn received() -> Vec<u8> {
    RECEIVED.take()
}

/// Takes back what [`received`] gave.
pub(super) fn give_back_received(mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() <= KEEP {
        RECEIVED.set(buffer);
    }
}

/// An empty buffer for frames before they are sealed.
pub(super) fn plain() -> Vec<u8> {
    PLAIN.take()
}

/// Takes back what [`plain`] gave.
pub(super) fn give_back_plain(mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() <= KEEP {
        PLAIN.set(buffer);
    }
}

/// An empty buffer for sealed records.
pub(super) fn sealed() -> Vec<u8> {
    SEALED.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes back what [`sealed`] gave.
pub(super) fn give_back_sealed(mut buffer: Vec<u8>) {
    buffer.clear();
    SEALED.with_borrow_mut(|kept| {
        if kept.len() < KEEP_SEALED && buffer.capacity() <= KEEP {
            kept.push(buffer);
        }
    });
}
