//! One transaction's way through the checkpoint. The guard collects facts (`facts.rs`), asks the policy, and records exactly one final
//! event: by `finish`, or when it is dropped without it.

mod facts;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use model::{
    Action, Answer, Class, Destination, Disposition, Event, EventId, Facts, FieldId, Finding, Gate, Question, RuleName, Session,
    Severity, Station, Timestamp, TransactionId, Value, Verdict,
};
use policy::{Decision, Permit, Refusal};
use sha2::Digest as _;

use self::facts::connection_facts;
pub(crate) use self::facts::{host_knowledge, learn_addresses};
use crate::privacy::{keep, redact};
use crate::{Checkpoint, FailureMode, Precedent, Standing, State};

/// Findings of one transaction that are kept; an inspector that finds more is describing noise.
const FINDINGS_MAX: usize = 32;

/// How long after its deadline a scanner may still answer that it has missed it.
const SCAN_GRACE: Duration = Duration::from_secs(1);

/// A transaction that has begun and not ended.
#[must_use = "a passage that is dropped records that nothing was done"]
pub struct Passage {
    checkpoint: Checkpoint,
    state: Arc<State>,
    facts: Facts,
    verdict: Verdict,
    findings: Vec<Finding>,
    id: TransactionId,
    began: Timestamp,
    /// The moment that stands for the whole transaction, as long as it has not waited for anything.
    moment: Option<Timestamp>,
    bytes_out: u64,
    bytes_in: u64,
    failure: Option<&'static str>,
    /// What the access rules said when they were asked last.
    access: Option<Decision>,
    /// Set where the checkpoint itself must refuse, whatever the rules say.
    stopped: Option<Refusal>,
    /// What the scan of the first of two bodies said.
    other_body: Vec<(FieldId, Value)>,
    is_recorded: bool,
}

impl Passage {
    pub(crate) fn begin(checkpoint: Checkpoint, state: Arc<State>, session: &Session, moment: Option<Timestamp>) -> Passage {
        let began = moment.unwrap_or_else(|| checkpoint.now());
        let id = TransactionId(checkpoint.next_transaction());
        let mut facts = Facts::new(session.gate);
        connection_facts(&mut facts, session, began);
        let mut passage = Passage::new(checkpoint, state, facts, id, began);
        passage.moment = moment;
        passage.learn_place(FieldId::SourceIp, FieldId::SourceCountry, FieldId::SourceContinent);
        if session.gate == Gate::L4
            && let Some(system) = passage.state.knowledge.system(session.client.ip().to_canonical())
        {
            passage.facts.set(FieldId::SourceAsn, Value::Int(i64::from(system)));
        }
        passage
    }

    fn new(checkpoint: Checkpoint, state: Arc<State>, facts: Facts, id: TransactionId, began: Timestamp) -> Passage {
        Passage {
            checkpoint,
            state,
            facts,
            verdict: Verdict::default(),
            findings: Vec::new(),
            id,
            began,
            moment: None,
            bytes_out: 0,
            bytes_in: 0,
            failure: None,
            access: None,
            stopped: None,
            other_body: Vec::new(),
            is_recorded: false,
        }
    }

    /// A passage for `explain`: it leaves the checkpoint's hands only as facts, and nothing is recorded.
    pub(crate) fn rehearse(checkpoint: Checkpoint, state: Arc<State>, session: &Session) -> Passage {
        let mut passage = Passage::begin(checkpoint, state, session, None);
        passage.is_recorded = true;
        passage
    }

    /// A transaction inside this one's connection: a request in a decrypted tunnel. It knows what this one knows.
    pub fn child(&self) -> Passage {
        let checkpoint = self.checkpoint.clone();
        let state = checkpoint.0.state.load_full();
        let began = checkpoint.now();
        let id = TransactionId(checkpoint.next_transaction());
        let mut facts = self.facts.clone();
        facts.set(FieldId::Time, Value::Int(began.0));
        Passage::new(checkpoint, state, facts, id, began)
    }

    /// The gate is about to wait: from here on the clock is read anew.
    pub fn wait(&mut self) {
        self.moment = None;
    }

    fn now(&self) -> Timestamp {
        self.moment.unwrap_or_else(|| self.checkpoint.now())
    }

