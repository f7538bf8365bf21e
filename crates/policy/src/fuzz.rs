//! Operators' text and strangers' facts for this crate's parsers. `fuzz/` calls these functions, and so does the replay of
//! its corpus; nothing in the product does. Each states what must hold whatever the bytes are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use model::{Facts, FieldId, Gate, Question, Station, Timestamp, Type, Value};

use crate::document::Rule;
use crate::{Decision, Document, Filter, Policy, import};

/// Two lists that expressions may name.
const LISTS: &str = "[[list]]\nname = \"names\"\nkind = \"domain\"\nentries = [\"a.example\"]\n\
                     [[list]]\nname = \"nets\"\nkind = \"ip\"\nentries = [\"10.0.0.0/8\"]\n";

/// An expression is read or refused at a place inside its text. One that is read has a canonical form that reads back as
/// the same, and both decide alike over the same facts, as a search and as a rule.
pub fn policy_expression(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lists = lists();
    let filter = match Filter::parse_with(text, lists) {
        Ok(filter) => filter,
        Err(problem) => {
            let line = problem.position.map_or(1, |position| position.line);
            assert!(line <= text.split('\n').count(), "a problem beside the text: {problem}");
            return;
        }
    };
    let canonical = filter.canonical();
    let again = Filter::parse_with(&canonical, lists);
    assert!(again.is_ok(), "{canonical:?} does not read back: {again:?}");
    let Ok(again) = again else { return };
    assert_eq!(again.canonical(), canonical, "the canonical form of {text:?} is not stable");
    let facts: Vec<Facts> = (0..4).map(|seed| facts(bytes, seed)).collect();
    for facts in &facts {
        assert_eq!(filter.matches(facts), again.matches(facts), "{text:?} and {canonical:?} differ over {facts:?}");
    }
    // As `allow`: a `block` looks at an application's own hosts only (ON-09).
    for gate in [Gate::Dns, Gate::Web] {
        let mut document = lists.document().clone();
        document.rules = vec![Rule { when: text.to_owned(), ..Rule::new("r", gate, model::Action::Allow) }];
        let Ok((policy, _)) = Policy::compile(&document) else { continue };
        for facts in facts.iter().filter(|facts| facts.gate() == gate) {
            let is_decided = matches!(policy.decide(facts, Question::Access, Timestamp(0)), Decision::Decided { .. });
            assert_eq!(is_decided, filter.matches(facts), "{text:?} as a rule and as a search over {facts:?}");
        }
    }
}

fn lists() -> &'static Policy {
    static COMPILED: OnceLock<Policy> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let compiled = Document::from_toml(LISTS).ok().and_then(|document| Policy::compile(&document).ok());
        compiled.map_or_else(Policy::empty, |(policy, _)| policy)
    })
}

/// A finished transaction in which most fields have a value that stands in the expression or near it.
fn facts(bytes: &[u8], seed: usize) -> Facts {
    let mut facts = Facts::new(if seed.is_multiple_of(2) { Gate::Web } else { Gate::Dns });
    facts.reach(Station::Record);
    let words: Vec<&str> = std::str::from_utf8(bytes).unwrap_or_default().split(['"', '{', '}', ' ', '#']).collect();
    for (place, field) in FieldId::all().enumerate() {
        let at = place.wrapping_mul(31).wrapping_add(seed.wrapping_mul(7));
        let word = words.get(at % words.len().max(1)).copied().unwrap_or_default();
        let value = match field.row().ty {
            _ if at.is_multiple_of(5) => continue,
            Type::Bool => Value::Bool(at.is_multiple_of(2)),
            Type::Int | Type::Time => Value::Int(word.parse().unwrap_or(at as i64 % 9)),
            Type::Ip => Value::Ip(address(word, at)),
            Type::Text => Value::text(word),
            Type::Ints => Value::ints([word.parse().unwrap_or(at as i64 % 9), 1]),
            Type::Ips => Value::ips([address(word, at)]),
            Type::Texts => Value::texts([word, "a.example"]),
            Type::TextMap => Value::TextMap(Arc::from([(Arc::from(word), Arc::from([Arc::from("x")]))])),
        };
        facts.set(field, value);
    }
    facts
}

fn address(word: &str, at: usize) -> IpAddr {
    let made =
        if at.is_multiple_of(3) { IpAddr::V6(Ipv6Addr::from(at as u128)) } else { IpAddr::V4(Ipv4Addr::new(10, 0, 0, at as u8)) };
    word.parse().unwrap_or(made)
}

/// A document is read or refused; one that is read is written as it was, and compiles or says why not.
pub fn policy_document(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(document) = Document::from_toml(text) else { return };
    let written = document.to_toml();
    assert!(written.is_ok(), "a document that cannot be written: {written:?}");
    let again = written.ok().and_then(|text| Document::from_toml(&text).ok());
    assert_eq!(again.as_ref(), Some(&document), "a document changes as it is written");
    match Policy::compile(&document) {
        Ok((policy, _)) => drop(policy.explain(&facts(bytes, 0), Timestamp(0))),
        Err(problems) => assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.to_string().is_empty())),
    }
}

/// An export is read or refused; what comes of it compiles, is written as it was, and comes out the same a second time.
pub fn cloudflare_import(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(imported) = import::cloudflare(&[text]) else { return };
    let compiled = Policy::compile(&imported.document);
    if let Err(problems) = &compiled {
        let is_of_a_rule = problems.iter().any(|problem| problem.place.to_string().contains("rule"));
        assert!(!is_of_a_rule, "an imported rule does not compile: {problems:?}");
    }
    let written = imported.document.to_toml().ok().and_then(|text| Document::from_toml(&text).ok());
    assert_eq!(written.as_ref(), Some(&imported.document), "an import changes as it is written");
    let again = import::cloudflare(&[text]).map(|again| again.document).ok();
    assert_eq!(again, Some(imported.document), "an import comes out differently");
    let _ = imported.report.to_string();
}
