//! Brings rules and lists of the hosted Gateway over so that they keep doing what they did (features.md 1.2). There, rules
//! run in phases whatever their precedence, and one match ends several questions at once; here precedence is all there is.
//! So the rules are put into the order in which they ran, a rule that ended the evaluation gets an `allow` beside it, and
//! what cannot be carried over is named with the reason.

pub mod csv;
mod settings;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use model::{Action, FieldId, Gate, Station};
use serde::Serialize;
use serde_json::Value;

use crate::document::{Document, List, Rule, Schedule};
use crate::list::{Kind, Table};
use crate::parser::{Tables, parse};
use crate::{Error, Policy, Problem};
use source::{Source, SourceList, SourceRule, object};

/// A document made of an export, and what happened on the way.
#[derive(Clone, Debug)]
pub struct Imported {
    pub document: Document,
    pub report: Report,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Rules and lists that are in force.
    pub carried: usize,
    /// Rules that stand elsewhere than their precedence said.
    pub reordered: Vec<Remark>,
    /// Rules that were written otherwise to mean the same.
    pub rewritten: Vec<Remark>,
    /// What is not in force, and why.
    pub left_behind: Vec<Remark>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// `rule "x"` or `list "y"`.
    pub subject: String,
    pub message: String,
}

/// The phases in the order in which the hosted product runs them (GW-050, GW-056).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    DnsQuestion,
    Resolver,
    DnsAnswer,
    Network,
    Inspect,
    Isolate,
    Http,
}

impl Phase {
    const fn reason(self) -> &'static str {
        match self {
            Phase::DnsQuestion => "rules on the question ran before rules on the answer (GW-055)",
            Phase::DnsAnswer => "rules on the answer ran after all rules on the question (GW-055)",
            Phase::Resolver => "resolver rules ran in a phase of their own (GW-050)",
            Phase::Network => "network rules ran before HTTP rules (GW-050)",
            Phase::Inspect => "Do Not Inspect ran before every other HTTP rule (GW-056)",
            Phase::Isolate => "isolation ran before allow and block (GW-056)",
            Phase::Http => "allow and block ran after inspection and isolation (GW-056)",
        }
    }
}

/// A rule on its way: still in the order of its precedence.
struct Incoming {
    rule: Rule,
    phase: Phase,
    precedence: Option<i64>,
}

/// Reads one or several exports as one.
pub fn cloudflare(exports: &[&str]) -> Result<Imported, Error> {
    let mut whole = Source::default();
    for export in exports {
        let source = Source::read(export)?;
        whole.rules.extend(source.rules);
        whole.lists.extend(source.lists);
    }
    let mut import = Import::default();
    whole.lists.into_iter().for_each(|list| import.list(list));
    let mut incoming: Vec<Incoming> = whole.rules.into_iter().filter_map(|rule| import.rule(rule)).collect();
    incoming.sort_by_key(|incoming| (incoming.precedence.is_none(), incoming.precedence));
    import.place(incoming);
    Ok(Imported { document: import.document, report: import.report })
}

#[derive(Default)]
struct Import {
    document: Document,
    report: Report,
    ids: BTreeSet<String>,
}

fn remark(subject: &str, message: impl Into<String>) -> Remark {
    Remark { subject: subject.to_owned(), message: message.into() }
}

impl Import {
    fn list(&mut self, source: SourceList) {
        let name = source.name.unwrap_or_default();
        let subject = format!("list \"{name}\"");
        let kind = match source.kind.as_deref().unwrap_or_default().to_ascii_uppercase().as_str() {
            "DOMAIN" => Kind::Domain,
            "URL" => Kind::Url,
            "IP" => Kind::Ip,
            "EMAIL" => Kind::Email,
            "CATEGORY" => Kind::Int,
            "LOCATION" => Kind::Text,
            other => {
                let message = format!("lists of type {other} compare what this edge does not know");
                return self.report.left_behind.push(remark(&subject, message));
            }
        };
        let items = source.items.unwrap_or_default().into_iter().chain(source.items_with_description.unwrap_or_default());
        let entries: Vec<String> = items.filter_map(item).collect();
        if entries.is_empty() {
            let message = "exported without its items; add them, or the rules that name it never match";
            self.report.left_behind.push(remark(&subject, message));
        }
        let (table, problems) = Table::build(kind, entries.iter().map(String::as_str));
        let wrong: Vec<String> = problems.iter().map(Problem::to_string).collect();
        if !wrong.is_empty() {
            self.report.left_behind.push(remark(&subject, wrong.join("; ")));
        }
        self.report.carried += usize::from(!table.is_empty());
        let entries = entries.into_iter().filter(|entry| Table::accepts(kind, entry)).collect();
        let description = source.description.unwrap_or_default();
        // The rules name lists by identifier; two lists may have one name, so the identifier is kept as the list's own.
        let id = source.id.filter(|id| !id.is_empty() && *id != name);
        self.document.lists.push(List { id, name, description, kind, enabled: true, entries, source: None, file: None });
    }

