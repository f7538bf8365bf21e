//! Events that are alike but for who asked from which port and when. The facts that they share are held once, as a
//! [`Pattern`], and each event is the few that are its own. Nothing is left out: [`Repeat::event`] is the whole event.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::{Class, Event, EventId, Facts, FieldId, Timestamp, TransactionId, Value};

/// Facts that many events share.
#[derive(Debug)]
pub struct Pattern {
    pub class: Class,
    /// None of [`OWN_FIELDS`] is in it.
    pub facts: Facts,
    /// Whether the events tell their client's address and port.
    pub tells_client: bool,
}

/// One final event that follows a pattern.
#[derive(Clone, Debug)]
pub struct Repeat {
    pub time: Timestamp,
    pub client: SocketAddr,
    pub reference: TransactionId,
    pub pattern: Arc<Pattern>,
}

/// What each event has of its own.
pub const OWN_FIELDS: [FieldId; 4] = [FieldId::Time, FieldId::SourceIp, FieldId::SourcePort, FieldId::Reference];

impl Pattern {
    /// The pattern of the events that differ from this one in nothing but [`OWN_FIELDS`].
    pub fn of(event: &Event) -> Pattern {
        let mut facts = event.facts.clone();
        let tells_client = OWN_FIELDS[1..3].iter().any(|field| facts.get(*field).is_some());
        OWN_FIELDS.iter().for_each(|field| facts.forget(*field));
        Pattern { class: event.class, facts, tells_client }
    }

    /// Whether events of both are alike.
    pub fn is_like(&self, other: &Pattern) -> bool {
        (self.class, self.tells_client, self.facts.gate()) == (other.class, other.tells_client, other.facts.gate())
            && self.facts.iter().eq(other.facts.iter())
    }
}

impl Repeat {
    /// The event with all of its facts.
    pub fn event(&self) -> Event {
        let mut facts = self.pattern.facts.clone();
        facts.set(FieldId::Time, Value::Int(self.time.0));
        facts.set(FieldId::Reference, Value::Text(self.reference.text()));
        if self.pattern.tells_client {
            facts.set(FieldId::SourceIp, Value::Ip(self.client.ip().to_canonical()));
            facts.set(FieldId::SourcePort, Value::Int(i64::from(self.client.port())));
        }
        Event { id: EventId(0), time: self.time, class: self.pattern.class, facts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gate;

    fn event(client: Option<SocketAddr>, time: i64, reference: u64) -> Event {
        let mut facts = Facts::new(Gate::Dns);
        facts.set(FieldId::Time, Value::Int(time));
        facts.set(FieldId::Reference, Value::Text(TransactionId(reference).text()));
        facts.set(FieldId::DnsFqdn, Value::text("a.example"));
        if let Some(client) = client {
            facts.set(FieldId::SourceIp, Value::Ip(client.ip()));
            facts.set(FieldId::SourcePort, Value::Int(client.port().into()));
        }
        facts.reach(crate::Station::Record);
        Event { id: EventId(0), time: Timestamp(time), class: Class::DnsActivity, facts }
    }

    #[test]
    fn a_pattern_with_what_is_its_own_is_the_whole_event_again() {
        let client = SocketAddr::from(([192, 0, 2, 9], 4321));
        for client in [Some(client), None] {
            let first = event(client, 5, 0xabc);
            let pattern = Arc::new(Pattern::of(&first));
            assert!(OWN_FIELDS.iter().all(|field| pattern.facts.get(*field).is_none()));
            let other = SocketAddr::from(([192, 0, 2, 9], 99));
            let repeat = Repeat { time: Timestamp(7), client: other, reference: TransactionId(1), pattern };
            let (again, wanted) = (repeat.event(), event(client.map(|_| other), 7, 1));
            assert!(again.facts.iter().eq(wanted.facts.iter()), "{again:?}");
            assert_eq!((again.time, again.class, again.facts.station()), (wanted.time, wanted.class, wanted.facts.station()));
        }
    }

    #[test]
    fn patterns_are_alike_where_their_events_are() {
        let client = SocketAddr::from(([192, 0, 2, 9], 4321));
        let one = Pattern::of(&event(Some(client), 5, 1));
        assert!(one.is_like(&Pattern::of(&event(Some(client), 6, 2))));
        assert!(!one.is_like(&Pattern::of(&event(None, 5, 1))));
        let mut other = event(Some(client), 5, 1);
        other.facts.set(FieldId::DnsFqdn, Value::text("b.example"));
        assert!(!one.is_like(&Pattern::of(&other)));
    }
}
