//! Walks an expression over the facts of one transaction, in three values: true, false, and unknown until a later station
//! (Kleene's logic). A fact that is known to be absent differs from everything and equals nothing (WF-10). Nothing is
//! allocated, except by `lower` and `upper` of text that they change and by `concat`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use memchr::memmem;
use model::{Facts, FieldId, Known, Value, name};

use crate::expression::{Comparison, Element, Expression, Operand, Order, Over, Test};

/// The value of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    False,
    /// This fact is not known yet, and the outcome hangs on it.
    Unknown(FieldId),
}

/// One value that a test looks at.
#[derive(Clone, Debug)]
enum Scalar<'a> {
    Bool(bool),
    Int(i64),
    Ip(IpAddr),
    Text(Cow<'a, str>),
}

enum Got<'a> {
    Value(Scalar<'a>),
    Absent,
    NotYet(FieldId),
}

impl Truth {
    fn not(self) -> Truth {
        match self {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            unknown => unknown,
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Truth {
        if value { Truth::True } else { Truth::False }
    }
}

pub(crate) fn evaluate(expression: &Expression, facts: &Facts) -> Truth {
    match expression {
        Expression::Constant(value) => (*value).into(),
        Expression::And(parts) => dominated(parts, facts, Truth::False, Truth::True),
        Expression::Or(parts) => dominated(parts, facts, Truth::True, Truth::False),
        Expression::Xor(a, b) => match (evaluate(a, facts), evaluate(b, facts)) {
            (Truth::Unknown(field), _) | (_, Truth::Unknown(field)) => Truth::Unknown(field),
            (a, b) => (a != b).into(),
        },
        Expression::Not(inner) => evaluate(inner, facts).not(),
        Expression::Comparison(comparison) => compare(comparison, facts),
    }
}

/// `winner` as soon as a part has it; else the first unknown; else `rest`.
fn dominated(parts: &[Expression], facts: &Facts, winner: Truth, rest: Truth) -> Truth {
    let mut outcome = rest;
    for part in parts {
        match evaluate(part, facts) {
            truth if truth == winner => return winner,
            unknown @ Truth::Unknown(_) if outcome == rest => outcome = unknown,
            _ => {}
        }
    }
    outcome
}

fn compare(comparison: &Comparison, facts: &Facts) -> Truth {
    let Comparison { operand, test, over } = comparison;
    let Some((field, key)) = operand.each() else {
        return match read(operand, facts, None) {
            Got::Value(value) => passes(test, &value).into(),
            Got::Absent => test.holds_for_absent().into(),
            Got::NotYet(field) => Truth::Unknown(field),
        };
    };
    let value = match facts.known(field) {
        Known::Value(value) => value,
        Known::Absent => return (*over == Over::All).into(),
        Known::NotYet => return Truth::Unknown(field),
    };
    quantify(comparison, facts, value, key)
}

/// Tests elements until the outcome is sure.
fn quantify(comparison: &Comparison, facts: &Facts, value: &Value, key: Option<&str>) -> Truth {
    let Comparison { operand, test, over } = comparison;
    let sought = *over == Over::Any;
    // Most rules of most policies ask whether a name is within one domain: one look at its end says so.
    if let (true, Operand::Field { .. }, Test::Text(Order::Equal, domain), Value::Parents(host)) = (sought, operand, test, value)
    {
        return (!domain.is_empty() && name::is_within(host, domain)).into();
    }
    let mut outcome = Truth::from(!sought);
    let is_plain = matches!(operand, Operand::Field { .. });
    let mut settle = |element: Scalar<'_>| -> bool {
        let passed = match is_plain {
            true => passes(test, &element),
            false => match read(operand, facts, Some(&element)) {
                Got::Value(value) => passes(test, &value),
                Got::Absent => test.holds_for_absent(),
                Got::NotYet(field) => {
                    outcome = Truth::Unknown(field);
                    return false;
                }
            },
        };
        if passed == sought {
            outcome = sought.into();
        }
        passed == sought
    };
    match value {
        Value::Ints(ints) => ints.iter().any(|int| settle(Scalar::Int(*int))),
        Value::Ips(ips) => ips.iter().any(|ip| settle(Scalar::Ip(*ip))),
        Value::Texts(texts) => texts.iter().any(|text| settle(Scalar::Text(Cow::Borrowed(text)))),
        Value::Parents(host) => name::parents(host).any(|text| settle(Scalar::Text(Cow::Borrowed(text)))),
        Value::TextMap(map) => entry(map, key).iter().any(|text| settle(Scalar::Text(Cow::Borrowed(text)))),
        _ => false,
    };
    outcome
}

type Map = [(Arc<str>, Arc<[Arc<str>]>)];

fn entry<'v>(map: &'v Map, key: Option<&str>) -> &'v [Arc<str>] {
    map.iter().find(|(name, _)| Some(&**name) == key).map_or(&[], |(_, values)| values)
}

