//! Which of a tunnel's many sockets have something to do.
//!
//! One task polls them all, so each socket's waker is its own: it notes the key and wakes the task
//! once. A pass then serves those that are ready, and looks at no other.

use std::sync::Arc;
use std::task::{Wake, Waker};

use parking_lot::Mutex;

use super::super::h2::StreamId;

/// What woke the tunnel's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The tunnel's own connection.
    Wire,
    /// A deadline.
    Clock,
    /// The tunnel shall end with its last stream.
    Drain,
    /// The tunnel shall end now.
    Abort,
    /// Somebody changed the tunnel's state: there may be frames to send.
    State,
    /// A stream's application.
    Stream(StreamId),
}

/// The keys woken since the last look. Locked by one thread only, and but for a moment.
#[derive(Debug, Default)]
pub(super) struct Ready {
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    /// At most two for each socket: a waker is woken once for each registration.
    keys: Vec<Key>,
    task: Option<Waker>,
}

impl Ready {
    /// A waker that notes `key`.
    pub(super) fn waker(self: &Arc<Self>, key: Key) -> Waker {
        Arc::new(Mark { key, ready: Arc::clone(self) }).into()
    }

    /// Notes a key, and wakes the task unless it is awake already.
    pub(super) fn mark(&self, key: Key) {
        let mut list = self.list.lock();
        list.keys.push(key);
        let task = if list.keys.len() == 1 { list.task.clone() } else { None };
        drop(list);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Takes the keys noted so far into `keys`, which must be empty; the next one wakes `task`.
    pub(super) fn take(&self, keys: &mut Vec<Key>, task: &Waker) {
        let mut list = self.list.lock();
        std::mem::swap(&mut list.keys, keys);
        if !list.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            list.task = Some(task.clone());
        }
    }
}

struct Mark {
    key: Key,
    ready: Arc<Ready>,
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.ready.mark(self.key);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.mark(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn many_sockets_wake_the_task_once_until_it_has_looked() {
        let (ready, task) = (Arc::new(Ready::default()), Arc::new(Task::default()));
        let waker = Waker::from(Arc::clone(&task));
        let mut keys = Vec::new();
        ready.take(&mut keys, &waker);
        let (wire, clock) = (ready.waker(Key::Wire), ready.waker(Key::Clock));
        wire.wake_by_ref();
        clock.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        ready.take(&mut keys, &waker);
        assert_eq!(keys, [Key::Wire, Key::Clock]);
        keys.clear();
        wire.wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
    }
}
