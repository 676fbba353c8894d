//! Few records for the answers of many applications.
//!
//! What one receive brings to many applications they answer one by one. The first answer wakes the thread while the
//! others still wait for a processor, and would travel alone: a record and a send for each side, twice. So those that
//! can run are let run first, once a pass (sched_yield(2)). Where nothing else can run, that costs and delays nothing;
//! where others keep the processor, it is done so rarely that it takes half a percent of the time.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// A yield that takes no longer may be repeated at once: it was spent on small answers. A program that computes takes
/// its whole slice, which is longer.
const BRIEF: Duration = Duration::from_millis(1);
/// After one that took longer, none for so many times as long.
const REST: u32 = 200;

thread_local! {
    /// The thread does not yield before.
    static RESTS_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Applications of a tunnel that were given bytes, and may be about to answer.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Applications given bytes in this pass.
    given: usize,
    /// Those of passes before that have not answered.
    awaited: usize,
    /// The next pass was put off for them already.
    waited: bool,
}

impl Answers {
    /// An application was given bytes.
    pub(super) fn gave(&mut self) {
        self.given += 1;
    }

    /// A pass has given what it had, and has so many streams ready.
    pub(super) fn passed(&mut self, ready: usize) {
        self.awaited = match std::mem::take(&mut self.given) {
            0 => self.awaited.saturating_sub(ready),
            given => given,
        };
        self.waited = false;
    }

    /// Whether the ready streams are so few of those awaited that it is worth to wait. True once a pass.
    pub(super) fn are_few(&mut self, ready: usize) -> bool {
        let few = ready > 0 && ready * 2 < self.awaited;
        few && !std::mem::replace(&mut self.waited, true)
    }
}

/// Lets applications run that wait for this thread's processor; tells whether it did.
pub(super) fn let_applications_run() -> bool {
    let start = Instant::now();
    if RESTS_UNTIL.get().is_some_and(|until| start < until) {
        return false;
    }
    std::thread::yield_now();
    RESTS_UNTIL.set(rest_after(start.elapsed()).map(|rest| start + rest));
    true
}

/// How long not to yield after a yield that took so long.
fn rest_after(took: Duration) -> Option<Duration> {
    (took > BRIEF).then(|| took * REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass that gives bytes to so many applications, with so many streams ready.
    fn pass(answers: &mut Answers, given: usize, ready: usize) {
        (0..given).for_each(|_| answers.gave());
        answers.passed(ready);
    }

    #[test]
    fn the_first_of_many_answers_is_waited_with_once() {
        let mut answers = Answers::default();
        assert!(!answers.are_few(1), "nobody was asked");
        pass(&mut answers, 16, 0);
        assert!(!answers.are_few(0), "nothing is there to wait with");
        assert!(answers.are_few(1));
        assert!(!answers.are_few(2), "once");
        answers.passed(7);
        assert!(answers.are_few(4), "nine are awaited");
        answers.passed(4);
        assert!(!answers.are_few(3), "most of five are there");
        answers.passed(3);
        assert!(!answers.are_few(1));
    }

    #[test]
    fn answers_to_what_came_last_are_awaited() {
        let mut answers = Answers::default();
        pass(&mut answers, 16, 0);
        pass(&mut answers, 3, 2);
        assert!(answers.are_few(1));
        pass(&mut answers, 2, 0);
        assert!(!answers.are_few(1), "half");
    }

    #[test]
    fn a_yield_that_was_not_brief_is_made_up_for() {
        assert_eq!(rest_after(Duration::from_micros(100)), None);
        assert_eq!(rest_after(Duration::from_millis(3)), Some(Duration::from_millis(600)));
    }

    #[test]
    fn a_thread_that_rests_does_not_yield() {
        RESTS_UNTIL.set(Some(Instant::now() + Duration::from_secs(60)));
        assert!(!let_applications_run());
        RESTS_UNTIL.set(Some(Instant::now()));
        assert!(let_applications_run());
    }
}
