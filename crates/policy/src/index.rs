//! Which rules of one question a transaction can concern at all. Most rules ask for one name, one category or one user;
//! such a rule is surely false unless the facts hold that value, so it is entered under it and read only when it turns up.
//! The index never decides: every rule that it gives is evaluated whole, in order, and the rules that it leaves out are
//! those whose value is `false` for sure. `tests/index.rs` compares both ways over random rules and facts.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use model::{Facts, FieldId, Known, Value, name};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::compile::RULES_MAX;
use crate::expression::{Comparison, Element, Expression, Operand, Order, Over, Test};
use crate::set::Ranges;

/// Values under which one rule is entered; a rule with more is read whenever its field is known.
const KEYS_MAX: usize = 1_024;

/// What reading a rule whenever a field is known counts against so many exact values, when a rule offers both.
const PRESENCE_COST: usize = 16;

const WORD_BITS: usize = u64::BITS as usize;
const WORDS_MAX: usize = RULES_MAX.div_ceil(WORD_BITS);

/// Rules of one question, by what must be known for them to be anything but false.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Rules that nothing was found to hang on.
    always: Box<[u64]>,
    fields: Box<[Entries]>,
}

/// Rules that hang on one field.
#[derive(Debug)]
struct Entries {
    field: FieldId,
    /// Every rule entered here: while the fact is not known yet, each of them may be waiting for it.
    all: Box<[u32]>,
    /// Rules that any value may make true.
    any: Box<[u32]>,
    by_value: HashMap<u64, Box<[u32]>, BuildHasherDefault<Hashed>>,
}

/// Something without which a rule is false: a value of a field, or that the field has one.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    field: FieldId,
    value: Option<u64>,
}

/// Places of rules, in order.
pub(crate) struct Candidates {
    words: [u64; WORDS_MAX],
    used: usize,
}

/// The keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Index {
    /// The rules of one question in their order.
    pub(crate) fn new<'e>(rules: impl ExactSizeIterator<Item = &'e Expression>) -> Index {
        let mut always = vec![0; rules.len().div_ceil(WORD_BITS)];
        let mut by_field: BTreeMap<FieldId, Vec<(u32, Option<u64>)>> = BTreeMap::new();
        for (place, rule) in rules.enumerate() {
            match anchors(rule) {
                Some(anchors) => {
                    for Anchor { field, value } in anchors {
                        by_field.entry(field).or_default().push((place as u32, value));
                    }
                }
                None => always[place / WORD_BITS] |= 1 << (place % WORD_BITS),
            }
        }
        let fields = by_field.into_iter().map(|(field, entered)| Entries::new(field, &entered)).collect();
        Index { always: always.into_boxed_slice(), fields }
    }

    /// The rules that may be true or waiting, and perhaps some others.
    pub(crate) fn candidates(&self, facts: &Facts) -> Candidates {
        let mut candidates = Candidates { words: [0; WORDS_MAX], used: self.always.len().min(WORDS_MAX) };
        for (word, always) in candidates.words.iter_mut().zip(&self.always) {
            *word = *always;
        }
        for entries in &self.fields {
            entries.mark(facts, &mut candidates);
        }
        candidates
    }
}

impl Entries {
    fn new(field: FieldId, entered: &[(u32, Option<u64>)]) -> Entries {
        let mut by_value: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for (place, value) in entered {
            if let Some(value) = value {
                by_value.entry(*value).or_default().push(*place);
            }
        }
        let places = |mut places: Vec<u32>| {
            places.dedup();
            places.into_boxed_slice()
        };
        Entries {
            field,
            all: places(entered.iter().map(|(place, _)| *place).collect()),
            any: places(entered.iter().filter(|(_, value)| value.is_none()).map(|(place, _)| *place).collect()),
            by_value: by_value.into_iter().map(|(value, entered)| (value, places(entered))).collect(),
        }
    }

    fn mark(&self, facts: &Facts, candidates: &mut Candidates) {
        let value = match facts.known(self.field) {
            Known::Value(value) => value,
            Known::NotYet => return candidates.add(&self.all),
            Known::Absent => return,
        };
        candidates.add(&self.any);
        if self.by_value.is_empty() {
            return;
        }
        match value {
            Value::Text(text) => self.mark_value(hash_text(text), candidates),
            Value::Int(int) => self.mark_value(hash_int(*int), candidates),
            Value::Parents(host) => name::parents(host).for_each(|name| self.mark_value(hash_text(name), candidates)),
            Value::Texts(texts) => texts.iter().for_each(|text| self.mark_value(hash_text(text), candidates)),
            Value::Ints(ints) => ints.iter().for_each(|int| self.mark_value(hash_int(*int), candidates)),
            // Only texts and integers are entered by value.
            Value::Bool(_) | Value::Ip(_) | Value::Ips(_) | Value::TextMap(_) => {}
        }
    }

