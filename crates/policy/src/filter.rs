//! The policy language as a search: one expression over the facts of finished transactions, at any gate.

use model::{Facts, FieldId, Value};

use crate::evaluate::{Truth, evaluate};
use crate::expression::{Comparison, Element, Expression, Operand, Order, Over, Test};
use crate::parser::{Tables, parse};
use crate::{Policy, Problem};

/// A compiled search.
#[derive(Clone, Debug)]
pub struct Filter {
    source: String,
    expression: Expression,
}

impl Filter {
    /// Reads a search that names no lists. Blank text matches everything.
    pub fn parse(source: &str) -> Result<Filter, Problem> {
        Filter::of(source, &Tables::new())
    }

    /// Reads a search that may name the lists of a policy.
    pub fn parse_with(source: &str, policy: &Policy) -> Result<Filter, Problem> {
        Filter::of(source, policy.tables())
    }

    fn of(source: &str, tables: &Tables) -> Result<Filter, Problem> {
        Ok(Filter { source: source.to_owned(), expression: parse(source, tables)?.expression })
    }

    /// Whether the facts match for sure; what is not known yet does not.
    pub fn matches(&self, facts: &Facts) -> bool {
        evaluate(&self.expression, facts) == Truth::True
    }

    /// What every match has: this field equals this value, or one of its elements does. An index may narrow by them;
    /// the filter itself must still be asked.
    pub fn equalities(&self) -> Vec<(FieldId, Value)> {
        let mut equalities = Vec::new();
        self.expression.conjuncts(&mut |comparison| equalities.extend(equality(comparison)));
        equalities
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The expression in canonical form (GW-010).
    pub fn canonical(&self) -> String {
        self.expression.to_string()
    }
}

fn equality(comparison: &Comparison) -> Option<(FieldId, Value)> {
    let Operand::Field { field, key: None, element } = &comparison.operand else { return None };
    if comparison.over == Over::All || matches!(element, Element::At(_)) {
        return None;
    }
    let value = match &comparison.test {
        Test::Text(Order::Equal, text) => Value::Text(text.clone().into()),
        Test::InTexts(texts) if texts.len() == 1 => Value::Text(texts.first()?.clone().into()),
        Test::Int(Order::Equal, int) => Value::Int(*int),
        Test::Ip(Order::Equal, ip) => Value::Ip(*ip),
        Test::Bool(Order::Equal, value) => Value::Bool(*value),
        Test::IsTrue => Value::Bool(true),
        _ => return None,
    };
    Some((*field, value))
}