    /// The rule in this language, or none where its action or layer has no counterpart.
    fn rule(&mut self, source: SourceRule) -> Option<Incoming> {
        if source.deleted_at.is_some() {
            return None;
        }
        let name = source.name.clone().unwrap_or_default();
        let subject = format!("rule \"{name}\"");
        let layers = source.filters.as_deref().unwrap_or_default();
        if layers.len() > 1 {
            let message = format!("names the layers {}; a rule has one (GW-003)", layers.join(" and "));
            self.report.left_behind.push(remark(&subject, message));
            return None;
        }
        let filter = layers.first().map_or("", String::as_str);
        let written = source.action.as_deref().unwrap_or_default();
        let Some(action) = Action::ALL.iter().copied().find(|action| action.as_str() == written) else {
            self.report.left_behind.push(remark(&subject, format!("there is no action `{written}` here")));
            return None;
        };
        let gate = match filter {
            "dns" | "dns_resolver" => Gate::Dns,
            "http" => Gate::Web,
            "l4" => Gate::L4,
            other => {
                let message = format!("rules of the layer `{other}` have no counterpart here (AC-19)");
                self.report.left_behind.push(remark(&subject, message));
                return None;
            }
        };
        let mut rule = Rule::new(name, gate, action);
        rule.id = source.id.clone().filter(|id| !id.is_empty());
        rule.description = source.description.clone().unwrap_or_default();
        rule.when = source.traffic.clone().unwrap_or_default();
        rule.identity = source.identity.clone().unwrap_or_default();
        rule.device_posture = source.device_posture.clone().unwrap_or_default();
        rule.enabled = source.enabled.unwrap_or(true);
        rule.schedule = schedule(&source.schedule);
        let expiration = object(&source.expiration);
        rule.expires = expiration.and_then(|expiration| expiration.get("expires_at")?.as_str()).map(str::to_owned);
        if expiration
            .is_some_and(|expiration| expiration.get("duration").and_then(Value::as_i64).is_some_and(|minutes| minutes > 0))
        {
            let message = "its setting `expiration.duration`: there is no call that resets an end; write a new one (GW-008)";
            self.report.left_behind.push(remark(&subject, message));
        }
        let (settings, lost) = settings::settings(gate, action, &source.rule_settings);
        rule.settings = settings;
        for (setting, reason) in lost {
            self.report.left_behind.push(remark(&subject, format!("its setting `{setting}`: {reason}")));
        }
        if rule.when.contains("dns.location") {
            let message = "names locations by identifier; call the location documents by it, or change the rule";
            self.report.rewritten.push(remark(&subject, message));
        }
        Some(Incoming { phase: phase(&rule), precedence: source.precedence, rule })
    }

    /// Puts the rules into the order of their phases and completes them.
    fn place(&mut self, incoming: Vec<Incoming>) {
        let mut ordered: Vec<(usize, Incoming)> = incoming.into_iter().enumerate().collect();
        ordered.sort_by_key(|(_, incoming)| incoming.phase);
        self.remark_on_order(&ordered);
        // Conditions of the rules of a phase that let pass, which ended its evaluation there.
        let mut allows: BTreeMap<Phase, Vec<String>> = BTreeMap::new();
        for (_, Incoming { mut rule, phase, .. }) in ordered {
            let above = allows.entry(phase).or_default();
            let is_active = self.settle(&mut rule);
            if rule.action == Action::Allow {
                if is_active && rule.schedule.is_none() && rule.expires.is_none() {
                    above.push(condition(&rule));
                } else if is_active {
                    let message = "while it is in force, other questions than access are answered below it too";
                    self.report.left_behind.push(remark(&format!("rule \"{}\"", rule.name), message));
                }
                self.push(rule);
            } else if (phase, rule.action) == (Phase::Network, Action::Block) {
                let twin = self.web_twin(&rule, above);
                if is_active {
                    let reach = if twin.is_some() {
                        "web traffic and services behind the L4 gate"
                    } else {
                        "services behind the L4 gate"
                    };
                    let message = format!("reaches {reach}, and no other connection of this network");
                    self.report.left_behind.push(remark(&format!("rule \"{}\"", rule.name), message));
                }
                self.push(rule);
                twin.into_iter().for_each(|twin| self.push(twin));
            } else if is_active && ends_evaluation(rule.action) {
                let beside = self.beside(&rule);
                self.except(&mut rule, above);
                self.push(rule);
                self.push(beside);
            } else {
                self.push(rule);
            }
        }
    }

