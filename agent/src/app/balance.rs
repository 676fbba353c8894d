//! Which data thread serves a pod's next connection.
//!
//! One thread, the pod's home, accepts all of a pod's connections. It keeps the first few, so that a pod that
//! does little wakes one thread and fills one tunnel; each further one goes to the thread that has the fewest of
//! the pod's, itself before others. Tunnels of peers last long and carry much: they are spread from the first.
//!
//! The counts are read and raised by the home thread alone; any thread lowers them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::capture::Role;
use crate::connection::{Means, Quota};

/// Connections that stay at home whatever the other threads have.
const KEPT: usize = 2;

/// What a pod has open on each data thread.
#[derive(Debug)]
pub(super) struct Balance {
    home: usize,
    threads: Box<[Load]>,
    /// How much it may have open on all of them.
    quota: Arc<Quota>,
}

/// What a pod has open on one thread.
#[derive(Debug, Default)]
struct Load {
    connections: AtomicUsize,
    tunnels: AtomicUsize,
}

/// A connection's place on a thread, until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    balance: Arc<Balance>,
    thread: usize,
    role: Role,
}

impl Balance {
    /// Nothing open on any of so many threads, and a part of the node's means.
    pub(super) fn new(home: usize, threads: usize, means: &Arc<Means>) -> Arc<Self> {
        let threads = (0..threads).map(|_| Load::default()).collect();
        Arc::new(Self { home, threads, quota: means.quota() })
    }

    /// What all that the pod has open counts against.
    pub(super) fn quota(&self) -> Arc<Quota> {
        Arc::clone(&self.quota)
    }

    /// The thread that accepts.
    pub(super) fn home(&self) -> usize {
        self.home
    }

    /// A place for the next connection.
    pub(super) fn next(self: &Arc<Self>, role: Role) -> Seat {
        self.seat(role, self.choose(role))
    }

    /// A place at home.
    pub(super) fn at_home(self: &Arc<Self>, role: Role) -> Seat {
        self.seat(role, self.home)
    }

    fn choose(&self, role: Role) -> usize {
        let open = |thread: usize| self.count(role, thread).load(Ordering::Relaxed);
        if role != Role::Hbone && open(self.home) < KEPT {
            return self.home;
        }
        let count = self.threads.len();
        let from_home = (self.home..count).chain(0..self.home);
        // The first of those that have equally few.
        from_home.min_by_key(|thread| open(*thread)).unwrap_or(self.home)
    }

    fn seat(self: &Arc<Self>, role: Role, thread: usize) -> Seat {
        self.count(role, thread).fetch_add(1, Ordering::Relaxed);
        Seat { balance: Arc::clone(self), thread, role }
    }

    fn count(&self, role: Role, thread: usize) -> &AtomicUsize {
        let load = &self.threads[thread];
        if role == Role::Hbone { &load.tunnels } else { &load.connections }
    }
}

impl Seat {
    /// On which thread it is.
    pub(super) fn thread(&self) -> usize {
        self.thread
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.balance.count(self.role, self.thread).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::means;

    fn threads(seats: &[Seat]) -> Vec<usize> {
        seats.iter().map(Seat::thread).collect()
    }

    fn take(balance: &Arc<Balance>, role: Role, count: usize) -> Vec<Seat> {
        (0..count).map(|_| balance.next(role)).collect()
    }

    #[test]
    fn the_first_stay_at_home_and_the_rest_even_it_out() {
        let balance = Balance::new(1, 3, &means());
        let seats = take(&balance, Role::Outbound, 9);
        assert_eq!(threads(&seats), [1, 1, 2, 0, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn connections_one_after_the_other_never_leave_home() {
        let balance = Balance::new(1, 2, &means());
        let mut last = balance.next(Role::Outbound);
        for _ in 0..10 {
            // The one before has not quite ended.
            let next = balance.next(Role::Outbound);
            assert_eq!(next.thread(), 1);
            last = next;
        }
        drop(last);
        assert_eq!(threads(&take(&balance, Role::Plaintext, 2)), [1, 1]);
    }

    #[test]
    fn tunnels_are_spread_from_the_first_and_apart_from_connections() {
        let balance = Balance::new(0, 2, &means());
        let _connections = take(&balance, Role::Outbound, 2);
        let tunnels = take(&balance, Role::Hbone, 4);
        assert_eq!(threads(&tunnels), [0, 1, 0, 1]);
    }

    #[test]
    fn what_has_ended_makes_room() {
        let balance = Balance::new(0, 2, &means());
        let mut seats = take(&balance, Role::Hbone, 4);
        seats.remove(1);
        seats.remove(2);
        let next = take(&balance, Role::Hbone, 3);
        assert_eq!(threads(&next), [1, 1, 0]);
    }

    #[test]
    fn one_thread_serves_all() {
        let balance = Balance::new(0, 1, &means());
        let seats = take(&balance, Role::Outbound, 5);
        assert!(seats.iter().all(|seat| seat.thread() == 0));
        assert_eq!(balance.at_home(Role::Hbone).thread(), 0);
    }
}
