//! What one connection has moved, and for how long Sekisho waited for its peer. The stream that carries it writes, the
//! sweep reads; when the sweep decides that it is too slow, whoever waits on the stream is woken and finds it ended.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use super::{Moment, Reason};

/// Not waiting.
const NEVER: u64 = u64::MAX;
/// Too slow, told, and kept: in the place of a reason's number.
const TOLD: u8 = u8::MAX;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Receive,
    Send,
}

/// Counts of one connection; all of them may be read and written at once.
#[derive(Debug)]
pub struct Progress {
    pub(super) opened: Moment,
    received: AtomicU64,
    sent: AtomicU64,
    receiving: Wait,
    sending: Wait,
    /// The reason's number and one; 0 while it is kept.
    evicted: AtomicU8,
    wakers: Mutex<[Option<Waker>; 2]>,
}

/// Time spent waiting for the peer.
#[derive(Debug)]
struct Wait {
    since: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    pub(super) fn new(opened: Moment) -> Progress {
        let wait = || Wait { since: AtomicU64::new(NEVER), total: AtomicU64::new(0) };
        Progress {
            opened,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            receiving: wait(),
            sending: wait(),
            evicted: AtomicU8::new(0),
            wakers: Mutex::default(),
        }
    }

    /// Bytes have come from the peer.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes were taken by the peer's side of the connection.
    pub fn sent(&self, bytes: usize, now: impl FnOnce() -> Moment) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sending.end(now);
    }

    /// The peer takes no more for now.
    pub fn send_is_blocked(&self, now: impl FnOnce() -> Moment) {
        self.sending.begin(now);
    }

    /// From here on the peer has to send: the rest of a body.
    pub fn expect(&self, now: Moment) {
        self.receiving.begin(|| now);
    }

    /// The peer has sent all that it had to, or no longer has to.
    pub fn expect_nothing(&self, now: impl FnOnce() -> Moment) {
        self.receiving.end(now);
    }

    /// Whoever waits in this direction is woken when the connection is ended.
    pub fn register(&self, direction: Direction, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut wakers[direction as usize] {
            Some(known) if known.will_wake(waker) => {}
            place => *place = Some(waker.clone()),
        }
    }

    /// Why the connection is to end; none while it is kept.
    pub fn evicted(&self) -> Option<Reason> {
        let number = self.evicted.load(Ordering::Acquire);
        Reason::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Whether the sweep still looks at it: it was neither ended nor, where nothing is ended, told already.
    pub(super) fn is_judged(&self) -> bool {
        self.evicted.load(Ordering::Acquire) == 0
    }

    pub(super) fn note_told(&self) {
        self.evicted.store(TOLD, Ordering::Release);
    }

    pub(super) fn evict(&self, reason: Reason) {
        self.evicted.store(reason as u8 + 1, Ordering::Release);
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.iter_mut().filter_map(Option::take).for_each(Waker::wake);
    }

    pub(super) fn bytes(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Receive => self.received.load(Ordering::Relaxed),
            Direction::Send => self.sent.load(Ordering::Relaxed),
        }
    }

    /// Nanoseconds spent waiting so far.
    pub(super) fn waited(&self, direction: Direction, now: Moment) -> u64 {
        match direction {
            Direction::Receive => self.receiving.total(now),
            Direction::Send => self.sending.total(now),
        }
    }
}

impl Wait {
    fn begin(&self, now: impl FnOnce() -> Moment) {
        if self.since.load(Ordering::Relaxed) == NEVER {
            self.since.store(now().0, Ordering::Relaxed);
        }
    }

    /// Reads no clock where nothing was waited for, which is nearly always.
    fn end(&self, now: impl FnOnce() -> Moment) {
        if self.since.load(Ordering::Relaxed) == NEVER {
            return;
        }
        let since = self.since.swap(NEVER, Ordering::Relaxed);
        self.total.fetch_add(now().0.saturating_sub(since), Ordering::Relaxed);
    }

    fn total(&self, now: Moment) -> u64 {
        let running = match self.since.load(Ordering::Relaxed) {
            NEVER => 0,
            since => now.0.saturating_sub(since),
        };
        self.total.load(Ordering::Relaxed) + running
    }
}
