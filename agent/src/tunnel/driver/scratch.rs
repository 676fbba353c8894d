//! Buffers of the thread, shared by its tunnels: an idle tunnel holds none.
//!
//! Each is as large as it will be from the start: memory is what was written to, and to grow would
//! copy and leave a hole. What nobody used for a while is let go.

use std::cell::{Cell, RefCell};

/// Received at once, in bytes.
pub(super) const RECEIVE: usize = 512 << 10;
/// What a record that is not all there may add, in bytes: its longest payload, and header.
const PARTIAL: usize = 20 << 10;
/// Frames of one pass, in bytes, and what their headers and records add.
const FRAMES: usize = 576 << 10;
/// Larger buffers are not kept, in bytes.
const KEEP: usize = 2 << 20;
/// Buffers of sealed records kept.
const KEEP_SEALED: usize = 4;

thread_local! {
    static RECEIVED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static PLAIN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SEALED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static USED: Cell<bool> = const { Cell::new(false) };
}

/// Lets go of the thread's buffers, if none was used since the last call. Not in the middle of a pass.
pub fn free_buffers() {
    if !USED.take() {
        RECEIVED.take();
        PLAIN.take();
        SEALED.take();
    }
}

/// An empty buffer for what arrives. Give it back; the next to ask has none else.
pub(super) fn received() -> Vec<u8> {
    USED.set(true);
    sized(RECEIVED.take(), RECEIVE + PARTIAL)
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
    USED.set(true);
    sized(PLAIN.take(), FRAMES)
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
    let kept = SEALED.with_borrow_mut(Vec::pop);
    sized(kept.unwrap_or_default(), FRAMES)
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

fn sized(buffer: Vec<u8>, bytes: usize) -> Vec<u8> {
    if buffer.capacity() == 0 { Vec::with_capacity(bytes) } else { buffer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_kept_while_they_are_used_and_let_go_after() {
        let mut buffer = received();
        let size = buffer.capacity();
        buffer.push(7);
        give_back_received(buffer);
        free_buffers();
        assert_eq!(RECEIVED.take().capacity(), size);
        give_back_plain(plain());
        give_back_sealed(sealed());
        free_buffers();
        assert_ne!(PLAIN.take().capacity(), 0);
        give_back_plain(plain());
        USED.set(false);
        free_buffers();
        assert_eq!(PLAIN.take().capacity(), 0);
        assert!(SEALED.take().is_empty());
    }
}
