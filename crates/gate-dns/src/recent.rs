//! Answers that a worker gave a moment ago, by the bytes of their questions. A question that comes again within the same
//! second of its answer's age is answered by the same bytes, under its own number and spelling, where the checkpoint lets it
//! follow the transaction that they were made for. It decides nothing and knows nothing of records: what is kept here is only
//! ever given out with a permit, or as the refusal that it was.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use checkpoint::{Followed, Precedent, Round};
use model::Destination;

use crate::decode::{HEADER_BYTES, Query};
use crate::events::{Counter, count};

/// Questions remembered by one worker: names that are asked more than once a second, each with types and flags.
const ANSWERS_MAX: usize = 16_384;

/// Places in which one question may stand.
const WAYS: usize = 4;

/// A question and its answer that are longer are rare and answered the usual way; this bounds a worker to 20 MiB.
const QUESTION_BYTES_MAX: usize = 320;
const REPLY_BYTES_MAX: usize = 512;

/// A question that comes again within this time is worth remembering, and no answer is remembered for longer.
pub(crate) const RECENT: Duration = Duration::from_secs(1);

pub(crate) struct Recent {
    slots: Box<[Slot]>,
    seed: u64,
}

#[derive(Default)]
struct Slot {
    hash: u64,
    /// When the question was last answered the usual way.
    asked: Option<Instant>,
    answer: Option<Box<Answer>>,
}

/// What a transaction leaves for the next ones like it.
pub(crate) struct Settled {
    pub(crate) precedent: Precedent,
    /// Until when the reply is the same.
    pub(crate) until: Instant,
    pub(crate) counter: Counter,
}

struct Answer {
    /// The message without its number.
    question: Box<[u8]>,
    /// Where the name ends, in question and reply alike.
    name_end: usize,
    reply: Box<[u8]>,
    settled: Settled,
}

/// A question that is not answered from here, by its place.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    hash: u64,
    /// Whether it was asked a moment ago, so that its answer is worth keeping.
    pub(crate) is_repeated: bool,
}

impl Recent {
    pub(crate) fn new() -> Recent {
        // Keyed, so that nobody can crowd the places of others' questions with questions of their choice.
        let seed = RandomState::new().hash_one(ANSWERS_MAX);
        Recent { slots: (0..ANSWERS_MAX).map(|_| Slot::default()).collect(), seed }
    }

    /// Answers a question as a moment ago, at the end of `out`. Otherwise it is to be answered the usual way.
    pub(crate) fn answer(
        &mut self,
        bytes: &[u8],
        client: SocketAddr,
        at: Instant,
        round: &mut Round<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Asked> {
        let hash = hash(self.seed, bytes);
        let slots = self.slots(hash);
        if let Some(slot) = slots.iter_mut().find(|slot| slot.hash == hash && slot.asked.is_some()) {
            if let Some(answer) = slot.answer.as_ref().filter(|answer| answer.is_for(bytes) && at < answer.settled.until)
                && let Some(followed) = round.follow(&answer.settled.precedent, client)
            {
                answer.give(followed, bytes, out);
                return Ok(());
            }
            let before = slot.asked.replace(at);
            return Err(Asked { hash, is_repeated: before.is_some_and(|before| at.saturating_duration_since(before) < RECENT) });
        }
        // Whoever was asked for longest ago makes room.
        if let Some(slot) = slots.iter_mut().min_by_key(|slot| slot.asked) {
            *slot = Slot { hash, asked: Some(at), answer: None };
        }
        Err(Asked { hash, is_repeated: false })
    }

    /// Remembers what a question was answered.
    pub(crate) fn keep(&mut self, asked: Asked, bytes: &[u8], query: &Query, reply: &[u8], settled: Settled) {
        let Some(slot) = self.slots(asked.hash).iter_mut().find(|slot| slot.hash == asked.hash) else { return };
        let name_end = HEADER_BYTES + query.spelling.wire().len();
        // A compressed name, or a reply that does not repeat the question, is none of this place's business.
        let is_repeated = |message: &[u8]| message.get(HEADER_BYTES..name_end) == Some(query.spelling.wire());
        let fits = bytes.len() <= QUESTION_BYTES_MAX && reply.len() <= REPLY_BYTES_MAX;
        let (Some(question), true) = (bytes.get(2..), fits && is_repeated(bytes) && is_repeated(reply)) else { return };
        let Settled { mut precedent, until, counter } = settled;
        if let Some(earlier) = &slot.answer {
            precedent = precedent.sharing(&earlier.settled.precedent);
        }
        let settled = Settled { precedent, until, counter };
        slot.answer = Some(Box::new(Answer { question: question.into(), name_end, reply: reply.into(), settled }));
    }

    fn slots(&mut self, hash: u64) -> &mut [Slot] {
        let set = (hash >> 32) as usize % (ANSWERS_MAX / WAYS);
        self.slots.get_mut(set * WAYS..(set + 1) * WAYS).unwrap_or_default()
    }
}

impl Answer {
    /// The same message but for its number and the spelling of its name. Lengths of labels are no letters.
    fn is_for(&self, bytes: &[u8]) -> bool {
        let (Some(bytes), name) = (bytes.get(2..), HEADER_BYTES - 2..self.name_end - 2) else { return false };
        bytes.len() == self.question.len()
            && bytes.get(..name.start) == self.question.get(..name.start)
            && bytes.get(name.end..) == self.question.get(name.end..)
            && matches!(
                (bytes.get(name.clone()), self.question.get(name)),
                (Some(asked), Some(known)) if asked.eq_ignore_ascii_case(known)
            )
    }

    fn give(&self, followed: Followed, bytes: &[u8], out: &mut Vec<u8>) {
        if let Followed::Permitted(permit) = followed
            && !matches!(permit.into_parts(), (Destination::Client, _))
        {
            return;
        }
        count(self.settled.counter);
        let start = out.len();
        out.extend_from_slice(&self.reply);
        let Some(reply) = out.get_mut(start..) else { return };
        for range in [0..2, HEADER_BYTES..self.name_end] {
            if let (Some(to), Some(from)) = (reply.get_mut(range.clone()), bytes.get(range)) {
                to.copy_from_slice(from);
            }
        }
    }
}

/// A hash of a message without its number that no spelling changes.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    /// Any odd number with bits all over.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    /// What tells letters of two cases apart, in each byte.
    const CASE: u64 = 0x2020_2020_2020_2020;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ (word | CASE)) * u128::from(FACTOR);
        product as u64 ^ (product >> 64) as u64
    };
    let (words, rest) = bytes.get(2..).unwrap_or_default().as_chunks::<8>();
    let hash = words.iter().fold(seed ^ bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    mix(mix(hash, u64::from_le_bytes(last)), seed)
}
