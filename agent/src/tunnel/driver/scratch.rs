//! Buffers of the thread, shared by its tunnels: an idle tunnel holds none.
//!
//! Each is as large as it will be from the start: memory is what was written to, and to grow would
//! copy and leave a hole. What nobody used for a while is let go.

use std::cell::{Cell, RefCell};

/// Received at once, in bytes.
pub(super) const RECEIVE: usize = 512 << 10;
/// Room for what is received and for the start of its first record, or for the frames of one pass
/// with their headers, in bytes.
const PLAIN: usize = 576 << 10;
/// Room for a pass's frames in records, in bytes.
const SEALED: usize = PLAIN;
/// Larger buffers are not kept, in bytes.
const KEEP: usize = 2 << 20;
/// Buffers of sealed records kept.
const KEEP_SEALED: usize = 4;

thread_local! {
    static KEPT_PLAIN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static KEPT_SEALED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static USED: Cell<bool> = const { Cell::new(false) };
}

/// Lets go of the thread's buffers, if none was used since the last call. Not in the middle of a pass.
pub(in super::super) fn free_buffers() {
    if !USED.take() {
        KEPT_PLAIN.take();
        KEPT_SEALED.take();
    }
}

/// An empty buffer for what arrives and is opened in place, or for frames before they are sealed: a pass
/// never needs both at once, and finds the second still in the processor's cache. Give it back; the next
/// to ask has none else.
pub(super) fn plain() -> Vec<u8> {
    USED.set(true);
    sized(KEPT_PLAIN.take(), PLAIN)
}

/// Takes back what [`plain`] gave.
pub(super) fn give_back_plain(mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() <= KEEP {
        KEPT_PLAIN.set(buffer);
    }
}

/// An empty buffer for sealed records.
pub(super) fn sealed() -> Vec<u8> {
    let kept = KEPT_SEALED.with_borrow_mut(Vec::pop);
    sized(kept.unwrap_or_default(), SEALED)
}

/// Takes back what [`sealed`] gave.
pub(super) fn give_back_sealed(mut buffer: Vec<u8>) {
    buffer.clear();
    KEPT_SEALED.with_borrow_mut(|kept| {
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
        let mut buffer = plain();
        let size = buffer.capacity();
        buffer.push(7);
        give_back_plain(buffer);
        give_back_sealed(sealed());
        free_buffers();
        assert_eq!(KEPT_PLAIN.take().capacity(), size);
        give_back_plain(plain());
        USED.set(false);
        free_buffers();
        assert_eq!(KEPT_PLAIN.take().capacity(), 0);
        assert!(KEPT_SEALED.take().is_empty());
    }
}
