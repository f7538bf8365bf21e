//! Turns a document into a snapshot: every list packed, every rule parsed and checked against its gate and action. All
//! problems are told at once, and what compiles but may surprise is told as warnings.

mod people;
mod widening;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{Action, FieldId, Gate, RuleName, Station};

use crate::document::{Document, List, Rule, RuleSettings};
use crate::expression::{Expression, Order, Test};
use crate::index::Index;
use crate::list::Table;
use crate::obligation::Effect;
use crate::parser::{Tables, parse};
use crate::schedule::Validity;
use crate::snapshot::{CompiledRule, PerQuestion, Rules};
use crate::{Place, Policy, Problem, Warning, WarningKind, matrix};

/// Rules of one policy. The hosted product allows some thousands; each is read at every decision.
pub const RULES_MAX: usize = 10_000;

impl Policy {
    /// Compiles a document whose lists hold their own entries.
    pub fn compile(document: &Document) -> Result<(Policy, Vec<Warning>), Vec<Problem>> {
        Policy::compile_with(document, &BTreeMap::new())
    }

    /// Compiles a document; `contents` holds, by list name, what lists with a `source` were filled with outside.
    pub fn compile_with(
        document: &Document,
        contents: &BTreeMap<String, Arc<Table>>,
    ) -> Result<(Policy, Vec<Warning>), Vec<Problem>> {
        let mut compiler = Compiler { document, problems: Vec::new(), warnings: Vec::new(), empty: BTreeSet::new() };
        compiler.check_people();
        let tables = compiler.tables(contents);
        let ordered = compiler.ordered();
        let compiled: Vec<CompiledRule> = ordered.into_iter().filter_map(|rule| compiler.rule(rule, &tables)).collect();
        if !compiler.problems.is_empty() {
            return Err(compiler.problems);
        }
        let order = order(&compiled);
        let index = index(&compiled, &order);
        let is_timed = |(_, rule): &(usize, &CompiledRule)| !rule.validity.is_always();
        let timed = compiled.iter().enumerate().filter(is_timed).map(|(place, _)| place as u32).collect();
        let rules = Rules { document: document.clone(), order, index, compiled, tables, timed };
        compiler.warn_of_order(&rules);
        Ok((Policy::of(rules), compiler.warnings))
    }
}

struct Compiler<'d> {
    document: &'d Document,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Names of lists that are disabled or hold nothing.
    empty: BTreeSet<String>,
}

fn order(compiled: &[CompiledRule]) -> PerQuestion<Box<[u32]>> {
    let mut order: PerQuestion<Vec<u32>> = Default::default();
    for (place, rule) in compiled.iter().enumerate() {
        order[rule.gate as usize][rule.action.question() as usize].push(place as u32);
    }
    order.map(|questions| questions.map(Vec::into_boxed_slice))
}

/// Whether what the rule matches is kept from the client.
fn refuses(action: Action) -> bool {
    matches!(action, Action::Block | Action::Redirect | Action::Quarantine | Action::Override)
}

/// ON-09: an application is refused by the hosts that are its own, so that its neighbours keep those that they share.
fn own_application(field: &mut FieldId) {
    *field = match *field {
        FieldId::AppIds => FieldId::AppOwnIds,
        FieldId::AppTypeIds => FieldId::AppOwnTypeIds,
        FieldId::AppNames => FieldId::AppOwnNames,
        FieldId::AppStatuses => FieldId::AppOwnStatuses,
        other => other,
    };
}

fn index(compiled: &[CompiledRule], order: &PerQuestion<Box<[u32]>>) -> PerQuestion<Index> {
    order.each_ref().map(|questions| {
        questions.each_ref().map(|places| {
            let rules: Vec<&CompiledRule> = places.iter().filter_map(|place| compiled.get(*place as usize)).collect();
            Index::new(rules.iter().map(|rule| &rule.expression))
        })
    })
}

fn place(rule: &Rule, part: &'static str) -> Place {
    Place::of(rule.file.as_deref(), format!("rule \"{}\"", rule.name), part)
}

impl<'d> Compiler<'d> {
    fn tables(&mut self, contents: &BTreeMap<String, Arc<Table>>) -> Tables {
        let mut tables = Tables::new();
        for list in &self.document.lists {
            let place = Place::of(list.file.as_deref(), format!("list \"{}\"", list.name), "");
            let table = self.table(list, contents, &place);
            if table.is_empty() {
                self.empty.extend([Some(list.name.clone()), list.id.clone()].into_iter().flatten());
            }
            let names: BTreeSet<&str> = std::iter::once(&*list.name).chain(list.id.as_deref()).collect();
            for name in names {
                if tables.insert(Arc::from(name), table.clone()).is_some() {
                    self.problems.push(Problem::new(format!("another list is called `{name}`")).placed(place.clone()));
                }
            }
        }
        tables
    }

