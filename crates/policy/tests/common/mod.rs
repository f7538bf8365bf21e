//! Short ways to a policy and to facts.
#![allow(dead_code, clippy::expect_used, clippy::panic)]

use model::{Facts, FieldId, Gate, Question, Station, Timestamp, Value};
use policy::{Document, Policy, Problem, Warning, WarningKind};

pub fn document(toml: &str) -> Document {
    Document::from_toml(toml).unwrap_or_else(|error| {
        panic!("{error}: {}\n{toml}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default())
    })
}

pub fn compile(toml: &str) -> Policy {
    compiled(toml).0
}

pub fn compiled(toml: &str) -> (Policy, Vec<Warning>) {
    Policy::compile(&document(toml)).unwrap_or_else(|problems| panic!("{}", told(&problems)))
}

pub fn warnings(toml: &str) -> Vec<(WarningKind, String)> {
    compiled(toml).1.into_iter().map(|warning| (warning.kind, warning.place.subject)).collect()
}

pub fn problems(toml: &str) -> Vec<Problem> {
    Policy::compile(&document(toml)).map(|_| ()).expect_err("the document compiles")
}

pub fn told(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Facts of a question for this name.
pub fn dns(name: &str) -> Facts {
    let mut facts = Facts::new(Gate::Dns);
    facts.reach(Station::Question);
    facts.set(FieldId::DnsFqdn, Value::text(name));
    facts.set(FieldId::DnsDomains, Value::Parents(name.into()));
    facts
}

/// The action and the rule's name; `waits` and the rule's name where it is open.
pub fn at<'p>(policy: &'p Policy, facts: &Facts, question: Question) -> (&'static str, &'p str) {
    at_time(policy, facts, question, Timestamp::from_seconds(1_800_000_000))
}

pub fn at_time<'p>(policy: &'p Policy, facts: &Facts, question: Question, now: Timestamp) -> (&'static str, &'p str) {
    let decision = policy.decide(facts, question, now);
    let rule = decision.rule().and_then(|rule| policy.rule_name(rule)).map_or("", |rule| &rule.name);
    (decision.action().map_or("waits", |action| action.as_str()), rule)
}
