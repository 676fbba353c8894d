//! A bounded queue between those who log and the thread that writes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::queue::{LINES, LinesPerPod, LostLines, Place, Places};

/// How often it is told whose lines were left out.
const TELL: Duration = Duration::from_secs(1);
/// How long the writer lets lines gather: to wake it costs a connection more than its line does, and a
/// writer that is not waiting need not be woken.
const GATHER: Duration = Duration::from_millis(20);

enum Message {
    Line(Vec<u8>, Place),
    Stop,
}

/// Hands lines to the writer's thread.
#[derive(Clone)]
pub(super) struct QueueWriter {
    queue: SyncSender<Message>,
    places: Arc<Places>,
}

impl QueueWriter {
    /// Starts the thread; it ends when the guard is dropped.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        of_pods: LinesPerPod,
    ) -> io::Result<(Self, LogGuard)> {
        // Room for what threads that write at the same moment have too much.
        let (queue, lines) = sync_channel(2 * LINES);
        let places = Arc::new(Places::new(of_pods));
        let of_thread = Arc::clone(&places);
        let write = move || write_lines(out, &lines, &of_thread);
        let thread = Builder::new().name("log".to_owned()).spawn(write)?;
        let guard =
            LogGuard { queue: queue.clone(), places: Arc::clone(&places), thread: Some(thread) };
        Ok((Self { queue, places }, guard))
    }
}

impl Write for QueueWriter {
    /// Takes one whole line: the formatter writes each with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(place) = self.places.take()
            && self.queue.try_send(Message::Line(line.to_vec(), place)).is_err()
        {
            // The thread is gone, at the very end.
            self.places.give_back(place);
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
    places: Arc<Places>,
    thread: Option<JoinHandle<()>>,
}

impl LogGuard {
    /// A reader of the number of lines lost, for the metrics.
    pub fn lost_lines(&self) -> impl Fn() -> LostLines + Send + Sync + 'static {
        let places = Arc::clone(&self.places);
        move || places.lost()
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
fn write_lines(out: impl Write, lines: &Receiver<Message>, places: &Places) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, out);
    let (mut broken, mut told) = (false, Instant::now());
    while let Some(mut message) = next(lines, places) {
        if matches!(message, Message::Line(..)) {
            std::thread::sleep(GATHER);
        }
        loop {
            match message {
                Message::Line(line, place) => {
                    broken = broken || out.write_all(&line).is_err();
                    places.give_back(place);
                }
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
        if told.elapsed() >= TELL {
            told = Instant::now();
            tell(places);
        }
    }
}

/// The next message; none at the end. What was left out is told in time though nothing else is logged.
fn next(lines: &Receiver<Message>, places: &Places) -> Option<Message> {
    loop {
        if !places.has_left_out() {
            return lines.recv().ok();
        }
        match lines.recv_timeout(TELL) {
            Ok(message) => return Some(message),
            Err(RecvTimeoutError::Timeout) => tell(places),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Tells whose lines were left out; through the queue, as any line.
fn tell(places: &Places) {
    for (pod, lines) in places.take_left_out() {
        tracing::warn!(target: super::ACCESS, %pod, lines, "lines left out");
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
        let (mut writer, guard) =
            QueueWriter::start(shared.clone(), LinesPerPod(None)).expect("a thread");
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
        let (mut writer, guard) =
            QueueWriter::start(shared.clone(), LinesPerPod(None)).expect("a thread");
        let line = [b'x'; 1024];
        for _ in 0..LINES * 2 {
            writer.write_all(&line).expect("never fails");
        }
        assert!(guard.lost_lines()().dropped > 0);
        drop(stuck);
        drop(guard);
    }
}
