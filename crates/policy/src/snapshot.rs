//! The compiled policy: immutable, shared, and asked at every station. Rules of one question are read from top to bottom;
//! the first that is true decides, and one that cannot be told yet makes those below it wait, so that precedence always
//! means precedence (features.md 1.2; GW-055 differs from the hosted product on purpose).

use std::sync::Arc;

use model::{Action, Answer, Destination, Facts, FieldId, Gate, Obligation, Question, RuleName, Station, Timestamp};

use crate::document::{Document, Redirect};
use crate::evaluate::{Truth, evaluate};
use crate::expression::Expression;
use crate::index::Index;
use crate::list::Table;
use crate::obligation::Effect;
use crate::parser::Tables;
use crate::schedule::Validity;
use crate::{Context, Permit, Place, Refusal, Warning, WarningKind};

/// A rule by its place in the compiled policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(u32);

/// The answer to one question at one station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Decided {
        action: Action,
        rule: RuleId,
    },
    /// This rule waits for a fact, and all below wait with it.
    Undecided {
        waits_for: FieldId,
        rule: RuleId,
    },
    /// No rule matched.
    Default(Action),
}

/// An immutable snapshot; cloning shares it.
#[derive(Clone, Debug)]
pub struct Policy {
    revision: i64,
    rules: Arc<Rules>,
}

#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub document: Document,
    pub compiled: Vec<CompiledRule>,
    /// Places in `compiled`, by gate and question.
    pub order: PerQuestion<Box<[u32]>>,
    /// The rules of `order` by what they hang on.
    pub index: PerQuestion<Index>,
    pub tables: Tables,
    /// Places in `compiled` of rules that are not always in force.
    pub timed: Box<[u32]>,
}

/// Something for each question of each gate.
pub(crate) type PerQuestion<T> = [[T; Question::ALL.len()]; Gate::ALL.len()];

#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub name: RuleName,
    pub gate: Gate,
    pub action: Action,
    pub expression: Expression,
    /// As written, the parts joined.
    pub source: Arc<str>,
    pub canonical: Arc<str>,
    pub validity: Validity,
    pub effect: Effect,
    /// The last station whose facts are read.
    pub latest: Station,
    pub place: Place,
}

/// The action where no rule matches.
pub(crate) const fn default_action(question: Question) -> Action {
    match question {
        Question::Resolver => Action::Resolve,
        Question::Answer | Question::Access => Action::Allow,
        Question::Inspect => Action::Inspect,
        Question::Isolate => Action::DoNotIsolate,
        Question::Scan => Action::Scan,
    }
}

impl Decision {
    /// The action, unless it is still open.
    pub fn action(&self) -> Option<Action> {
        match self {
            Decision::Decided { action, .. } | Decision::Default(action) => Some(*action),
            Decision::Undecided { .. } => None,
        }
    }

    /// The rule that decided or that waits.
    pub fn rule(&self) -> Option<RuleId> {
        match self {
            Decision::Decided { rule, .. } | Decision::Undecided { rule, .. } => Some(*rule),
            Decision::Default(_) => None,
        }
    }
}

impl Policy {
    pub(crate) fn of(rules: Rules) -> Policy {
        Policy { revision: 0, rules: Arc::new(rules) }
    }

    /// Without rules: every question gets its default.
    pub fn empty() -> Policy {
        Policy::of(Rules::default())
    }

    pub(crate) fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn with_revision(self, revision: i64) -> Policy {
        Policy { revision, ..self }
    }

    pub fn document(&self) -> &Document {
        &self.rules.document
    }

    /// One question at the facts' station. Rules that cannot concern these facts are not read; `explain` reads them all.
    pub fn decide(&self, facts: &Facts, question: Question, now: Timestamp) -> Decision {
        let order = self.order(facts.gate(), question);
        if order.is_empty() {
            return Decision::Default(default_action(question));
        }
        let index = &self.rules.index[facts.gate() as usize][question as usize];
        for place in index.candidates(facts).iter().filter_map(|at| order.get(at)) {
            let Some(rule) = self.rules.compiled.get(*place as usize) else { continue };
            match evaluate(&rule.expression, facts) {
                Truth::False => {}
                // Hours are looked at last, for they cost more than most expressions.
                _ if !rule.validity.is_in_force(now) => {}
                Truth::True => return Decision::Decided { action: rule.action, rule: RuleId(*place) },
                Truth::Unknown(waits_for) => return Decision::Undecided { waits_for, rule: RuleId(*place) },
            }
        }
        Decision::Default(default_action(question))
    }

