//! Strangers' names for this crate's parsers. `fuzz/` calls these functions, and so does the replay of its corpus; nothing
//! in the product does.

use intel::Snapshot;
use model::{Facts, FieldId, Gate, Station, Value};

use crate::{INSPECTORS, punycode};

/// Every inspector ends over any names, URLs and file names, and a label that decodes is no plain one.
pub fn inspectors(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for label in text.split('.') {
        assert!(punycode::decode(label).is_none_or(|decoded| punycode::is_encoded(label) && !decoded.is_empty()), "{label:?}");
    }
    for gate in [Gate::Dns, Gate::Web] {
        let mut facts = Facts::new(gate);
        facts.reach(Station::Record);
        for field in FieldId::all().filter(|field| field.row().ty == model::Type::Text) {
            facts.set(field, Value::text(text));
        }
        for inspector in INSPECTORS {
            let _ = (inspector.inspect)(&facts, &Snapshot::empty());
        }
    }
}