    fn mark_value(&self, hash: u64, candidates: &mut Candidates) {
        if let Some(places) = self.by_value.get(&hash) {
            candidates.add(places);
        }
    }
}

impl Candidates {
    fn add(&mut self, places: &[u32]) {
        for place in places {
            if let Some(word) = self.words.get_mut(*place as usize / WORD_BITS) {
                *word |= 1 << (*place as usize % WORD_BITS);
            }
        }
    }

    /// Places in rising order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().take(self.used).enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(at * WORD_BITS + bit)
            })
        })
    }
}

/// A collision of two hashes gives a candidate too many, which then evaluates to false.
fn hash_text(text: &str) -> u64 {
    xxh3_64_with_seed(text.as_bytes(), 0)
}

fn hash_int(int: i64) -> u64 {
    xxh3_64_with_seed(&int.to_le_bytes(), 1)
}

/// What must be there, one of these at least, for the expression to be anything but false; none where that is not known.
fn anchors(expression: &Expression) -> Option<Vec<Anchor>> {
    match expression {
        Expression::Constant(true) | Expression::Not(_) | Expression::Xor(..) => None,
        Expression::Constant(false) => Some(Vec::new()),
        // One part that is false makes the whole false, whatever the others wait for.
        Expression::And(parts) => parts.iter().filter_map(anchors).min_by_key(|anchors| cost(anchors)),
        Expression::Or(parts) => {
            let all = parts.iter().map(anchors).collect::<Option<Vec<_>>>()?.concat();
            (all.len() <= KEYS_MAX).then_some(all)
        }
        Expression::Comparison(comparison) => by_value(comparison).or_else(|| by_presence(comparison)),
    }
}

fn cost(anchors: &[Anchor]) -> usize {
    anchors.iter().map(|anchor| if anchor.value.is_some() { 1 } else { PRESENCE_COST }).sum()
}

/// An equality with one of a few values, over one element at least. A fact that is absent equals nothing (WF-10).
fn by_value(comparison: &Comparison) -> Option<Vec<Anchor>> {
    let Operand::Field { field, key: None, element } = &comparison.operand else { return None };
    if comparison.over == Over::All || (comparison.over == Over::Any) != (*element == Element::Each) {
        return None;
    }
    let hashes: Vec<u64> = match &comparison.test {
        Test::Text(Order::Equal, text) => vec![hash_text(text)],
        Test::InTexts(texts) if texts.len() <= KEYS_MAX => texts.iter().map(|text| hash_text(text)).collect(),
        Test::Int(Order::Equal, int) => vec![hash_int(*int)],
        Test::InInts(ranges) => members(ranges)?.map(hash_int).collect(),
        _ => return None,
    };
    Some(hashes.into_iter().map(|hash| Anchor { field: *field, value: Some(hash) }).collect())
}

/// The members of a small set.
fn members(ranges: &Ranges<i64>) -> Option<impl Iterator<Item = i64> + '_> {
    let count = ranges.iter().try_fold(0i64, |sum, (first, last)| last.checked_sub(first)?.checked_add(sum)?.checked_add(1));
    count.filter(|count| *count <= KEYS_MAX as i64).map(|_| ranges.iter().flat_map(|(first, last)| first..=last))
}

/// Any other test of a value: without one it is false, unless it is a test for being different.
fn by_presence(comparison: &Comparison) -> Option<Vec<Anchor>> {
    let field = subject(&comparison.operand)?;
    let is_false_when_absent = match comparison.over {
        Over::One => !comparison.test.holds_for_absent(),
        Over::Any => comparison.operand.each().is_some(),
        Over::All => false,
    };
    is_false_when_absent.then(|| vec![Anchor { field, value: None }])
}

/// The one field that an operand is made of, where the operand is absent when the field is.
fn subject(operand: &Operand) -> Option<FieldId> {
    match operand {
        Operand::Field { field, .. } => Some(*field),
        Operand::Lower(inner) | Operand::Upper(inner) | Operand::Len(inner) => subject(inner),
        Operand::StartsWith(inner, _) | Operand::EndsWith(inner, _) => subject(inner),
        Operand::Text(_) | Operand::Concat(_) => None,
    }
}
