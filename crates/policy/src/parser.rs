//! Reads an expression of the Cloudflare Gateway dialect (features.md 1.3, WF-01 to WF-25) and checks it against the field
//! table as it goes, so that every error names a character, what was expected there, and the nearest known name. It is
//! recursive and bounded: any text gives an expression or a problem.

mod literal;
mod quantifier;

use std::collections::BTreeMap;
use std::sync::Arc;

use model::field::NOT_KNOWN_HERE;
use model::{FIELDS, FieldId, Type};

use crate::Problem;
use crate::expression::{Comparison, Element, Expression, Operand, Order, Over, Test};
use crate::lexer::{Token, lex};
use crate::list::{Kind, Table};
use crate::set::{Addresses, Ranges};

/// Parentheses, negations and calls within each other (WF-12).
pub const NESTING_MAX: usize = 128;

/// Every function, for error messages.
const FUNCTIONS: &[&str] = &["concat", "lower", "upper", "len", "starts_with", "ends_with"];

/// Lists by name and by identifier.
pub(crate) type Tables = BTreeMap<Arc<str>, Arc<Table>>;

/// An expression and what may surprise its author.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub expression: Expression,
    /// Arrays that were compared as if they were one value.
    pub bare_arrays: Vec<FieldId>,
}

/// Reads a whole expression. Blank text is true (GW-004).
pub(crate) fn parse(source: &str, tables: &Tables) -> Result<Parsed, Problem> {
    let tokens = lex(source)?;
    let mut parser = Parser { source, tokens, next: 0, depth: 0, tables, bare_arrays: Vec::new(), quantifier: None };
    if parser.peek() == Token::End {
        return Ok(Parsed { expression: Expression::Constant(true), bare_arrays: Vec::new() });
    }
    let expression = parser.or()?;
    match parser.peek() {
        Token::End => Ok(Parsed { expression, bare_arrays: parser.bare_arrays }),
        _ => Err(parser.unexpected("`and`, `or`, `xor` or the end")),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<(usize, Token<'a>)>,
    next: usize,
    depth: usize,
    tables: &'a Tables,
    bare_arrays: Vec<FieldId>,
    /// Inside `any(` or `all(`.
    quantifier: Option<Over>,
}

/// What an operand is, after its indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    element: Type,
    /// Runs over an array with `[*]`.
    is_each: bool,
    /// Is an array itself.
    is_array: bool,
}

impl Shape {
    const fn one(element: Type) -> Shape {
        Shape { element, is_each: false, is_array: false }
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.next).map_or(Token::End, |(_, token)| *token)
    }

    fn offset(&self) -> usize {
        self.tokens.get(self.next).map_or(self.source.len(), |(at, _)| *at)
    }

    fn advance(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn takes(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(s) if s == symbol);
        self.next += usize::from(found);
        found
    }

    fn takes_any(&mut self, symbol: &str, word: &str) -> bool {
        let found = match self.peek() {
            Token::Symbol(s) => s == symbol,
            Token::Word(w) => w == word,
            _ => false,
        };
        self.next += usize::from(found);
        found
    }

    fn require(&mut self, symbol: &'static str) -> Result<(), Problem> {
        if self.takes(symbol) { Ok(()) } else { Err(self.unexpected(format!("`{symbol}`"))) }
    }

    fn unexpected(&self, expected: impl Into<String>) -> Problem {
        let message = match self.peek() {
            Token::Word(word) => format!("`{word}` does not fit here"),
            Token::Quoted(_) | Token::Raw(_) => "text does not fit here".to_owned(),
            Token::List(name) => format!("the list `${name}` does not fit here"),
            Token::Symbol(symbol) => format!("`{symbol}` does not fit here"),
            Token::End => "the expression ends too early".to_owned(),
        };
        Problem::new(message).at(self.source, self.offset()).expected(expected)
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Problem>) -> Result<T, Problem> {
        if self.depth == NESTING_MAX {
            return Err(Problem::new("the expression is nested too deeply")
                .at(self.source, self.offset())
                .expected(format!("at most {NESTING_MAX} levels")));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn or(&mut self) -> Result<Expression, Problem> {
        let mut parts = vec![self.xor()?];
        while self.takes_any("||", "or") {
            parts.push(self.xor()?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expression::Or(parts) })
    }

    fn xor(&mut self) -> Result<Expression, Problem> {
        let first = self.and()?;
        if !self.takes_any("^^", "xor") {
            return Ok(first);
        }
        // Each further `xor` nests one level, so the chain counts as depth.
        let rest = self.deeper(Parser::xor)?;
        Ok(Expression::Xor(Box::new(first), Box::new(rest)))
    }

    fn and(&mut self) -> Result<Expression, Problem> {
        let mut parts = vec![self.unary()?];
        while self.takes_any("&&", "and") {
            parts.push(self.unary()?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expression::And(parts) })
    }

    fn unary(&mut self) -> Result<Expression, Problem> {
        if self.takes_any("!", "not") {
            return Ok(Expression::Not(Box::new(self.deeper(Parser::unary)?)));
        }
        if self.takes("(") {
            let inner = self.deeper(Parser::or)?;
            self.require(")")?;
            return Ok(inner);
        }
        match self.peek() {
            Token::Word("any") => self.quantified(Over::Any),
            Token::Word("all") => self.quantified(Over::All),
            Token::Word(word @ ("true" | "false")) => {
                self.advance();
                Ok(Expression::Constant(word == "true"))
            }
            _ => self.comparison(),
        }
    }

    fn comparison(&mut self) -> Result<Expression, Problem> {
        let at = self.offset();
        let (mut operand, mut shape) = self.operand()?;
        let is_bare = shape.is_array;
        if is_bare {
            operand = run_over(operand);
            shape = Shape { is_each: true, is_array: false, ..shape };
            if let (None, Some((field, _))) = (self.quantifier, operand.each()) {
                self.bare_arrays.push(field);
            }
        }
        let (test, is_negated) = self.test(&operand, shape, at)?;
        let over = match (self.quantifier, shape.is_each) {
            (_, false) => Over::One,
            (Some(over), true) => over,
            (None, true) if is_bare => Over::Any,
            (None, true) => {
                return Err(Problem::new("`[*]` gives one truth for each element")
                    .at(self.source, at)
                    .expected("`any(...)` or `all(...)` around it"));
            }
        };
        // `array != x` without a quantifier means that no element is x, the opposite of `array == x`.
        let (test, is_negated) = match test {
            Test::Text(Order::NotEqual, text) if is_bare && self.quantifier.is_none() => (Test::Text(Order::Equal, text), true),
            Test::Int(Order::NotEqual, int) if is_bare && self.quantifier.is_none() => (Test::Int(Order::Equal, int), true),
            Test::Ip(Order::NotEqual, ip) if is_bare && self.quantifier.is_none() => (Test::Ip(Order::Equal, ip), true),
            test => (test, is_negated),
        };
        let over = match (is_negated && self.quantifier.is_some(), over) {
            (true, Over::Any) => Over::All,
            (true, Over::All) => Over::Any,
            (_, over) => over,
        };
        let comparison = Expression::Comparison(Comparison { operand, test, over });
        Ok(if is_negated { Expression::Not(Box::new(comparison)) } else { comparison })
    }

    fn operand(&mut self) -> Result<(Operand, Shape), Problem> {
        match self.peek() {
            Token::Word(word) if matches!(self.tokens.get(self.next + 1), Some((_, Token::Symbol("(")))) => self.function(word),
            Token::Word(_) => self.field(),
            _ => Err(self.unexpected("a field")),
        }
    }

    fn function(&mut self, name: &str) -> Result<(Operand, Shape), Problem> {
        let at = self.offset();
        if !FUNCTIONS.contains(&name) {
            return Err(Problem::new(format!("there is no function `{name}`"))
                .at(self.source, at)
                .expected(format!("one of {}", FUNCTIONS.join(", ")))
                .nearest(name, FUNCTIONS.iter().copied()));
        }
        self.advance();
        self.require("(")?;
        let call = self.deeper(|parser| parser.call(name))?;
        self.require(")")?;
        Ok(call)
    }

    fn call(&mut self, name: &str) -> Result<(Operand, Shape), Problem> {
        if name == "concat" {
            return self.concat();
        }
        if name == "len" {
            let (operand, shape) = self.operand()?;
            self.require_type(shape.is_array || shape.element == Type::Text, "text or an array")?;
            return Ok((Operand::Len(Box::new(operand)), Shape { element: Type::Int, is_array: false, ..shape }));
        }
        let (operand, shape) = self.text_argument()?;
        let inner = Box::new(operand);
        Ok(match name {
            "lower" => (Operand::Lower(inner), shape),
            "upper" => (Operand::Upper(inner), shape),
            _ => {
                self.require(",")?;
                let text: Arc<str> = self.text()?.into();
                let shape = Shape { element: Type::Bool, ..shape };
                (if name == "starts_with" { Operand::StartsWith(inner, text) } else { Operand::EndsWith(inner, text) }, shape)
            }
        })
    }

    fn concat(&mut self) -> Result<(Operand, Shape), Problem> {
        let mut parts = Vec::new();
        let mut shape = Shape::one(Type::Text);
        loop {
            let at = self.offset();
            let (operand, part) = match self.peek() {
                Token::Quoted(_) | Token::Raw(_) => (Operand::Text(self.text()?.into()), Shape::one(Type::Text)),
                _ => self.text_argument()?,
            };
            if part.is_each && shape.is_each {
                return Err(Problem::new("two arguments run over arrays").at(self.source, at).expected("one `[*]` in a call"));
            }
            shape.is_each |= part.is_each;
            parts.push(operand);
            if !self.takes(",") {
                return Ok((Operand::Concat(parts), shape));
            }
        }
    }

    /// An argument that is text; a bare array is run over.
    fn text_argument(&mut self) -> Result<(Operand, Shape), Problem> {
        let (operand, shape) = self.operand()?;
        self.require_type(shape.element == Type::Text, "text")?;
        if !shape.is_array {
            return Ok((operand, shape));
        }
        Ok((run_over(operand), Shape { is_each: true, is_array: false, ..shape }))
    }

    fn require_type(&self, holds: bool, expected: &str) -> Result<(), Problem> {
        match holds {
            true => Ok(()),
            false => Err(Problem::new("the argument is of another type").at(self.source, self.offset()).expected(expected)),
        }
    }

    fn field(&mut self) -> Result<(Operand, Shape), Problem> {
        let at = self.offset();
        let Token::Word(name) = self.advance() else { return Err(self.unexpected("a field")) };
        if name == "identity.groups" {
            return self.groups(at);
        }
        let field = self.named(name, at)?;
        self.indexed(field)
    }

    /// `identity.groups[*].name`, which the dialect also writes `identity.groups.name[*]` (WF-14).
    fn groups(&mut self, at: usize) -> Result<(Operand, Shape), Problem> {
        let index = self.index()?;
        let member = match self.peek() {
            Token::Word(member @ (".id" | ".name" | ".email")) => member,
            _ => return Err(self.unexpected("`.id`, `.name` or `.email`")),
        };
        self.advance();
        let field = self.named(&format!("identity.groups{member}"), at)?;
        let element = match index {
            Some(Index::Each) => Element::Each,
            Some(Index::Place(place)) => Element::At(place),
            _ => return Err(Problem::new("groups are an array").at(self.source, at).expected("`identity.groups[*].name`")),
        };
        let shape = Shape { element: Type::Text, is_each: element == Element::Each, is_array: false };
        Ok((Operand::Field { field, key: None, element }, shape))
    }

    fn named(&self, name: &str, at: usize) -> Result<FieldId, Problem> {
        if let Some(field) = FieldId::named(name) {
            return Ok(field);
        }
        if let Some((_, reason)) = NOT_KNOWN_HERE.iter().find(|(known, _)| *known == name) {
            return Err(Problem::new(format!("`{name}` is not known here: {reason}")).at(self.source, at));
        }
        let names = FIELDS.iter().flat_map(|row| std::iter::once(row.name).chain(row.aliases.iter().copied()));
        Err(Problem::new(format!("there is no field `{name}`")).at(self.source, at).expected("a field").nearest(name, names))
    }

    fn indexed(&mut self, field: FieldId) -> Result<(Operand, Shape), Problem> {
        let at = self.offset();
        let ty = field.row().ty;
        let wrong = |expected: &str| {
            Problem::new(format!("`{}` is of type {}", field.row().name, ty.as_str())).at(self.source, at).expected(expected)
        };
        let (key, ty) = match ty {
            Type::TextMap => match self.index()? {
                Some(Index::Key(key)) => (Some(key), Type::Texts),
                _ => return Err(wrong("`[\"name\"]` after it")),
            },
            ty => (None, ty),
        };
        let Some(element_type) = element_type(ty) else {
            return match self.index()? {
                None => Ok((Operand::Field { field, key, element: Element::Whole }, Shape::one(ty))),
                Some(_) => Err(wrong("no index")),
            };
        };
        let element = match self.index()? {
            None => Element::Whole,
            Some(Index::Each) => Element::Each,
            Some(Index::Place(place)) => Element::At(place),
            Some(Index::Key(_)) => return Err(wrong("`[*]` or `[0]`")),
        };
        let shape = Shape { element: element_type, is_each: element == Element::Each, is_array: element == Element::Whole };
        Ok((Operand::Field { field, key, element }, shape))
    }

    fn index(&mut self) -> Result<Option<Index>, Problem> {
        if !self.takes("[") {
            return Ok(None);
        }
        let index = match self.peek() {
            Token::Symbol("*") => {
                self.advance();
                Index::Each
            }
            Token::Quoted(_) | Token::Raw(_) => Index::Key(self.text()?.into()),
            Token::Word(word) => match word.parse() {
                Ok(place) => {
                    self.advance();
                    Index::Place(place)
                }
                Err(_) => return Err(self.unexpected("`*`, a number or a quoted name")),
            },
            _ => return Err(self.unexpected("`*`, a number or a quoted name")),
        };
        self.require("]")?;
        Ok(Some(index))
    }

    /// The operator and what it compares with. True beside it for `not in`.
    fn test(&mut self, operand: &Operand, shape: Shape, at: usize) -> Result<(Test, bool), Problem> {
        let ty = shape.element;
        let operator_at = self.offset();
        if let Some(order) = self.order() {
            return Ok((self.ordered(operand, ty, order)?, false));
        }
        let needs = |needed: Type, operator: &str| match ty == needed {
            true => Ok(()),
            false => Err(Problem::new(format!("`{operator}` does not work on {}", ty.as_str()))
                .at(self.source, operator_at)
                .expected(needed.as_str())),
        };
        match self.peek() {
            Token::Word("contains") => {
                needs(Type::Text, "contains")?;
                self.advance();
                Ok((Test::Contains(self.text()?.into()), false))
            }
            Token::Word("matches") | Token::Symbol("~") => {
                needs(Type::Text, "matches")?;
                self.advance();
                Ok((self.pattern()?, false))
            }
            Token::Word(word @ ("wildcard" | "strict")) => {
                needs(Type::Text, "wildcard")?;
                self.advance();
                if word == "strict" && !matches!(self.advance(), Token::Word("wildcard")) {
                    return Err(Problem::new("`strict` stands alone").at(self.source, operator_at).expected("`strict wildcard`"));
                }
                Ok((self.glob(word == "strict")?, false))
            }
            Token::Symbol("&") | Token::Word("bitwise_and") => {
                needs(Type::Int, "&")?;
                self.advance();
                Ok((Test::Mask(self.int()?), false))
            }
            Token::Word("in") => {
                self.advance();
                Ok((self.member(operand, ty)?, false))
            }
            Token::Word("not") if matches!(self.tokens.get(self.next + 1), Some((_, Token::Word("in")))) => {
                self.next += 2;
                Ok((self.member(operand, ty)?, true))
            }
            _ if ty == Type::Bool => Ok((Test::IsTrue, false)),
            _ if matches!(self.peek(), Token::End | Token::Symbol(")")) => {
                Err(Problem::new(format!("a {} alone is neither true nor false", ty.as_str()))
                    .at(self.source, at)
                    .expected("a comparison"))
            }
            _ => Err(self.unexpected("an operator")),
        }
    }

    fn order(&mut self) -> Option<Order> {
        let order = match self.peek() {
            Token::Symbol("==") | Token::Word("eq") => Order::Equal,
            Token::Symbol("!=") | Token::Word("ne") => Order::NotEqual,
            Token::Symbol("<") | Token::Word("lt") => Order::Less,
            Token::Symbol("<=") | Token::Word("le") => Order::LessOrEqual,
            Token::Symbol(">") | Token::Word("gt") => Order::Greater,
            Token::Symbol(">=") | Token::Word("ge") => Order::GreaterOrEqual,
            _ => return None,
        };
        self.advance();
        Some(order)
    }

    fn ordered(&mut self, operand: &Operand, ty: Type, order: Order) -> Result<Test, Problem> {
        Ok(match ty {
            Type::Int => Test::Int(order, self.int()?),
            Type::Ip => Test::Ip(order, self.ip()?),
            Type::Text => Test::Text(order, folded(operand, self.text()?)),
            Type::Time => self.time(order)?,
            _ => match self.peek() {
                Token::Word(word @ ("true" | "false")) => {
                    self.advance();
                    Test::Bool(order, word == "true")
                }
                _ => return Err(self.unexpected("`true` or `false`")),
            },
        })
    }

    fn member(&mut self, operand: &Operand, ty: Type) -> Result<Test, Problem> {
        if let Token::List(name) = self.peek() {
            return self.list(name, ty);
        }
        self.require("{")?;
        let test = match ty {
            Type::Int => Test::InInts(Ranges::new(self.members(Parser::int_range)?)),
            Type::Ip => Test::InIps(Addresses::new(self.members(Parser::ip_range)?)),
            Type::Text => {
                let mut texts = self.members(|parser| Ok(folded(operand, parser.text()?)))?;
                texts.sort_unstable();
                texts.dedup();
                Test::InTexts(texts.into_boxed_slice())
            }
            _ => return Err(self.unexpected("a field of numbers, addresses or text before `in`")),
        };
        Ok(test)
    }

    fn members<T>(&mut self, read: impl Fn(&mut Self) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
        let mut members = Vec::new();
        while !self.takes("}") {
            members.push(read(self)?);
            self.takes(",");
        }
        Ok(members)
    }

    fn list(&mut self, name: &str, ty: Type) -> Result<Test, Problem> {
        let at = self.offset();
        let Some((key, table)) = self.tables.get_key_value(name) else {
            return Err(Problem::new(format!("there is no list `{name}`"))
                .at(self.source, at)
                .expected("a list of this policy")
                .nearest(name, self.tables.keys().map(|name| &**name)));
        };
        let held = match table.kind() {
            Kind::Ip => Type::Ip,
            Kind::Int => Type::Int,
            _ => Type::Text,
        };
        if held != ty {
            return Err(Problem::new(format!("the list `{name}` holds {}", held.as_str()))
                .at(self.source, at)
                .expected(format!("a list of {}", ty.as_str())));
        }
        self.advance();
        Ok(Test::InList(key.clone(), table.clone()))
    }
}

enum Index {
    Each,
    Place(usize),
    Key(Arc<str>),
}

const fn element_type(ty: Type) -> Option<Type> {
    match ty {
        Type::Ints => Some(Type::Int),
        Type::Ips => Some(Type::Ip),
        Type::Texts => Some(Type::Text),
        _ => None,
    }
}

/// The same operand with `[*]` where it had a whole array.
fn run_over(operand: Operand) -> Operand {
    match operand {
        Operand::Field { field, key, element: Element::Whole } => Operand::Field { field, key, element: Element::Each },
        other => other,
    }
}

/// Fields whose values are host names in canonical form, so that what they are compared with is made so too.
const HOSTS: &[FieldId] = &[
    FieldId::DnsFqdn,
    FieldId::DnsDomains,
    FieldId::DnsResponseCname,
    FieldId::SniHost,
    FieldId::SniDomains,
    FieldId::HttpHost,
    FieldId::HttpDomains,
];

fn folded(operand: &Operand, text: String) -> Arc<str> {
    match operand {
        Operand::Field { field, .. } if HOSTS.contains(field) => {
            model::name::canonical(&text).map_or_else(|| text.clone().into(), Arc::from)
        }
        _ => text.into(),
    }
}
