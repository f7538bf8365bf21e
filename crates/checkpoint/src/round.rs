//! Transactions that a gate takes at one moment, and those among them that follow a precedent: a transaction before them that
//! was over at once and that they differ from in nothing that was looked at. What the precedent was permitted they are
//! permitted again, by a permit each; what it left in the record they leave too, by an event each with what is their own.
//!
//! A precedent ends with the state of the checkpoint that it was decided by, so it outlives no change of policy, lists,
//! knowledge, users, locations or settings, and with the minute at which a rule may begin or end. Where a rule reads what each
//! transaction has of its own there is none.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::Guard;
use model::{Disposition, Event, FieldId, Gate, Pattern, Repeat, Session, Timestamp, TransactionId};
use policy::{Permit, Policy, Standing};

use crate::identity::Whereabouts;
use crate::{Checkpoint, Location, State};

/// Facts of which every transaction has its own.
const OWN: &[FieldId] = &[FieldId::Time, FieldId::SourcePort, FieldId::Reference];

/// Facts that transactions of one client share.
const CLIENT: &[FieldId] = &[FieldId::SourceIp, FieldId::SourceInternalIp, FieldId::SourceCountry, FieldId::SourceContinent];

/// Who may follow a transaction of a gate, by what the rules read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followers {
    Nobody,
    /// Transactions of the same address.
    SameClient,
    /// Transactions from the same place.
    SamePlace,
}

impl Followers {
    pub(crate) fn of(policy: &Policy, knowledge: &intel::Snapshot, gate: Gate) -> Followers {
        if policy.reads(gate, OWN) {
            Followers::Nobody
        } else if policy.reads(gate, CLIENT) || knowledge.knows_places() {
            Followers::SameClient
        } else {
            Followers::SamePlace
        }
    }
}

/// A transaction that others may follow.
#[derive(Debug)]
pub struct Precedent {
    /// Of the state that decided it.
    generation: u64,
    gate: Gate,
    disposition: Disposition,
    /// Leave for the act that ended it; none where it was refused.
    leave: Option<Standing>,
    pattern: Arc<Pattern>,
    whereabouts: Whereabouts,
    /// The one address that may follow, where not all of the place may.
    client: Option<IpAddr>,
    from: Timestamp,
    until: Timestamp,
}

/// What follows from a precedent.
#[derive(Debug)]
pub enum Followed {
    /// The same act is permitted, once.
    Permitted(Permit),
    /// The same refusal is due.
    Refused,
}

impl Precedent {
    /// What an event and its session leave for others to follow; none where the session is not where its address is, or where
    /// the rules read what each has of its own.
    pub(crate) fn of(
        state: &State,
        session: &Session,
        event: &Event,
        disposition: Disposition,
        leave: Option<Standing>,
    ) -> Option<Precedent> {
        let gate = session.gate;
        let address = session.client.ip().to_canonical();
        let client = match state.followers(gate) {
            Followers::Nobody => return None,
            Followers::SameClient => Some(address),
            Followers::SamePlace => None,
        };
        let whereabouts = state.directory.whereabouts(address);
        let until = leave.as_ref().map_or_else(|| state.policy.steady_until(gate, event.time), Standing::until);
        state.directory.is_at(whereabouts, session).then(|| Precedent {
            generation: state.generation,
            gate,
            disposition,
            leave,
            pattern: Arc::new(Pattern::of(event)),
            whereabouts,
            client,
            from: event.time,
            until,
        })
    }

    /// Shares the facts of an earlier precedent where they are the same, so that the record meets fewer patterns.
    #[must_use]
    pub fn sharing(self, earlier: &Precedent) -> Precedent {
        let is_like = self.pattern.is_like(&earlier.pattern);
        Precedent { pattern: if is_like { Arc::clone(&earlier.pattern) } else { self.pattern }, ..self }
    }

    fn covers(&self, state: &State, client: IpAddr, moment: Timestamp) -> bool {
        self.generation == state.generation
            && (self.from..self.until).contains(&moment)
            && self.whereabouts == state.directory.whereabouts(client)
            && self.client.is_none_or(|only| only == client)
    }
}

/// One moment of a gate, under one state of the checkpoint. Its events are recorded together when it is dropped, however that
/// comes about.
pub struct Round<'c> {
    checkpoint: &'c Checkpoint,
    state: Guard<Arc<State>>,
    moment: Timestamp,
    repeats: Vec<Repeat>,
    /// Transactions that may still be numbered, and the most that the round may have.
    numbers: std::ops::Range<u64>,
    transactions_max: usize,
}

impl<'c> Round<'c> {
    pub(crate) fn new(checkpoint: &'c Checkpoint, moment: Timestamp, transactions_max: usize) -> Round<'c> {
        let state = checkpoint.0.state.load();
        Round { checkpoint, state, moment, repeats: Vec::new(), numbers: 0..0, transactions_max }
    }

    /// The location document of a client by its network, as [`Checkpoint::locate`] has it at the beginning of the round.
    pub fn locate(&self, client: IpAddr) -> Option<Location> {
        self.state.directory.locate(client, None)
    }

    /// Lets a transaction of a client follow a precedent, and records it. None where it is no precedent for this one.
    pub fn follow(&mut self, precedent: &Precedent, client: SocketAddr) -> Option<Followed> {
        if !precedent.covers(&self.state, client.ip().to_canonical(), self.moment) {
            return None;
        }
        let followed = match &precedent.leave {
            Some(leave) => Followed::Permitted(self.state.policy.permit_again(leave, self.moment)?),
            None => Followed::Refused,
        };
        let reference = TransactionId(self.number());
        self.repeats.push(Repeat { time: self.moment, client, reference, pattern: Arc::clone(&precedent.pattern) });
        crate::counts::count(precedent.gate, precedent.disposition);
        Some(followed)
    }

    fn number(&mut self) -> u64 {
        if let Some(number) = self.numbers.next() {
            return number;
        }
        self.numbers = self.checkpoint.next_transactions(self.transactions_max as u64);
        self.repeats.reserve_exact(self.transactions_max);
        self.numbers.next().unwrap_or_else(|| self.checkpoint.next_transaction())
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if !self.repeats.is_empty() {
            self.checkpoint.0.recorder.record_repeats(std::mem::take(&mut self.repeats));
        }
    }
}