    /// May it pass at this station? A decision that is still open gives leave for this station only: the gate must ask
    /// again at the next. The permit carries what the rules oblige to.
    pub fn permit(&self, facts: &Facts, destination: Destination, now: Timestamp) -> (Decision, Result<Permit, Refusal>) {
        let decision = self.decide(facts, Question::Access, now);
        let rule = match decision {
            Decision::Decided { rule, .. } => self.compiled(rule),
            _ => None,
        };
        if let (Decision::Decided { action, .. }, Some(rule)) = (decision, rule)
            && action != Action::Allow
        {
            return (decision, Err(rule.refusal(facts)));
        }
        let obligations = self.obligations(facts, rule, now);
        (decision, Ok(Permit::mint(destination, obligations, facts.station())))
    }

    fn obligations(&self, facts: &Facts, access: Option<&CompiledRule>, now: Timestamp) -> Vec<Obligation> {
        let mut obligations = Vec::new();
        let station = facts.station();
        if facts.gate() == Gate::Dns && matches!(station, Station::Connect | Station::Question) {
            for question in [Question::Resolver, Question::Answer] {
                if let Decision::Decided { rule, .. } = self.decide(facts, question, now) {
                    obligations.extend(self.compiled(rule).and_then(|rule| rule.effect.replacement.clone()));
                }
            }
        }
        let Some(CompiledRule { effect, .. }) = access else { return obligations };
        if effect.skips_dnssec {
            obligations.push(Obligation::DangerSkipDnssec);
        }
        if let Some(action) = effect.untrusted_certificate {
            obligations.push(Obligation::UntrustedCertificate { action });
        }
        if station == Station::Request && !effect.headers.is_empty() {
            obligations.push(Obligation::Headers { changes: effect.header_changes(facts) });
        }
        obligations
    }

    /// Variables of a rule's header values that cannot be known for this request (GW-021).
    pub fn unresolved_variables(&self, rule: RuleId, facts: &Facts) -> Vec<&'static str> {
        match self.compiled(rule) {
            Some(rule) if facts.station() == Station::Request => rule.effect.unresolved_variables(facts),
            _ => Vec::new(),
        }
    }

    /// The name of a rule for the record.
    pub fn rule_name(&self, rule: RuleId) -> Option<&RuleName> {
        self.compiled(rule).map(|rule| &rule.name)
    }

    /// A rule's expression in canonical form (GW-010); the source stands in the document.
    pub fn canonical(&self, rule: RuleId) -> Option<&str> {
        self.compiled(rule).map(|rule| &*rule.canonical)
    }

    /// A decision as the verdict lists it; none while it is open.
    pub fn answer(&self, question: Question, decision: Decision) -> Option<Answer> {
        let rule = decision.rule().and_then(|rule| self.rule_name(rule)).cloned();
        decision.action().map(|action| Answer { question, action, rule })
    }

    /// Whether the rule that decided, or that waits, reads a field.
    pub fn decision_reads(&self, decision: Decision, field: FieldId) -> bool {
        let mut is_read = false;
        if let Some(rule) = decision.rule().and_then(|rule| self.compiled(rule)) {
            rule.expression.fields(&mut |read| is_read |= read == field);
        }
        is_read
    }

    /// Rules whose last moment has passed.
    pub fn expired(&self, now: Timestamp) -> Vec<Warning> {
        let expired = self.rules.compiled.iter().filter(|rule| rule.validity.has_expired(now));
        let warn = |rule: &CompiledRule| Warning {
            kind: WarningKind::Expired,
            place: rule.place.clone(),
            message: "the rule has expired".to_owned(),
        };
        expired.map(warn).collect()
    }

    /// A compiled list by name or identifier.
    pub fn list(&self, name: &str) -> Option<&Arc<Table>> {
        self.rules.tables.get(name)
    }

    pub(crate) fn tables(&self) -> &Tables {
        &self.rules.tables
    }

    pub(crate) fn compiled(&self, rule: RuleId) -> Option<&CompiledRule> {
        self.rules.compiled.get(rule.0 as usize)
    }

    pub(crate) fn ids(&self, gate: Gate, question: Question) -> impl Iterator<Item = RuleId> + '_ {
        self.order(gate, question).iter().map(|place| RuleId(*place))
    }

    fn order(&self, gate: Gate, question: Question) -> &[u32] {
        &self.rules.order[gate as usize][question as usize]
    }
}

fn context(redirect: &Redirect) -> Context {
    match (redirect.danger_plain_context, redirect.include_context) {
        (true, _) => Context::DangerPlain,
        (false, true) => Context::Sealed,
        (false, false) => Context::None,
    }
}

impl CompiledRule {
    fn refusal(&self, facts: &Facts) -> Refusal {
        Refusal {
            action: self.action,
            rule: Some(self.name.clone()),
            reason: self.effect.reason.clone(),
            location: self.effect.location(facts),
            shows_page: self.effect.shows_page,
            context: self.effect.redirect.as_ref().map_or(Context::None, context),
        }
    }
}
