//! `any(...)` and `all(...)` (WF-07). What stands inside is said of one element at a time. Where that comes to the same as
//! one quantifier for each part, it is read as that; where it does not, it is refused, never read as something near it.

use model::FieldId;

use super::Parser;
use crate::Problem;
use crate::expression::{Comparison, Expression, Over};
use crate::lexer::Token;

impl Parser<'_> {
    pub(super) fn quantified(&mut self, over: Over) -> Result<Expression, Problem> {
        let at = self.offset();
        self.advance();
        self.require("(")?;
        self.quantifier = Some(over);
        let inner = self.deeper(Parser::element_tests);
        self.quantifier = None;
        let inner = inner?;
        self.require(")")?;
        match inner {
            Some(expression) => Ok(expression),
            None => Err(Problem::new("nothing in here runs over an array").at(self.source, at).expected("`field[*]`")),
        }
    }

    /// Parts joined by `or` inside `any`, or by `and` inside `all`; none where one of them does not run over an array.
    fn element_tests(&mut self) -> Result<Option<Expression>, Problem> {
        let at = self.offset();
        let mut parts = vec![self.element_test()?];
        while let Some(joint) = self.joint()? {
            self.advance();
            let part = self.element_test()?;
            if !runs_alike(parts.first(), &part) {
                return Err(Problem::new(format!("what `{joint}` joins runs over two arrays"))
                    .at(self.source, at)
                    .expected("one array inside a quantifier"));
            }
            parts.push(part);
        }
        let Some(mut parts) = parts.into_iter().collect::<Option<Vec<Expression>>>() else { return Ok(None) };
        Ok(match (parts.len(), self.quantifier) {
            (1, _) => parts.pop(),
            (_, Some(Over::All)) => Some(Expression::And(parts)),
            _ => Some(Expression::Or(parts)),
        })
    }

    /// The operator that stands here and joins parts of a quantifier, if one does.
    fn joint(&self) -> Result<Option<&'static str>, Problem> {
        let joint = match self.peek() {
            Token::Word("or") | Token::Symbol("||") => "or",
            Token::Word("and") | Token::Symbol("&&") => "and",
            Token::Word("xor") | Token::Symbol("^^") => "xor",
            _ => return Ok(None),
        };
        let is_all = self.quantifier == Some(Over::All);
        match (joint, is_all) {
            ("or", false) | ("and", true) => Ok(Some(joint)),
            _ => {
                let (word, other) = if is_all { ("all", "and") } else { ("any", "or") };
                Err(Problem::new(format!("`{joint}` inside `{word}` would be said of one element at a time"))
                    .at(self.source, self.offset())
                    .expected(format!("`{other}`, or a quantifier for each part")))
            }
        }
    }

    /// One part inside a quantifier; none where it does not run over an array. `any(not x)` is `not all(x)`.
    fn element_test(&mut self) -> Result<Option<Expression>, Problem> {
        if self.takes_any("!", "not") {
            let outer = self.quantifier;
            self.quantifier = Some(if outer == Some(Over::Any) { Over::All } else { Over::Any });
            let inner = self.deeper(Parser::element_test);
            self.quantifier = outer;
            return Ok(inner?.map(|inner| Expression::Not(Box::new(inner))));
        }
        if self.takes("(") {
            let inner = self.deeper(Parser::element_tests)?;
            self.require(")")?;
            return Ok(inner);
        }
        if let Token::Word("any" | "all") = self.peek() {
            return Err(self.unexpected("one comparison with `[*]`; `any` and `all` do not nest"));
        }
        let expression = self.comparison()?;
        let runs = array_of(&expression).is_some();
        Ok(runs.then_some(expression))
    }
}

/// The array that an expression made of one quantifier runs over.
fn array_of(expression: &Expression) -> Option<(FieldId, Option<&str>)> {
    match expression {
        Expression::Comparison(Comparison { over: Over::One, .. }) | Expression::Constant(_) | Expression::Xor(..) => None,
        Expression::Comparison(comparison) => comparison.operand.each(),
        Expression::Not(inner) => array_of(inner),
        Expression::And(parts) | Expression::Or(parts) => parts.first().and_then(array_of),
    }
}

fn runs_alike(first: Option<&Option<Expression>>, other: &Option<Expression>) -> bool {
    match (first, other) {
        (Some(Some(first)), Some(other)) => array_of(first) == array_of(other),
        _ => true,
    }
}
