//! A checked expression: what the parser makes and the evaluator walks. Its `Display` is the canonical form (GW-010), which
//! reads back as the same expression; the source text is kept beside it by whoever holds the expression.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use model::FieldId;
use regex::Regex;

use crate::glob::Glob;
use crate::list::Table;
use crate::set::{Addresses, Ranges, write_range};

#[derive(Clone, Debug)]
pub(crate) enum Expression {
    Constant(bool),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Xor(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Comparison(Comparison),
}

/// One test of one operand. Where the operand runs over an array, `over` says how many elements must pass.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub operand: Operand,
    pub test: Test,
    pub over: Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    One,
    Any,
    All,
}

#[derive(Clone, Debug)]
pub(crate) enum Operand {
    Field {
        field: FieldId,
        key: Option<Arc<str>>,
        element: Element,
    },
    Text(Arc<str>),
    Concat(Vec<Operand>),
    Lower(Box<Operand>),
    Upper(Box<Operand>),
    /// Bytes of text, or elements of a whole array.
    Len(Box<Operand>),
    StartsWith(Box<Operand>, Arc<str>),
    EndsWith(Box<Operand>, Arc<str>),
}

/// Which part of a field's array is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Whole,
    At(usize),
    Each,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug)]
pub(crate) enum Test {
    IsTrue,
    Bool(Order, bool),
    Int(Order, i64),
    /// Like `Int`, with the text that was written for the time.
    Time(Order, i64, Arc<str>),
    Ip(Order, IpAddr),
    Text(Order, Arc<str>),
    /// Some bits are set (WF-04).
    Mask(i64),
    Contains(Arc<str>),
    Matches(Box<Regex>),
    Wildcard(Box<Glob>),
    InInts(Ranges<i64>),
    InIps(Addresses),
    /// Sorted.
    InTexts(Box<[Arc<str>]>),
    InList(Arc<str>, Arc<Table>),
}

impl Expression {
    /// Calls `visit` with every field that is read.
    pub(crate) fn fields(&self, visit: &mut dyn FnMut(FieldId)) {
        match self {
            Expression::Constant(_) => {}
            Expression::And(parts) | Expression::Or(parts) => parts.iter().for_each(|part| part.fields(visit)),
            Expression::Xor(a, b) => {
                a.fields(visit);
                b.fields(visit);
            }
            Expression::Not(inner) => inner.fields(visit),
            Expression::Comparison(comparison) => comparison.operand.fields(visit),
        }
    }

    /// Calls `visit` with the name of every list that is asked.
    pub(crate) fn lists(&self, visit: &mut dyn FnMut(&str)) {
        match self {
            Expression::And(parts) | Expression::Or(parts) => parts.iter().for_each(|part| part.lists(visit)),
            Expression::Xor(a, b) => {
                a.lists(visit);
                b.lists(visit);
            }
            Expression::Not(inner) => inner.lists(visit),
            Expression::Comparison(Comparison { test: Test::InList(name, _), .. }) => visit(name),
            Expression::Constant(_) | Expression::Comparison(_) => {}
        }
    }

    /// Calls `visit` with every comparison that must hold for the whole to hold.
    pub(crate) fn conjuncts<'e>(&'e self, visit: &mut dyn FnMut(&'e Comparison)) {
        match self {
            Expression::And(parts) => parts.iter().for_each(|part| part.conjuncts(visit)),
            Expression::Comparison(comparison) => visit(comparison),
            _ => {}
        }
    }

    /// Calls `change` with every comparison.
    pub(crate) fn change_comparisons(&mut self, change: &mut dyn FnMut(&mut Comparison)) {
        match self {
            Expression::Constant(_) => {}
            Expression::And(parts) | Expression::Or(parts) => {
                parts.iter_mut().for_each(|part| part.change_comparisons(change));
            }
            Expression::Xor(a, b) => {
                a.change_comparisons(change);
                b.change_comparisons(change);
            }
            Expression::Not(inner) => inner.change_comparisons(change),
            Expression::Comparison(comparison) => change(comparison),
        }
    }

