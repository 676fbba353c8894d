//! A bounded queue between those who log and the thread that writes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for the writer; when it is full, lines are dropped.
const QUEUE_LINES: usize = 8192;
/// How long the writer lets lines gather: to wake it costs a connection more than its line does, and a
/// writer that is not waiting need not be woken.
const GATHER: Duration = Duration::from_millis(20);

enum Message {
    Line(Vec<u8>),
    Stop,
}

/// Hands lines to the writer's thread.
#[derive(Clone)]
pub(super) struct QueueWriter {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl QueueWriter {
    /// Starts the thread; it ends when the guard is dropped.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Self, LogGuard)> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let thread =
            Builder::new().name("log".to_owned()).spawn(move || write_lines(out, &lines))?;
        let guard =
            LogGuard { queue: queue.clone(), dropped: Arc::clone(&dropped), thread: Some(thread) };
        Ok((Self { queue, dropped }, guard))
    }
}

impl Write for QueueWriter {
    /// Takes one whole line: the formatter writes each with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for QueueWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Writes what is still queued when dropped.
pub struct LogGuard {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl LogGuard {
    /// A reader of the number of lines dropped, for the metrics.
    pub fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let dropped = Arc::clone(&self.dropped);
        move || dropped.load(Relaxed)
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // Neither can fail in a way worth telling: the only reader of our words is the thread.
        if self.queue.send(Message::Stop).is_ok() && thread.join().is_err() {
            eprintln!("the log writer panicked");
        }
    }
}

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogGuard").finish_non_exhaustive()
    }
}

/// Writes lines until told to stop; a broken output is drained all the same.
fn write_lines(out: impl Write, lines: &Receiver<Message>) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, out);
    let mut broken = false;
    while let Ok(mut message) = lines.recv() {
        if matches!(message, Message::Line(_)) {
            std::thread::sleep(GATHER);
        }
        loop {
            match message {
                Message::Line(line) if !broken => broken = out.write_all(&line).is_err(),
                Message::Line(_) => {}
                Message::Stop => {
                    flush(&mut out, broken);
                    return;
                }
            }
            message = match lines.try_recv() {
                Ok(next) => next,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            };
        }
        broken |= !flush(&mut out, broken);
    }
}

fn flush(out: &mut impl Write, broken: bool) -> bool {
    !broken && out.flush().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_when_the_guard_goes() {
        let shared = Shared::default();
        let (mut writer, guard) = QueueWriter::start(shared.clone()).expect("a thread");
        for i in 0..100 {
            writeln!(writer, "line {i}").expect("never fails");
        }
        drop(guard);
        let text = String::from_utf8(shared.0.lock().clone()).expect("text");
        let expected: String = (0..100).map(|i| format!("line {i}\n")).collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn a_stuck_output_drops_lines_and_holds_nobody() {
        let shared = Shared::default();
        let stuck = shared.0.lock();
        let (mut writer, guard) = QueueWriter::start(shared.clone()).expect("a thread");
        let line = [b'x'; 1024];
        for _ in 0..QUEUE_LINES * 2 {
            writer.write_all(&line).expect("never fails");
        }
        assert!(guard.dropped_lines()() > 0);
        drop(stuck);
        drop(guard);
    }
}
