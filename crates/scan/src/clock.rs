//! Time since a scan began. The scanning core only sees this trait; the system clock lives here and belongs to the box.

use std::time::{Duration, Instant};

/// Tells how long a scan has been running.
pub trait Clock {
    fn elapsed(&self) -> Duration;
}

/// The monotonic clock of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
