//! A tunnel's deadlines: is the peer alive, has there been no stream for long.

use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::super::limits::Limits;
use super::broken::Broken;

/// Seconds without a byte that are made up for at most.
const MAX_REFILLS: u64 = 60;

/// One timer for all deadlines of a tunnel.
pub(super) struct Clock {
    sleep: Pin<Box<Sleep>>,
    waker: Waker,
    interval: Duration,
    patience: Duration,
    idle: Duration,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// When to look after the peer next.
    look: Instant,
    /// The PING that is out, since when.
    asked: Option<Instant>,
    refilled: Instant,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// Ask the peer whether it lives.
    Ping,
    /// There has been no stream for long.
    Idle,
}

impl Clock {
    pub(super) fn new(limits: &Limits, idle: Duration, waker: Waker) -> Self {
        let now = Instant::now();
        let look = now + limits.ping_interval;
        Self {
            sleep: Box::pin(sleep_until(now)),
            waker,
            interval: limits.ping_interval,
            patience: limits.ping_timeout,
            idle,
            armed: None,
            look,
            asked: None,
            refilled: now,
        }
    }

    /// The peer has sent something. Tells how many whole seconds have passed since it last told so.
    pub(super) fn heard(&mut self) -> u64 {
        self.asked = None;
        let passed = self.refilled.elapsed().as_secs();
        if passed > 0 {
            self.refilled = Instant::now();
        }
        passed.min(MAX_REFILLS)
    }

    /// What is due, with no stream since `idle_since`.
    ///
    /// # Errors
    /// The peer is silent.
    pub(super) fn due(&mut self, idle_since: Option<Instant>) -> Result<Due, Broken> {
        let now = Instant::now();
        self.armed = None;
        if let Some(asked) = self.asked
            && now >= asked + self.patience
        {
            return Err(Broken::Silent(self.patience));
        }
        if idle_since.is_some_and(|since| now >= since + self.idle) {
            return Ok(Due::Idle);
        }
        if now < self.look {
            return Ok(Due::Nothing);
        }
        self.look = now + self.interval;
        if self.asked.is_some() {
            return Ok(Due::Nothing);
        }
        self.asked = Some(now);
        Ok(Due::Ping)
    }

    /// Has the clock's key noted at the next deadline.
    pub(super) fn arm(&mut self, idle_since: Option<Instant>) {
        let asked = self.asked.map(|asked| asked + self.patience);
        let idle = idle_since.map(|since| since + self.idle);
        let next = [asked, idle].into_iter().flatten().fold(self.look, Instant::min);
        // The usual case: what is armed is early enough, and looks again then.
        if self.armed.is_none_or(|armed| armed > next) {
            self.armed = Some(next);
            self.sleep.as_mut().reset(next);
            if self.sleep.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready() {
                self.waker.wake_by_ref();
            }
        }
    }
}