    fn table(&mut self, list: &List, contents: &BTreeMap<String, Arc<Table>>, place: &Place) -> Arc<Table> {
        let none = || Arc::new(Table::build(list.kind, std::iter::empty()).0);
        if !list.enabled {
            return none();
        }
        if list.source.is_some() {
            if !list.entries.is_empty() {
                self.problems.push(Problem::new("a list has entries or a source, not both").placed(place.clone()));
            }
            let table = contents.get(&list.name).cloned().unwrap_or_else(none);
            if table.kind() != list.kind {
                self.problems.push(
                    Problem::new(format!("its source holds entries of kind {}", table.kind().as_str()))
                        .expected(list.kind.as_str())
                        .placed(place.clone()),
                );
            }
            return table;
        }
        let (table, problems) = Table::build(list.kind, list.entries.iter().map(String::as_str));
        self.problems.extend(problems.into_iter().map(|problem| problem.placed(place.clone())));
        Arc::new(table)
    }

    /// Enabled rules as they are read: those with a precedence first, rising, then the rest as written (GW-005, GW-011).
    fn ordered(&mut self) -> Vec<&'d Rule> {
        let mut rules: Vec<&Rule> = self.document.rules.iter().filter(|rule| rule.enabled).collect();
        if rules.len() > RULES_MAX {
            self.problems.push(Problem::new(format!("{} rules", rules.len())).expected(format!("at most {RULES_MAX}")));
        }
        let mut precedences = BTreeMap::new();
        let mut ids = BTreeMap::new();
        for rule in &rules {
            let twice = rule.precedence.and_then(|precedence| precedences.insert((rule.gate, precedence), rule));
            if let Some(other) = twice {
                let message = format!("the rule \"{}\" has the same precedence", other.name);
                self.problems.push(Problem::new(message).placed(place(rule, "precedence")));
            }
            // The hosted API takes zero and then differs from what was written for ever (CX-08).
            if rule.precedence.is_some_and(|precedence| precedence < 1) {
                let problem = Problem::new("a precedence below 1").expected("1 or more");
                self.problems.push(problem.placed(place(rule, "precedence")));
            }
            if rule.name.trim().is_empty() {
                self.problems.push(Problem::new("a rule has no name").placed(place(rule, "name")));
            }
            if let Some(other) = ids.insert(rule.id(), rule) {
                let message = format!("the rule \"{}\" has the same identifier `{}`", other.name, rule.id());
                self.problems.push(Problem::new(message).expected("an `id` of its own").placed(place(rule, "id")));
            }
        }
        rules.sort_by_key(|rule| (rule.precedence.is_none(), rule.precedence));
        rules
    }

    /// Compiles one rule; none where it has problems, which are kept.
    fn rule(&mut self, rule: &Rule, tables: &Tables) -> Option<CompiledRule> {
        let before = self.problems.len();
        let expression = self.expression(rule, tables);
        let latest = self.check_fields(rule, &expression);
        self.check_bodies(rule, &expression);
        self.warn_of_lists(rule, &expression);
        if !matrix::SERVED.contains(&rule.gate) {
            let message = format!("never takes effect: there is no gate `{}` to ask it", rule.gate.as_str());
            self.warn(WarningKind::NeverTakesEffect, place(rule, "gate"), message);
        }
        let settings = self.document.settings.as_ref();
        let zone = settings.and_then(|settings| settings.time_zone.as_deref());
        let validity = Validity::parse(rule.schedule.as_ref(), rule.expires.as_deref(), zone);
        let effect = Effect::parse(rule, settings.and_then(|settings| settings.block_reason.as_deref()));
        let validity = validity.map_err(|problem| self.problems.push(problem.placed(place(rule, "schedule")))).ok();
        let effect = effect
            .map_err(|problems| {
                self.problems.extend(problems.into_iter().map(|problem| problem.placed(place(rule, "settings"))));
            })
            .ok();
        self.check_timing(rule, effect.as_ref(), latest);
        let (validity, effect) = (validity?, effect?);
        let parts = [&rule.when, &rule.identity, &rule.device_posture].map(|part| part.trim());
        let written: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let source = if written.len() == 1 {
            written.concat()
        } else {
            written.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(" and ")
        };
        (self.problems.len() == before).then(|| CompiledRule {
            name: RuleName { id: Arc::from(rule.id()), name: Arc::from(&*rule.name) },
            gate: rule.gate,
            action: rule.action,
            canonical: expression.to_string().into(),
            source: source.into(),
            expression,
            validity,
            effect,
            latest,
            place: place(rule, ""),
        })
    }

    /// The three parts joined by `and`; an empty part is true (GW-004).
    fn expression(&mut self, rule: &Rule, tables: &Tables) -> Expression {
        let mut parts = Vec::new();
        for (part, source) in [("when", &rule.when), ("identity", &rule.identity), ("device_posture", &rule.device_posture)] {
            match parse(source, tables) {
                Ok(parsed) => {
                    for field in parsed.bare_arrays {
                        let name = field.row().name;
                        let message = format!("`{name}` is an array; it is read as `any({name}[*] ...)`");
                        self.warn(WarningKind::BareArray, place(rule, part), message);
                    }
                    parts.push(parsed.expression);
                }
                Err(problem) => self.problems.push(problem.placed(place(rule, part))),
            }
        }
        let mut whole = Expression::and(parts);
        if refuses(rule.action) {
            whole.change_fields(&own_application);
        }
        let RuleSettings { ip_categories, ip_indicator_feeds, ignore_cname_category_matches, .. } = rule.settings;
        if ip_categories || ip_indicator_feeds {
            whole = whole.widened(&|field| widening::of_addresses(field, ip_categories, ip_indicator_feeds));
        }
        if ignore_cname_category_matches {
            whole.change_fields(&widening::name_alone);
        }
        if self.document.settings.as_ref().is_some_and(|settings| settings.extended_email_matching) {
            whole.change_comparisons(&mut widening::by_mailbox);
        }
        whole
    }

    /// Every field must be seen at the rule's gate, and early enough for its action. Gives the last station.
    fn check_fields(&mut self, rule: &Rule, expression: &Expression) -> Station {
        let first = rule.gate.stations().first().copied().unwrap_or(Station::Connect);
        let Some(row) = matrix::row(rule.gate, rule.action) else {
            let actions: Vec<&str> =
                matrix::MATRIX.iter().filter(|pair| pair.gate == rule.gate).map(|pair| pair.action.as_str()).collect();
            let why = matrix::why_not(rule.action).map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("`{}` is not carried out at `{}`{why}", rule.action.as_str(), rule.gate.as_str());
            self.problems
                .push(Problem::new(message).expected(format!("one of {}", actions.join(", "))).placed(place(rule, "action")));
            return first;
        };
        let mut fields = BTreeSet::new();
        expression.fields(&mut |field| {
            fields.insert(field);
        });
        let mut latest = first;
        for field in fields {
            match field.row().station(rule.gate) {
                Some(station) if row.stations.contains(&station) => {
                    if rule.gate.position(station) > rule.gate.position(latest) {
                        latest = station;
                    }
                }
                Some(station) => self.refuse_pair(rule, field, station, row.reason),
                None => {
                    let message = format!("`{}` is never known at `{}`", field.row().name, rule.gate.as_str());
                    self.problems.push(Problem::new(message).placed(place(rule, "when")));
                }
            }
        }
        latest
    }

    fn refuse_pair(&mut self, rule: &Rule, field: FieldId, station: Station, reason: &str) {
        let pair = format!("`{}` with `{}`", rule.action.as_str(), field.row().name);
        let message = match station {
            Station::Record => format!("{pair}: the fact is known only in the record, when nothing is left to decide"),
            _ => format!("{pair}: the fact is known at `{}`, and {reason}", station.as_str()),
        };
        self.problems.push(Problem::new(message).placed(place(rule, "when")));
    }

    /// A body phase and file selectors that disagree would silently miss (HT-13, HT-15).
    fn check_bodies(&mut self, rule: &Rule, expression: &Expression) {
        let mut phase: Option<Arc<str>> = None;
        let mut fields = Vec::new();
        expression.conjuncts(&mut |comparison| match (&comparison.test, &comparison.operand) {
            (Test::Text(Order::Equal, text), crate::expression::Operand::Field { field: FieldId::BodyPhase, .. }) => {
                phase = Some(text.clone());
            }
            _ => comparison.operand.fields(&mut |field| fields.push(field)),
        });
        let other = match phase.as_deref() {
            Some("upload") => "http.download.",
            Some("download") => "http.upload.",
            _ => return,
        };
        if let Some(field) = fields.iter().find(|field| field.row().name.starts_with(other)) {
            let phase = phase.as_deref().unwrap_or_default();
            let message = format!("`http.body_phase == \"{phase}\"` with `{}`: the two never meet", field.row().name);
            self.problems.push(Problem::new(message).placed(place(rule, "when")));
        }
    }

    /// Settings that act on the request or on the origin's certificate need a decision by then.
    fn check_timing(&mut self, rule: &Rule, effect: Option<&Effect>, latest: Station) {
        let Some(effect) = effect else { return };
        let position = |station| rule.gate.position(station);
        let timed = [
            (!effect.headers.is_empty(), Station::Request, "header changes are made when the request is sent"),
            (effect.untrusted_certificate.is_some(), Station::Handshake, "the certificate is judged at the handshake"),
        ];
        for (is_set, station, reason) in timed {
            if is_set && position(latest) > position(station) {
                let message = format!("{reason}, and this rule decides at `{}`", latest.as_str());
                self.problems.push(Problem::new(message).placed(place(rule, "settings")));
            }
        }
    }

    fn warn(&mut self, kind: WarningKind, place: Place, message: String) {
        self.warnings.push(Warning { kind, place, message });
    }

    fn warn_of_lists(&mut self, rule: &Rule, expression: &Expression) {
        let mut named = BTreeSet::new();
        expression.lists(&mut |name| {
            named.insert(name.to_owned());
        });
        for name in named.intersection(&self.empty.clone()) {
            self.warn(WarningKind::EmptyList, place(rule, ""), format!("the list `{name}` is disabled or empty"));
        }
    }

    /// Rules that can never take effect, and rules that decide after bytes have left.
    fn warn_of_order(&mut self, rules: &Rules) {
        for places in rules.order.iter().flatten() {
            let ordered: Vec<&CompiledRule> = places.iter().filter_map(|place| rules.compiled.get(*place as usize)).collect();
            self.warn_of_shadows(&ordered);
            self.warn_of_waits(&ordered);
        }
    }

    fn warn_of_shadows(&mut self, ordered: &[&CompiledRule]) {
        let never = WarningKind::NeverTakesEffect;
        for (at, rule) in ordered.iter().enumerate() {
            let shadow = ordered[..at].iter().find(|above| {
                let is_same = above.canonical == rule.canonical || matches!(above.expression, Expression::Constant(true));
                above.validity.is_always() && is_same
            });
            if let Some(above) = shadow {
                let message = format!("never takes effect: the rule \"{}\" above decides first", above.name.name);
                self.warn(never, rule.place.clone(), message);
            } else if matches!(rule.expression, Expression::Constant(false)) {
                self.warn(never, rule.place.clone(), "never takes effect: its expression is false".to_owned());
            }
        }
    }

    fn warn_of_waits(&mut self, ordered: &[&CompiledRule]) {
        let mut above: Option<&CompiledRule> = None;
        for rule in ordered {
            let departure = matrix::departure(rule.gate);
            let is_late = |rule: &CompiledRule| rule.gate.position(rule.latest) > rule.gate.position(departure);
            let stops = matches!(rule.action, Action::Block | Action::Redirect);
            let acts_early = !rule.effect.headers.is_empty() || rule.effect.untrusted_certificate.is_some();
            if is_late(rule) {
                if stops {
                    let message = format!("decides at `{}`: {}", rule.latest.as_str(), meanwhile(rule.gate));
                    self.warn(WarningKind::MustWait, rule.place.clone(), message);
                }
                above = above.or(Some(rule));
            } else if let Some(above) = above.filter(|_| stops || acts_early) {
                let (name, station) = (&above.name.name, above.latest.as_str());
                let message =
                    format!("waits for the rule \"{name}\" above, which decides at `{station}`: {}", meanwhile(rule.gate));
                self.warn(WarningKind::MustWait, rule.place.clone(), message);
            }
        }
    }
}

/// What happens before a late rule decides.
const fn meanwhile(gate: Gate) -> &'static str {
    match gate {
        Gate::Dns => "the query goes upstream meanwhile",
        Gate::Web | Gate::Api => "the request goes upstream meanwhile",
        Gate::L4 => "the connection opens meanwhile",
        Gate::Mail => "the message is delivered meanwhile",
    }
}