    /// Every test of a field that has a counterpart looks at the elements of both.
    pub(crate) fn widened(self, counterpart: &dyn Fn(FieldId) -> Option<FieldId>) -> Expression {
        let all = |parts: Vec<Expression>| parts.into_iter().map(|part| part.widened(counterpart)).collect();
        match self {
            Expression::Constant(value) => Expression::Constant(value),
            Expression::And(parts) => Expression::And(all(parts)),
            Expression::Or(parts) => Expression::Or(all(parts)),
            Expression::Xor(a, b) => Expression::Xor(Box::new(a.widened(counterpart)), Box::new(b.widened(counterpart))),
            Expression::Not(inner) => Expression::Not(Box::new(inner.widened(counterpart))),
            Expression::Comparison(comparison) => {
                let mut has_counterpart = false;
                comparison.operand.fields(&mut |field| has_counterpart |= counterpart(field).is_some());
                if !has_counterpart {
                    return Expression::Comparison(comparison);
                }
                let mut other = comparison.clone();
                other.operand.change_fields(&|field: &mut FieldId| *field = counterpart(*field).unwrap_or(*field));
                let over = comparison.over;
                let both = vec![Expression::Comparison(comparison), Expression::Comparison(other)];
                if over == Over::All { Expression::And(both) } else { Expression::Or(both) }
            }
        }
    }

    /// Calls `change` with every field that is read; what it writes is read from then on.
    pub(crate) fn change_fields(&mut self, change: &dyn Fn(&mut FieldId)) {
        match self {
            Expression::Constant(_) => {}
            Expression::And(parts) | Expression::Or(parts) => parts.iter_mut().for_each(|part| part.change_fields(change)),
            Expression::Xor(a, b) => {
                a.change_fields(change);
                b.change_fields(change);
            }
            Expression::Not(inner) => inner.change_fields(change),
            Expression::Comparison(comparison) => comparison.operand.change_fields(change),
        }
    }

    /// Both must hold; constants are dropped.
    pub(crate) fn and(parts: Vec<Expression>) -> Expression {
        let mut kept: Vec<Expression> = parts.into_iter().filter(|part| !matches!(part, Expression::Constant(true))).collect();
        match kept.len() {
            0 => Expression::Constant(true),
            1 => kept.swap_remove(0),
            _ => Expression::And(kept),
        }
    }
}

impl Test {
    /// How a test takes an absent value: only "is not" holds (WF-10).
    pub(crate) fn holds_for_absent(&self) -> bool {
        matches!(
            self,
            Test::Bool(Order::NotEqual, _)
                | Test::Int(Order::NotEqual, _)
                | Test::Time(Order::NotEqual, ..)
                | Test::Ip(Order::NotEqual, _)
                | Test::Text(Order::NotEqual, _)
        )
    }
}

impl Operand {
    pub(crate) fn fields(&self, visit: &mut dyn FnMut(FieldId)) {
        match self {
            Operand::Field { field, .. } => visit(*field),
            Operand::Text(_) => {}
            Operand::Concat(parts) => parts.iter().for_each(|part| part.fields(visit)),
            Operand::Lower(inner) | Operand::Upper(inner) | Operand::Len(inner) => inner.fields(visit),
            Operand::StartsWith(inner, _) | Operand::EndsWith(inner, _) => inner.fields(visit),
        }
    }

    fn change_fields(&mut self, change: &dyn Fn(&mut FieldId)) {
        match self {
            Operand::Field { field, .. } => change(field),
            Operand::Text(_) => {}
            Operand::Concat(parts) => parts.iter_mut().for_each(|part| part.change_fields(change)),
            Operand::Lower(inner) | Operand::Upper(inner) | Operand::Len(inner) => inner.change_fields(change),
            Operand::StartsWith(inner, _) | Operand::EndsWith(inner, _) => inner.change_fields(change),
        }
    }

    /// The field with `[*]`, where there is one.
    pub(crate) fn each(&self) -> Option<(FieldId, Option<&str>)> {
        match self {
            Operand::Field { field, key, element: Element::Each } => Some((*field, key.as_deref())),
            Operand::Field { .. } | Operand::Text(_) => None,
            Operand::Concat(parts) => parts.iter().find_map(Operand::each),
            Operand::Lower(inner) | Operand::Upper(inner) | Operand::Len(inner) => inner.each(),
            Operand::StartsWith(inner, _) | Operand::EndsWith(inner, _) => inner.each(),
        }
    }
}

impl Order {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Order::Equal => "==",
            Order::NotEqual => "!=",
            Order::Less => "<",
            Order::LessOrEqual => "<=",
            Order::Greater => ">",
            Order::GreaterOrEqual => ">=",
        }
    }

    pub(crate) fn holds<T: Ord + ?Sized>(self, a: &T, b: &T) -> bool {
        match self {
            Order::Equal => a == b,
            Order::NotEqual => a != b,
            Order::Less => a < b,
            Order::LessOrEqual => a <= b,
            Order::Greater => a > b,
            Order::GreaterOrEqual => a >= b,
        }
    }
}