    /// The number by which the event is found again; block pages show it.
    pub fn reference(&self) -> TransactionId {
        self.id
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether a rule, not the default, has answered a question of this transaction.
    pub fn is_by_rule(&self, question: Question) -> bool {
        self.verdict.answer(question).is_some_and(|answer| answer.rule.is_some())
    }

    /// Moves on to a station and lets its inspectors look.
    pub fn reach(&mut self, station: Station) {
        self.facts.reach(station);
        self.inspect(inspect::INSPECTORS, station);
    }

    fn inspect(&mut self, inspectors: &[inspect::Inspector], station: Station) {
        let gate = self.facts.gate();
        for inspector in inspectors.iter().filter(|inspector| inspector.stations.contains(&(gate, station))) {
            match catch_unwind(AssertUnwindSafe(|| (inspector.inspect)(&self.facts, &self.state.knowledge))) {
                Ok(findings) => self.note(findings),
                Err(_) => self.inspector_failed(inspector.name),
            }
        }
    }

    /// Adds findings, and the fact that lists them.
    fn note(&mut self, findings: Vec<Finding>) {
        if findings.is_empty() {
            return;
        }
        self.findings.extend(findings);
        self.findings.truncate(FINDINGS_MAX);
        let titles = Value::texts(self.findings.iter().map(|finding| format!("{}: {}", finding.by, finding.title)));
        self.facts.set(FieldId::Findings, titles);
    }

    fn inspector_failed(&mut self, name: &'static str) {
        tracing::error!(inspector = name, "inspector panicked");
        self.failure = Some("inspector");
        if self.state.settings.inspector_failure == FailureMode::Closed {
            self.stopped = Some(own_refusal("inspector-failure", "this request could not be examined"));
        }
    }

    /// The answer to a question that is not about access: the deciding rule's action, or the default.
    pub fn ask(&mut self, question: Question) -> Action {
        let decision = self.state.policy.decide(&self.facts, question, self.now());
        self.answered(question, decision);
        decision.action().unwrap_or(default_of(question))
    }

    /// Leave to act at the station reached. Where a rule waits for a later fact the leave is for this station only, so the
    /// gate asks again at each later one.
    pub fn permit(&mut self, destination: Destination) -> Result<Permit, Refusal> {
        if let Some(refusal) = &self.stopped {
            let refusal = refusal.clone();
            self.refused(&refusal);
            return Err(refusal);
        }
        let (decision, outcome) = self.state.policy.permit(&self.facts, destination, self.now());
        if let (Some(rule), Some(_)) = (decision.rule(), decision.action()) {
            let unknown = self.state.policy.unresolved_variables(rule, &self.facts);
            self.note(unknown.into_iter().map(unknown_variable).collect());
        }
        self.access = Some(decision);
        self.answered(Question::Access, decision);
        if let Err(refusal) = &outcome {
            self.refused(refusal);
        }
        outcome
    }

    /// Refuses by a rule of the gate's own, named `builtin.` and this: every later permit of this transaction too.
    pub fn refuse(&mut self, id: &str, reason: &str) -> Refusal {
        let refusal = own_refusal(id, reason);
        self.stopped = Some(refusal.clone());
        self.refused(&refusal);
        refusal
    }

    /// Whether an access rule waits for a fact that is not known yet, so that the gate must ask again.
    pub fn is_waiting(&self) -> bool {
        matches!(self.access, Some(Decision::Undecided { .. }))
    }

    /// Whether the access rule that decided reads a field.
    pub fn is_access_by(&self, field: FieldId) -> bool {
        self.access.is_some_and(|decision| self.state.policy.decision_reads(decision, field))
    }

    /// Hands a file to the scanner and waits, bounded. A hit, or a file that could not be read where that fails closed,
    /// refuses every later permit of this transaction; a `noscan` rule is how a rule makes an exception.
    pub async fn scan(&mut self, file: File, name: &str) -> scan::Verdict {
        self.wait();
        let report = self.report_of(file, name).await;
        self.judge(report, name)
    }

    /// The same for a small body that is in memory. The file is made only where the scanner does not know its bytes already.
    pub async fn scan_held<Part: AsRef<[u8]>>(
        &mut self,
        parts: impl IntoIterator<Item = Part>,
        name: &str,
        file: impl FnOnce() -> std::io::Result<File>,
    ) -> std::io::Result<scan::Verdict> {
        self.wait();
        let mut hash = sha2::Sha256::new();
        let mut bytes = 0;
        for part in parts {
            hash.update(part.as_ref());
            bytes += part.as_ref().len() as u64;
        }
        let scanner = self.checkpoint.0.scanner.as_ref();
        let known = scanner.and_then(|scanner| scanner.known(hash.finalize().into(), bytes, name));
        let report = match known {
            Some(report) => report,
            None => self.report_of(file()?, name).await,
        };
        Ok(self.judge(report, name))
    }

    async fn report_of(&self, file: File, name: &str) -> scan::Report {
        let deadline = self.state.settings.scan_deadline();
        match self.checkpoint.0.scanner.clone() {
            // The scanner keeps the deadline itself; one that does not is not waited for.
            Some(scanner) => {
                let scanning = tokio::time::timeout(deadline + SCAN_GRACE, scanner.scan(file, name, deadline));
                scanning.await.unwrap_or_else(|_| scan::Report::unscannable(scan::Unscannable::TimeLimit, 0))
            }
            None => scan::Report::unscannable(scan::Unscannable::Unavailable, 0),
        }
    }

    /// What a report means for this transaction.
    fn judge(&mut self, report: scan::Report, name: &str) -> scan::Verdict {
        self.learn_report(&report, name);
        if let Some(reason) = self.listed_hash(&report.sha256) {
            self.stopped = Some(own_refusal("malware", &reason));
            self.learn(FieldId::IsMalicious, Value::Bool(true));
            return scan::Verdict::Malicious;
        }
        match &report.verdict {
            scan::Verdict::Malicious => {
                let reason = format!("malware found: {}", report.signature);
                self.stopped = Some(own_refusal("malware", &reason));
            }
            scan::Verdict::Unscannable(reason) if self.state.settings.unscannable == FailureMode::Closed => {
                let reason = format!("the file could not be scanned: {}", reason.as_str());
                self.stopped = Some(own_refusal("unscannable", &reason));
            }
            _ => {}
        }
        report.verdict
    }

    /// A body that the gate itself could not have scanned, and why. Where that fails closed every later permit is refused by
    /// a rule of the checkpoint's own, as after a scan (AV-04). What a scan found malicious stays so.
    pub fn unscanned(&mut self, reason: &'static str) {
        if self.facts.get(FieldId::IsMalicious) == Some(&Value::Bool(true)) {
            return;
        }
        self.learn(FieldId::ScanVerdict, Value::text("unscannable"));
        self.learn(FieldId::ScanReason, Value::text(reason));
        self.learn(FieldId::IsMalicious, Value::Bool(false));
        if self.state.settings.unscannable == FailureMode::Closed {
            self.stopped = Some(own_refusal("unscannable", &format!("the file could not be scanned: {reason}")));
        }
    }

    /// Why a file is refused by its hash alone: a list with a security category has it.
    fn listed_hash(&mut self, sha256: &str) -> Option<String> {
        let is_listed = !self.state.knowledge.hash(sha256).security.is_empty();
        if is_listed {
            self.learn(FieldId::ScanVerdict, Value::text("malicious"));
            self.learn(FieldId::ScanEngine, Value::text("list"));
        }
        is_listed.then(|| "this file is on a list of malware".to_owned())
    }

    /// Adds to the byte counts: `out` from the client, `into` to it.
    pub fn count(&mut self, out: u64, into: u64) {
        self.bytes_out = self.bytes_out.saturating_add(out);
        self.bytes_in = self.bytes_in.saturating_add(into);
    }

    /// What failed, in a word of the events' closed list. The first failure is kept: the later ones follow from it.
    pub fn fail(&mut self, failure: &'static str) {
        self.failure.get_or_insert(failure);
    }

    /// Ends the transaction and records its event.
    pub fn finish(mut self, disposition: Disposition) {
        self.record(disposition);
    }

    /// What others may follow of a permit that this transaction was given: the same leave again.
    pub fn leave(&self, permit: &Permit) -> Option<Standing> {
        self.state.policy.standing(permit, self.facts.gate(), self.moment?)
    }

    /// Ends the transaction as [`Passage::finish`] does, and gives what others may follow: none where it has waited, failed or
    /// been stopped by the checkpoint itself. `leave` is that for the act that ended it, and none where it was refused.
    pub fn finish_for_others(
        mut self,
        disposition: Disposition,
        session: &Session,
        leave: Option<Standing>,
    ) -> Option<Precedent> {
        let is_plain = self.moment.is_some() && self.failure.is_none() && self.stopped.is_none() && !self.is_recorded;
        if !is_plain {
            self.record(disposition);
            return None;
        }
        let event = self.event(disposition);
        let precedent = Precedent::of(&self.state, session, &event, disposition, leave);
        self.checkpoint.0.recorder.record(event);
        precedent
    }

    fn answered(&mut self, question: Question, decision: Decision) {
        let Some(answer) = self.state.policy.answer(question, decision) else { return };
        match self.verdict.answers.iter_mut().find(|answer| answer.question == question) {
            Some(earlier) => *earlier = answer,
            // A default is what holds where nothing is written down.
            None if answer.rule.is_none() => {}
            None => self.verdict.answers.push(answer),
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        let answer = Answer { question: Question::Access, action: refusal.action, rule: refusal.rule.clone() };
        self.verdict.answers.retain(|answer| answer.question != Question::Access || answer.rule.is_some());
        if !self.verdict.answers.contains(&answer) {
            self.verdict.answers.push(answer);
        }
        self.verdict.reason = refusal.reason.clone().into();
    }

    fn record(&mut self, disposition: Disposition) {
        if !self.is_recorded {
            let event = self.event(disposition);
            self.checkpoint.0.recorder.record(event);
        }
    }

    /// The final event, for whoever records it now: there is no other.
    fn event(&mut self, disposition: Disposition) -> Event {
        self.is_recorded = true;
        crate::counts::count(self.facts.gate(), disposition);
        let kept = match self.facts.get(FieldId::GroupNames) {
            Some(Value::Texts(names)) => keep(&self.state.settings.privacy, names),
            _ => keep(&self.state.settings.privacy, &[]),
        };
        self.record_facts(disposition);
        redact(&mut self.facts, kept);
        let facts = self.facts.take();
        Event { id: EventId(0), time: self.began, class: Class::of(facts.gate()), facts }
    }

    fn record_facts(&mut self, disposition: Disposition) {
        self.choose_body();
        self.facts.reach(Station::Record);
        let severity = self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Informational);
        let severity = if self.stopped.is_some() { severity.max(Severity::High) } else { severity };
        let now = self.now();
        let micros = now.0.saturating_sub(self.began.0);
        if self.facts.gate() == Gate::L4 {
            self.facts.set(FieldId::EndTime, Value::Int(now.0));
        }
        for (field, int) in [
            (FieldId::SeverityId, severity.id()),
            (FieldId::ActionId, disposition.action_id()),
            (FieldId::DispositionId, disposition.id()),
            (FieldId::PolicyRevision, self.state.policy.revision()),
            (FieldId::BytesOut, i64::try_from(self.bytes_out).unwrap_or(i64::MAX)),
            (FieldId::BytesIn, i64::try_from(self.bytes_in).unwrap_or(i64::MAX)),
            (FieldId::DurationMs, micros / 1000),
        ] {
            self.facts.set(field, Value::Int(int));
        }
        self.facts.set(FieldId::Reference, Value::Text(self.id.text()));
        self.learn(FieldId::VerdictOutcome, Value::text(disposition.as_str()));
        if !self.verdict.reason.is_empty() {
            self.learn(FieldId::VerdictReason, Value::Text(self.verdict.reason.clone()));
        }
        if let Some(failure) = self.failure {
            self.learn(FieldId::Failure, Value::text(failure));
        }
        self.record_rules();
    }

    fn record_rules(&mut self) {
        if let Some(rule) = self.verdict.answer(Question::Access).and_then(|answer| answer.rule.clone()) {
            self.learn(FieldId::VerdictRule, Value::Text(rule.name.into()));
            self.learn(FieldId::VerdictRuleId, Value::Text(rule.id.into()));
        }
        let rules: Vec<String> = self.verdict.answers.iter().filter_map(rule_text).collect();
        if !rules.is_empty() {
            self.learn(FieldId::VerdictRules, Value::texts(rules));
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let disposition = if self.failure.is_some() { Disposition::Error } else { Disposition::NoAction };
        self.record(disposition);
    }
}

/// What a question comes to when no rule answers it.
fn default_of(question: Question) -> Action {
    match question {
        Question::Inspect => Action::Inspect,
        Question::Isolate => Action::DoNotIsolate,
        Question::Scan => Action::Scan,
        Question::Access | Question::Answer | Question::Resolver => Action::Allow,
    }
}

/// A refusal by the checkpoint itself. Its rule has the prefix `builtin.`, which no document may use.
fn own_refusal(id: &str, reason: &str) -> Refusal {
    Refusal {
        action: Action::Block,
        rule: Some(RuleName { id: Arc::from(format!("builtin.{id}")), name: Arc::from(id) }),
        reason: Arc::from(reason),
        location: None,
        shows_page: false,
        context: policy::Context::None,
    }
}

/// GW-021: the header is sent with nothing in the variable's place, which the record says.
fn unknown_variable(name: &str) -> Finding {
    Finding {
        by: Arc::from("policy"),
        severity: Severity::Low,
        title: Arc::from(format!("the header variable @{{{name}}} is not known and was left empty")),
        evidence: Arc::from(name),
    }
}

fn finding(found: &scan::Finding) -> Finding {
    Finding {
        by: Arc::from("scan"),
        severity: if found.kind.is_suspicious() { Severity::Medium } else { Severity::Low },
        title: Arc::from(format!("{:?}", found.kind)),
        evidence: Arc::from(found.member.as_str()),
    }
}

fn rule_text(answer: &Answer) -> Option<String> {
    let rule = answer.rule.as_ref()?;
    Some(format!("{}={}:{}", answer.question.as_str(), answer.action.as_str(), rule.name))
}

#[cfg(test)]
#[path = "passage_tests.rs"]
mod tests;
