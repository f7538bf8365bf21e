//! What is known about one transaction, and since when. A fact is in one of three states: known, known to be absent, or
//! not known yet; which of the last two it is follows from the station that the transaction has reached.

use crate::{FIELDS, FieldId, Gate, Station, Value};

/// The state of one fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<'a> {
    Value(&'a Value),
    /// Its station has passed and it was not there: no SNI, no referrer.
    Absent,
    /// A later station may bring it.
    NotYet,
}

/// Room for the facts of an answered name, so that one allocation does for a whole transaction.
const VALUES_USUAL: usize = 32;

/// The facts of one transaction at one gate. Values are pushed once and found by index; nothing is hashed.
#[derive(Clone, Debug)]
pub struct Facts {
    gate: Gate,
    /// Position in the gate's list of stations; past its end once the transaction is over.
    reached: usize,
    values: Vec<Value>,
    /// For each field, 1 + its place in `values`, or 0.
    places: [u8; FIELDS.len()],
}

// `places` holds a byte a field, so the table may not outgrow it.
const _: () = assert!(FIELDS.len() < 255);

impl Facts {
    pub fn new(gate: Gate) -> Facts {
        Facts { gate, reached: 0, values: Vec::with_capacity(VALUES_USUAL), places: [0; FIELDS.len()] }
    }

    /// Takes all facts out; what stays behind knows nothing and holds no memory.
    pub fn take(&mut self) -> Facts {
        let empty = Facts { gate: self.gate, reached: self.reached, values: Vec::new(), places: [0; FIELDS.len()] };
        std::mem::replace(self, empty)
    }

    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// The station that the transaction is at.
    pub fn station(&self) -> Station {
        self.gate.stations().get(self.reached).copied().unwrap_or(Station::Record)
    }

    /// Moves on to a station. Going back is ignored: what has been known stays known.
    pub fn reach(&mut self, station: Station) {
        let position = match station {
            Station::Record => self.gate.stations().len(),
            _ => self.gate.position(station).unwrap_or(self.reached),
        };
        self.reached = self.reached.max(position);
    }

    /// Adds or replaces a fact. A value of another type than the field's is refused, and the caller told so.
    pub fn set(&mut self, field: FieldId, value: Value) -> bool {
        if !value.fits(field.row().ty) {
            return false;
        }
        match self.places[field.index()] {
            0 => {
                self.values.push(value);
                self.places[field.index()] = self.values.len() as u8;
            }
            place => self.values[usize::from(place) - 1] = value,
        }
        true
    }

    pub fn get(&self, field: FieldId) -> Option<&Value> {
        usize::from(self.places[field.index()]).checked_sub(1).and_then(|place| self.values.get(place))
    }

    /// Takes a fact out, for a record that may not keep it.
    pub fn forget(&mut self, field: FieldId) {
        self.places[field.index()] = 0;
    }

    /// The state of a fact at the station reached so far.
    pub fn known(&self, field: FieldId) -> Known<'_> {
        match self.get(field) {
            Some(value) => Known::Value(value),
            None if self.is_settled(field) => Known::Absent,
            None => Known::NotYet,
        }
    }

    /// Every fact that is known, in the order of the field table.
    pub fn iter(&self) -> impl Iterator<Item = (FieldId, &Value)> {
        FieldId::all().filter_map(|field| self.get(field).map(|value| (field, value)))
    }

    fn is_settled(&self, field: FieldId) -> bool {
        match field.row().station(self.gate).and_then(|station| self.gate.position(station)) {
            Some(position) => position <= self.reached,
            // The gate never sees this fact, so it is as absent at the start as at the end.
            None => field.row().station(self.gate) != Some(Station::Record) || self.station() == Station::Record,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_wrong_type_is_refused() {
        let mut facts = Facts::new(Gate::Dns);
        assert!(!facts.set(FieldId::DnsFqdn, Value::Int(1)));
        assert_eq!(facts.get(FieldId::DnsFqdn), None);
    }

    #[test]
    fn a_fact_is_unknown_before_its_station_and_absent_after() {
        let mut facts = Facts::new(Gate::Dns);
        assert_eq!(facts.known(FieldId::DnsResolvedIps), Known::NotYet);
        facts.reach(Station::Answer);
        assert_eq!(facts.known(FieldId::DnsResolvedIps), Known::Absent);
        facts.reach(Station::Question);
        assert_eq!(facts.station(), Station::Answer);
    }

    #[test]
    fn a_fact_of_another_gate_is_absent_from_the_start() {
        let facts = Facts::new(Gate::Dns);
        assert_eq!(facts.known(FieldId::HttpMethod), Known::Absent);
    }

    #[test]
    fn a_fact_of_the_record_is_unknown_until_the_end() {
        let mut facts = Facts::new(Gate::Web);
        facts.reach(Station::ResponseBody);
        assert_eq!(facts.known(FieldId::DurationMs), Known::NotYet);
        facts.reach(Station::Record);
        assert_eq!(facts.known(FieldId::DurationMs), Known::Absent);
    }
}