/// Text between quotes with the escapes that the lexer of the language knows (WF-09).
pub(crate) struct Quote<'a>(pub &'a str);

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_ascii_control() => write!(f, "\\x{:02X}", c as u32)?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// Text that reads back byte for byte, for patterns, in which a backslash is not an escape of ours.
struct RawQuote<'a>(&'a str);

impl fmt::Display for RawQuote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.contains('"') && !self.0.ends_with('\\') {
            return write!(f, "\"{}\"", self.0);
        }
        let fence = (1..).map(|n| "#".repeat(n)).find(|fence| !self.0.contains(&format!("\"{fence}"))).unwrap_or_default();
        write!(f, "r{fence}\"{}\"{fence}", self.0)
    }
}

fn joined<T: fmt::Display>(f: &mut fmt::Formatter<'_>, parts: impl Iterator<Item = T>, between: &str) -> fmt::Result {
    for (place, part) in parts.enumerate() {
        if place > 0 {
            f.write_str(between)?;
        }
        write!(f, "{part}")?;
    }
    Ok(())
}

/// A part of a larger expression, in parentheses where it would otherwise be read differently.
struct Part<'a>(&'a Expression);

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expression::And(_) | Expression::Or(_) | Expression::Xor(..) => write!(f, "({})", self.0),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Constant(value) => write!(f, "{value}"),
            Expression::And(parts) => joined(f, parts.iter().map(Part), " and "),
            Expression::Or(parts) => joined(f, parts.iter().map(Part), " or "),
            Expression::Xor(a, b) => write!(f, "{} xor {}", Part(a), Part(b)),
            Expression::Not(inner) => write!(f, "not {}", Part(inner)),
            Expression::Comparison(comparison) => write!(f, "{comparison}"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { operand, test, over } = self;
        match over {
            Over::One => write!(f, "{operand}{test}"),
            Over::Any => write!(f, "any({operand}{test})"),
            Over::All => write!(f, "all({operand}{test})"),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Field { field, key, element } => {
                f.write_str(field.row().name)?;
                if let Some(key) = key {
                    write!(f, "[{}]", Quote(key))?;
                }
                match element {
                    Element::Whole => Ok(()),
                    Element::At(place) => write!(f, "[{place}]"),
                    Element::Each => f.write_str("[*]"),
                }
            }
            Operand::Text(text) => write!(f, "{}", Quote(text)),
            Operand::Concat(parts) => {
                f.write_str("concat(")?;
                joined(f, parts.iter(), ", ")?;
                f.write_str(")")
            }
            Operand::Lower(inner) => write!(f, "lower({inner})"),
            Operand::Upper(inner) => write!(f, "upper({inner})"),
            Operand::Len(inner) => write!(f, "len({inner})"),
            Operand::StartsWith(inner, text) => write!(f, "starts_with({inner}, {})", Quote(text)),
            Operand::EndsWith(inner, text) => write!(f, "ends_with({inner}, {})", Quote(text)),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::IsTrue => Ok(()),
            Test::Bool(order, value) => write!(f, " {} {value}", order.as_str()),
            Test::Int(order, value) => write!(f, " {} {value}", order.as_str()),
            Test::Time(order, _, written) => write!(f, " {} {}", order.as_str(), Quote(written)),
            Test::Ip(order, value) => write!(f, " {} {value}", order.as_str()),
            Test::Text(order, value) => write!(f, " {} {}", order.as_str(), Quote(value)),
            Test::Mask(mask) => write!(f, " & {mask}"),
            Test::Contains(text) => write!(f, " contains {}", Quote(text)),
            Test::Matches(pattern) => write!(f, " matches {}", RawQuote(pattern.as_str())),
            Test::Wildcard(glob) if glob.is_strict() => write!(f, " strict wildcard {}", Quote(glob.source())),
            Test::Wildcard(glob) => write!(f, " wildcard {}", Quote(glob.source())),
            Test::InInts(ranges) => in_set(f, ranges.iter().map(write_ints)),
            Test::InIps(addresses) => in_set(f, addresses.iter().map(|(first, last)| write_range(first, last))),
            Test::InTexts(texts) => in_set(f, texts.iter().map(|text| Quote(text))),
            Test::InList(name, _) => write!(f, " in ${name}"),
        }
    }
}

fn write_ints((first, last): (i64, i64)) -> String {
    if first == last { first.to_string() } else { format!("{first}..{last}") }
}

fn in_set<T: fmt::Display>(f: &mut fmt::Formatter<'_>, members: impl Iterator<Item = T>) -> fmt::Result {
    f.write_str(" in {")?;
    joined(f, members, " ")?;
    f.write_str("}")
}