    /// Switches off a rule that would not compile, and says why. True where it is in force.
    fn settle(&mut self, rule: &mut Rule) -> bool {
        if !rule.enabled {
            return false;
        }
        let lists = self.document.lists.iter().map(|list| List { entries: Vec::new(), ..list.clone() });
        let alone = Document { rules: vec![rule.clone()], lists: lists.collect(), ..Document::default() };
        if let Err(problems) = Policy::compile(&alone) {
            rule.enabled = false;
            let subject = format!("rule \"{}\"", rule.name);
            let reasons: Vec<String> =
                problems.into_iter().map(|problem| Problem { place: Box::default(), ..problem }.to_string()).collect();
            self.report.left_behind.push(remark(&subject, format!("switched off: {}", reasons.join("; "))));
        }
        rule.enabled
    }

    /// Adds a rule at the end of its gate, under an identifier of its own.
    fn push(&mut self, mut rule: Rule) {
        let wanted = rule.id().to_owned();
        let id = std::iter::once(wanted.clone()).chain((2..).map(|n| format!("{wanted}-{n}"))).find(|id| !self.ids.contains(id));
        if let Some(id) = id {
            self.ids.insert(id.clone());
            rule.id = (id != rule.name).then_some(id);
        }
        self.report.carried += usize::from(rule.enabled);
        self.document.rules.push(rule);
    }

    /// An `allow` with the same condition: there, the match ended the evaluation (GW-054, GW-057).
    fn beside(&mut self, rule: &Rule) -> Rule {
        let mut beside = Rule { action: Action::Allow, settings: Default::default(), ..rule.clone() };
        beside.name = format!("{} (ends here)", rule.name);
        beside.id = rule.id.as_ref().map(|id| format!("{id}-ends"));
        let message = format!("`{}` ended the evaluation, so an `allow` stands beside it", rule.action.as_str());
        self.report.rewritten.push(remark(&format!("rule \"{}\"", rule.name), message));
        beside
    }

    /// The same block for the web gate, in front of its own rules: there, network rules saw web traffic too (GW-053).
    fn web_twin(&mut self, rule: &Rule, allows: &[String]) -> Option<Rule> {
        let mut twin = Rule { gate: Gate::Web, ..rule.clone() };
        twin.name = format!("{} (web)", rule.name);
        twin.id = rule.id.as_ref().map(|id| format!("{id}-web"));
        let is_of_web = |rule: &Rule| {
            let fields = fields(rule, &tables(&self.document.lists));
            fields.iter().all(|field| field.row().station(Gate::Web).is_some())
        };
        if !rule.enabled || !is_of_web(&twin) {
            return None;
        }
        let message = "network rules saw web traffic too, so its like stands before the web rules";
        self.report.rewritten.push(remark(&format!("rule \"{}\"", rule.name), message));
        self.except(&mut twin, allows);
        Some(twin)
    }

    /// Leaves out what rules above had let pass.
    fn except(&mut self, rule: &mut Rule, allows: &[String]) {
        if allows.is_empty() {
            return;
        }
        let mut condition = condition(rule);
        for allow in allows {
            condition = format!("{condition} and not ({allow})");
        }
        rule.when = condition;
        rule.identity.clear();
        rule.device_posture.clear();
        if self.settle(rule) {
            let message = "leaves out what the `allow` rules above it let pass, which kept it from being reached";
            self.report.rewritten.push(remark(&format!("rule \"{}\"", rule.name), message));
        }
    }

