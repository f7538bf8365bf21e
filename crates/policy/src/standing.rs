//! Leave that stands: what was permitted to one transaction is permitted to the next one like it, as long as it is the same
//! policy and no hour has come at which a rule begins or ends. Whoever asks answers for the likeness: [`Policy::reads`] says
//! which facts it may not differ in. Each use is a permit of its own, and is used up like any other.

use std::sync::{Arc, Weak};

use model::{Destination, FieldId, Gate, Station, Timestamp};

use crate::expression::Expression;
use crate::schedule::Validity;
use crate::snapshot::Rules;
use crate::{Permit, Policy};

/// Hours of rules are whole minutes, and so are the offsets of every time zone in use.
const MINUTE_MICROS: i64 = 60_000_000;

/// A permit that was given, without the permit: it lets nothing pass by itself.
#[derive(Debug)]
pub struct Standing {
    /// The policy that gave it. It is not kept alive, and its address is not used again while this is held.
    rules: Weak<Rules>,
    destination: Destination,
    station: Station,
    from: Timestamp,
    until: Timestamp,
}

impl Standing {
    /// The first moment at which it is over; a time before the one at which it began is none of its own either.
    pub fn until(&self) -> Timestamp {
        self.until
    }
}

impl Policy {
    /// What stands of a permit that this policy has given at a moment; none where it obliges to something.
    pub fn standing(&self, permit: &Permit, gate: Gate, now: Timestamp) -> Option<Standing> {
        let until = self.steady_until(gate, now);
        (permit.obligations().is_empty() && until > now).then(|| Standing {
            rules: Arc::downgrade(self.rules()),
            destination: permit.destination().clone(),
            station: permit.station(),
            from: now,
            until,
        })
    }

    /// The same leave once more; none where another policy gave it, or where a rule may have begun or ended since.
    pub fn permit_again(&self, standing: &Standing, now: Timestamp) -> Option<Permit> {
        let is_mine = std::ptr::eq(standing.rules.as_ptr(), Arc::as_ptr(self.rules()));
        let is_now = (standing.from..standing.until).contains(&now);
        (is_mine && is_now).then(|| Permit::mint(standing.destination.clone(), Vec::new(), standing.station))
    }

    /// Until when the rules of a gate that are in force at a moment stay so: no decision about the same facts changes before.
    pub fn steady_until(&self, gate: Gate, now: Timestamp) -> Timestamp {
        let next_minute = Timestamp(now.0.div_euclid(MINUTE_MICROS).saturating_add(1).saturating_mul(MINUTE_MICROS));
        let timed = self.rules().timed.iter().filter_map(|place| self.rules().compiled.get(*place as usize));
        timed
            .filter(|rule| rule.gate == gate)
            .filter_map(|rule| rule.validity.changes_before(now, next_minute))
            .min()
            .unwrap_or(Timestamp(i64::MAX))
    }

    /// Whether any rule of a gate reads one of these facts.
    pub fn reads(&self, gate: Gate, fields: &[FieldId]) -> bool {
        self.rules().compiled.iter().any(|rule| rule.gate == gate && reads(&rule.expression, fields))
    }
}

fn reads(expression: &Expression, fields: &[FieldId]) -> bool {
    let mut found = false;
    expression.fields(&mut |field| found |= fields.contains(&field));
    found
}

impl Validity {
    /// The first moment after this one at which the rule may begin or end to be in force, where there is one at all.
    fn changes_before(&self, now: Timestamp, next_minute: Timestamp) -> Option<Timestamp> {
        if self.has_expired(now) {
            return None;
        }
        let hours = self.has_hours().then_some(next_minute);
        [self.expires(), hours].into_iter().flatten().min()
    }
}