/// The value of an operand. `element` stands for the field with `[*]`.
fn read<'a>(operand: &'a Operand, facts: &'a Facts, element: Option<&Scalar<'a>>) -> Got<'a> {
    match operand {
        Operand::Text(text) => Got::Value(Scalar::Text(Cow::Borrowed(text))),
        Operand::Field { element: Element::Each, .. } => element.cloned().map_or(Got::Absent, Got::Value),
        Operand::Field { field, key, element } => match facts.known(*field) {
            Known::Value(value) => pick(value, key.as_deref(), *element).map_or(Got::Absent, Got::Value),
            Known::Absent => Got::Absent,
            Known::NotYet => Got::NotYet(*field),
        },
        Operand::Concat(parts) => concat(parts, facts, element),
        Operand::Lower(inner) => map_text(read(inner, facts, element), |text| match text.chars().any(char::is_uppercase) {
            true => Scalar::Text(Cow::Owned(text.to_lowercase())),
            false => Scalar::Text(text),
        }),
        Operand::Upper(inner) => map_text(read(inner, facts, element), |text| match text.chars().any(char::is_lowercase) {
            true => Scalar::Text(Cow::Owned(text.to_uppercase())),
            false => Scalar::Text(text),
        }),
        Operand::Len(inner) => length(inner, facts, element),
        Operand::StartsWith(inner, head) => map_text(read(inner, facts, element), |text| Scalar::Bool(text.starts_with(&**head))),
        Operand::EndsWith(inner, tail) => map_text(read(inner, facts, element), |text| Scalar::Bool(text.ends_with(&**tail))),
    }
}

fn map_text<'a>(got: Got<'a>, map: impl FnOnce(Cow<'a, str>) -> Scalar<'a>) -> Got<'a> {
    match got {
        Got::Value(Scalar::Text(text)) => Got::Value(map(text)),
        Got::Value(_) => Got::Absent,
        other => other,
    }
}

/// Text of all parts in a row; an absent part adds nothing.
fn concat<'a>(parts: &'a [Operand], facts: &'a Facts, element: Option<&Scalar<'a>>) -> Got<'a> {
    let mut out = String::new();
    for part in parts {
        match read(part, facts, element) {
            Got::Value(Scalar::Text(text)) => out.push_str(&text),
            Got::NotYet(field) => return Got::NotYet(field),
            _ => {}
        }
    }
    Got::Value(Scalar::Text(Cow::Owned(out)))
}

fn length<'a>(inner: &'a Operand, facts: &'a Facts, element: Option<&Scalar<'a>>) -> Got<'a> {
    if let Operand::Field { field, key, element: Element::Whole } = inner
        && let Known::Value(value) = facts.known(*field)
        && let Some(count) = count(value, key.as_deref())
    {
        return Got::Value(Scalar::Int(count as i64));
    }
    map_text(read(inner, facts, element), |text| Scalar::Int(text.len() as i64))
}

/// Elements of an array; none where the value is no array.
fn count(value: &Value, key: Option<&str>) -> Option<usize> {
    Some(match value {
        Value::Ints(ints) => ints.len(),
        Value::Ips(ips) => ips.len(),
        Value::Texts(texts) => texts.len(),
        Value::Parents(host) => name::parents(host).count(),
        Value::TextMap(map) => entry(map, key).len(),
        _ => return None,
    })
}

fn pick<'v>(value: &'v Value, key: Option<&str>, element: Element) -> Option<Scalar<'v>> {
    let text = |text: &'v str| Scalar::Text(Cow::Borrowed(text));
    match (value, element) {
        (Value::Bool(value), Element::Whole) => Some(Scalar::Bool(*value)),
        (Value::Int(value), Element::Whole) => Some(Scalar::Int(*value)),
        (Value::Ip(value), Element::Whole) => Some(Scalar::Ip(*value)),
        (Value::Text(value), Element::Whole) => Some(text(value)),
        (Value::Ints(ints), Element::At(place)) => ints.get(place).map(|int| Scalar::Int(*int)),
        (Value::Ips(ips), Element::At(place)) => ips.get(place).map(|ip| Scalar::Ip(*ip)),
        (Value::Texts(texts), Element::At(place)) => texts.get(place).map(|found| text(found)),
        (Value::Parents(host), Element::At(place)) => name::parents(host).nth(place).map(text),
        (Value::TextMap(map), Element::At(place)) => entry(map, key).get(place).map(|found| text(found)),
        _ => None,
    }
}

fn passes(test: &Test, value: &Scalar<'_>) -> bool {
    match (test, value) {
        (Test::IsTrue, Scalar::Bool(value)) => *value,
        (Test::Bool(order, right), Scalar::Bool(left)) => order.holds(left, right),
        (Test::Int(order, right) | Test::Time(order, right, _), Scalar::Int(left)) => order.holds(left, right),
        // Addresses of two families are different and in no order.
        (Test::Ip(order, right), Scalar::Ip(left)) if left.is_ipv4() == right.is_ipv4() => order.holds(left, right),
        (Test::Ip(order, _), Scalar::Ip(_)) => *order == Order::NotEqual,
        (Test::Text(order, right), Scalar::Text(left)) => order.holds(&**left, &**right),
        (Test::Mask(mask), Scalar::Int(value)) => value & mask != 0,
        (Test::Contains(part), Scalar::Text(text)) => memmem::find(text.as_bytes(), part.as_bytes()).is_some(),
        (Test::Matches(pattern), Scalar::Text(text)) => pattern.is_match(text),
        (Test::Wildcard(glob), Scalar::Text(text)) => glob.matches(text),
        (Test::InInts(ranges), Scalar::Int(value)) => ranges.contains(*value),
        (Test::InIps(addresses), Scalar::Ip(value)) => addresses.contains(*value),
        (Test::InTexts(texts), Scalar::Text(text)) => texts.binary_search_by(|member| (**member).cmp(text)).is_ok(),
        (Test::InList(_, table), Scalar::Text(text)) => table.has_text(text),
        (Test::InList(_, table), Scalar::Ip(address)) => table.has_ip(*address),
        (Test::InList(_, table), Scalar::Int(number)) => table.has_int(*number),
        _ => false,
    }
}