    /// Names every rule that a rule with a higher precedence number has overtaken, or that has overtaken one.
    fn remark_on_order(&mut self, ordered: &[(usize, Incoming)]) {
        for (place, (was, incoming)) in ordered.iter().enumerate() {
            let rule = &incoming.rule;
            let is_rival = |other: &Incoming| {
                other.rule.gate == rule.gate
                    && other.rule.action.question() == rule.action.question()
                    && other.phase != incoming.phase
            };
            let overtook = ordered[place + 1..].iter().any(|(other, rival)| other < was && is_rival(rival));
            if overtook {
                let precedence = incoming.precedence.map_or("none".to_owned(), |precedence| precedence.to_string());
                let message = format!("stands earlier than its precedence {precedence}: {}", incoming.phase.reason());
                self.report.reordered.push(remark(&format!("rule \"{}\"", rule.name), message));
            }
        }
    }
}

/// Actions that answer a question of their own here and ended the whole evaluation there (GW-054, GW-057).
const fn ends_evaluation(action: Action) -> bool {
    matches!(
        action,
        Action::Override
            | Action::SafeSearch
            | Action::YoutubeRestricted
            | Action::DoNotInspect
            | Action::Scan
            | Action::DoNotScan
    )
}

/// The text of a list's item, which is a text, a number (categories), or an object with a `value`.
fn item(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Object(mut object) => match object.remove("value")? {
            Value::Object(_) => None,
            value => item(value),
        },
        _ => None,
    }
}

fn tables(lists: &[List]) -> Tables {
    let mut tables = Tables::new();
    for list in lists {
        let table = std::sync::Arc::new(Table::build(list.kind, std::iter::empty()).0);
        for name in std::iter::once(&*list.name).chain(list.id.as_deref()) {
            tables.insert(name.into(), table.clone());
        }
    }
    tables
}

/// All three expressions of a rule as one.
fn condition(rule: &Rule) -> String {
    let parts = [&rule.when, &rule.identity, &rule.device_posture].map(|part| part.trim());
    let written: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).map(|part| format!("({part})")).collect();
    if written.is_empty() { "true".to_owned() } else { written.join(" and ") }
}

/// Every field that a rule reads; none where it cannot be read.
fn fields(rule: &Rule, tables: &Tables) -> BTreeSet<FieldId> {
    let mut fields = BTreeSet::new();
    for part in [&rule.when, &rule.identity] {
        if let Ok(parsed) = parse(part, tables) {
            parsed.expression.fields(&mut |field| {
                fields.insert(field);
            });
        }
    }
    fields
}

/// The phase in which the hosted product ran a rule. A rule that mixes question and answer ran after the answer.
fn phase(rule: &Rule) -> Phase {
    match (rule.gate, rule.action) {
        (Gate::Dns, Action::Resolve) => Phase::Resolver,
        (Gate::Dns, _) => {
            // Names alone tell the station, so that lists need not be known.
            let reads_answer = FieldId::all().any(|field| {
                let row = field.row();
                row.station(Gate::Dns) == Some(Station::Answer)
                    && std::iter::once(&row.name).chain(row.aliases).any(|name| names(&rule.when, name))
            });
            if reads_answer { Phase::DnsAnswer } else { Phase::DnsQuestion }
        }
        (Gate::L4, _) => Phase::Network,
        (_, Action::Inspect | Action::DoNotInspect) => Phase::Inspect,
        (_, Action::Isolate | Action::DoNotIsolate) => Phase::Isolate,
        _ => Phase::Http,
    }
}

/// Whether an expression holds this name as a whole word.
fn names(expression: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    expression
        .match_indices(name)
        .any(|(at, _)| !expression[..at].ends_with(is_part) && !expression[at + name.len()..].starts_with(is_part))
}

/// The hours of a rule; the API writes a zone's underscores as blanks in places.
fn schedule(source: &Value) -> Option<Schedule> {
    let source = object(source)?;
    let text = |name: &str| source.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let schedule = Schedule {
        time_zone: text("time_zone").map(|zone| zone.replace(' ', "_")),
        mon: text("mon"),
        tue: text("tue"),
        wed: text("wed"),
        thu: text("thu"),
        fri: text("fri"),
        sat: text("sat"),
        sun: text("sun"),
    };
    let days = [&schedule.mon, &schedule.tue, &schedule.wed, &schedule.thu, &schedule.fri, &schedule.sat, &schedule.sun];
    days.iter().any(|day| day.is_some()).then_some(schedule)
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "in force: {}", self.carried)?;
        for (title, remarks) in
            [("reordered", &self.reordered), ("rewritten", &self.rewritten), ("left behind", &self.left_behind)]
        {
            for Remark { subject, message } in remarks {
                writeln!(f, "{title}: {subject}: {message}")?;
            }
        }
        Ok(())
    }
}
