//! One transaction's way through the checkpoint. The guard collects facts, asks the policy, and records exactly one final
//! event: by `finish`, or when it is dropped without it.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use model::{
    Action, Answer, Class, Destination, Disposition, Event, EventId, Facts, FieldId, Finding, Gate, Question, RuleName, Session,
    Severity, Station, Text, Timestamp, TransactionId, Value, Verdict,
};
use policy::{Decision, Permit, Refusal};
use sha2::Digest as _;

use crate::privacy::{keep, redact};
use crate::{Checkpoint, FailureMode, State};

/// Findings of one transaction that are kept; an inspector that finds more is describing noise.
const FINDINGS_MAX: usize = 32;

/// How long after its deadline a scanner may still answer that it has missed it.
const SCAN_GRACE: Duration = Duration::from_secs(1);

/// A whole mebibyte, the unit of the file size selectors (HT-16).
const MEBIBYTE: u64 = 1 << 20;

/// Group names under which the file type selectors also match (HT-15).
const FILE_GROUPS: &[(&str, &[&str])] = &[
    ("compressed", &["7z", "bz2", "gz", "cab", "chm", "rar", "xz", "zip"]),
    ("documents", &["doc", "docx", "docm", "xls", "xlsx", "xlsm", "ppt", "pptx", "pptm", "pdf"]),
    ("executable", &["pkg", "dll", "elf", "jar", "class", "macho", "msi", "msix", "exe"]),
    ("image", &["psd", "bmp", "gif", "ico", "jpg", "png", "webp"]),
    ("system", &["dmg"]),
    ("other", &["torrent"]),
];

/// What a scan says of one body.
const FILE_FIELDS: &[FieldId] = &[
    FieldId::ScanVerdict,
    FieldId::IsMalicious,
    FieldId::FileSize,
    FieldId::FileName,
    FieldId::FileSha256,
    FieldId::FileType,
    FieldId::ScanReason,
    FieldId::ScanEngine,
    FieldId::ScanSignature,
    FieldId::ScanMember,
];

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

    /// Adds a fact, and those that what is known of addresses and URLs derives from it.
    pub fn learn(&mut self, field: FieldId, value: Value) {
        let fits = self.facts.set(field, value);
        debug_assert!(fits, "{} does not hold that type", field.row().name);
        match field {
            FieldId::DestinationIp => self.learn_place(field, FieldId::DestinationCountry, FieldId::DestinationContinent),
            FieldId::DnsResolvedIps => {
                self.learn_place(field, FieldId::DnsAnswerCountry, FieldId::DnsAnswerContinent);
                self.learn_addresses();
            }
            FieldId::HttpUrl => self.learn_url(),
            _ => {}
        }
    }

    /// Country and continent of an address, or of the first of several; by the operator's geography file.
    fn learn_place(&mut self, addresses: FieldId, country: FieldId, continent: FieldId) {
        let address = match self.facts.get(addresses) {
            Some(Value::Ip(address)) => Some(*address),
            Some(Value::Ips(addresses)) => addresses.first().copied(),
            _ => None,
        };
        let Some(address) = address else { return };
        let place = self.state.knowledge.place(address);
        for (field, text) in [(country, place.country), (continent, place.continent)] {
            if let Some(text) = text {
                self.facts.set(field, Value::text(text));
            }
        }
    }

    /// The categories of an exact URL, beside those of its host.
    fn learn_url(&mut self) {
        let state = self.state.clone();
        let Some(url) = self.facts.get(FieldId::HttpUrl).and_then(Value::as_text) else { return };
        let known = state.knowledge.url(url);
        self.add_ints(FieldId::HttpContentCategory, known.content);
        self.add_ints(FieldId::HttpSecurityCategory, known.security);
    }

    /// What lists say of the addresses of an answer, for rules that want to know (GW-033).
    fn learn_addresses(&mut self) {
        let state = self.state.clone();
        learn_addresses(&state.knowledge, &mut self.facts);
    }

    /// Everything that follows from a host name: its parents, categories, feeds and applications.
    pub fn learn_host(&mut self, host: &str) {
        let Some(name) = canonical(host) else { return };
        let (host_field, domains, ..) = host_fields(self.facts.gate());
        self.facts.set(host_field, Value::Text(name.clone()));
        self.facts.set(domains, Value::Parents(name.clone()));
        for (field, value) in host_knowledge(&self.state.knowledge, self.facts.gate(), &name) {
            self.facts.set(field, value);
        }
    }

    /// The application that accepts only its maker's own certificates at this host, if one does (TL-05, TL-11).
    pub fn pinned(&self, host: &str) -> Option<Arc<str>> {
        self.state.knowledge.pinned(host).cloned()
    }

    /// The categories of a name that the host turned out to be another name of: they count for it too (CT-07).
    pub fn learn_alias(&mut self, alias: &str) {
        let Some(alias) = canonical(alias) else { return };
        let state = self.state.clone();
        let known = state.knowledge.name(&alias);
        let (_, _, content, security) = host_fields(self.facts.gate());
        self.add_ints(content, known.content);
        self.add_ints(security, known.security);
        if self.facts.gate() == Gate::Dns {
            self.add_ints(FieldId::DnsIndicatorFeed, known.feeds);
        }
    }

    fn add_ints(&mut self, field: FieldId, more: &Arc<[i64]>) {
        add_ints(&mut self.facts, field, more);
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
        self.access.is_some_and(|decision| self.state.policy.reads(decision, field))
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

    fn learn_report(&mut self, report: &scan::Report, name: &str) {
        self.learn_body(report);
        self.note(report.findings.iter().map(finding).collect());
        self.put_aside();
        let reason = match &report.verdict {
            scan::Verdict::Unscannable(reason) => reason.as_str(),
            _ => "",
        };
        let verdict = report.verdict.as_str();
        self.learn(FieldId::ScanVerdict, Value::text(verdict));
        self.learn(FieldId::IsMalicious, Value::Bool(report.verdict == scan::Verdict::Malicious));
        self.learn(FieldId::FileSize, Value::Int(i64::try_from(report.size).unwrap_or(i64::MAX)));
        for (field, text) in [
            (FieldId::FileName, name),
            (FieldId::FileSha256, &report.sha256),
            (FieldId::FileType, &report.true_type),
            (FieldId::ScanReason, reason),
            (FieldId::ScanEngine, &report.engine),
            (FieldId::ScanSignature, &report.signature),
            (FieldId::ScanMember, &report.member),
        ] {
            if !text.is_empty() {
                self.learn(field, Value::text(text));
            }
        }
    }

    /// Keeps what is known of the transaction's other body while rules look at this one.
    fn put_aside(&mut self) {
        if self.facts.get(FieldId::ScanVerdict).is_some() {
            let known = FILE_FIELDS.iter().filter_map(|field| Some((*field, self.facts.get(*field)?.clone())));
            self.other_body = known.collect();
        }
        for field in FILE_FIELDS {
            self.facts.forget(*field);
        }
    }

    /// The record tells of the body that was worse, or as good and larger: the answer to an upload is not what it is about,
    /// and neither is the form that asked for a download.
    fn choose_body(&mut self) {
        let of = |field: FieldId| self.other_body.iter().find(|(known, _)| *known == field).map(|(_, value)| value);
        if weight(of(FieldId::ScanVerdict), of(FieldId::FileSize))
            <= weight(self.facts.get(FieldId::ScanVerdict), self.facts.get(FieldId::FileSize))
        {
            return;
        }
        for field in FILE_FIELDS {
            self.facts.forget(*field);
        }
        for (field, value) in std::mem::take(&mut self.other_body) {
            self.facts.set(field, value);
        }
    }

    /// The body selectors of the web gate (HT-15, HT-16), for the body in hand.
    fn learn_body(&mut self, report: &scan::Report) {
        let (types, size) = match self.facts.station() {
            Station::RequestBody => (FieldId::UploadFileTypes, FieldId::UploadFileSize),
            Station::ResponseBody => (FieldId::DownloadFileTypes, FieldId::DownloadFileSize),
            _ => return,
        };
        let groups = FILE_GROUPS.iter().filter(|(_, members)| members.contains(&report.true_type.as_str()));
        let names = std::iter::once(report.true_type.as_str()).chain(groups.map(|(group, _)| *group));
        self.learn(types, Value::texts(names.filter(|name| !name.is_empty())));
        self.learn(size, Value::Int(i64::try_from(report.size / MEBIBYTE).unwrap_or(i64::MAX)));
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
        if std::mem::replace(&mut self.is_recorded, true) {
            return;
        }
        crate::counts::count(self.facts.gate(), disposition);
        let kept = match self.facts.get(FieldId::GroupNames) {
            Some(Value::Texts(names)) => keep(&self.state.settings.privacy, names),
            _ => keep(&self.state.settings.privacy, &[]),
        };
        self.record_facts(disposition);
        redact(&mut self.facts, kept);
        let facts = self.facts.take();
        let event = Event { id: EventId(0), time: self.began, class: Class::of(facts.gate()), facts };
        self.checkpoint.0.recorder.record(event);
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
        self.facts.set(FieldId::Reference, Value::Text(reference_text(self.id)));
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

fn connection_facts(facts: &mut Facts, session: &Session, began: Timestamp) {
    use model::Transport;
    let protocol = if session.transport == Transport::Udp { "udp" } else { "tcp" };
    facts.set(FieldId::Time, Value::Int(began.0));
    facts.set(FieldId::GateName, Value::text(session.gate.as_str()));
    facts.set(FieldId::SourceIp, Value::Ip(session.client.ip().to_canonical()));
    facts.set(FieldId::SourcePort, Value::Int(i64::from(session.client.port())));
    facts.set(FieldId::Protocol, Value::text(protocol));
    facts.set(FieldId::OnRamp, Value::text(session.transport.as_str()));
    if session.gate == Gate::Dns {
        facts.set(FieldId::DnsResolverIp, Value::ips([session.local.ip().to_canonical()]));
    }
    if !session.location.is_empty() {
        facts.set(FieldId::Location, Value::Text(session.location.clone()));
    }
    let Some(identity) = &session.identity else { return };
    for (field, text) in [
        (FieldId::UserEmail, &identity.email),
        (FieldId::UserMailbox, &identity.mailbox),
        (FieldId::UserName, &identity.name),
        (FieldId::UserId, &identity.id),
        (FieldId::IdentityHow, &identity.how),
        (FieldId::DeviceId, &identity.device_id),
        (FieldId::DeviceName, &identity.device_name),
    ] {
        if !text.is_empty() {
            facts.set(field, Value::Text(text.clone().into()));
        }
    }
    if !identity.groups.is_empty() {
        facts.set(FieldId::GroupNames, Value::texts(identity.groups.iter().map(|group| &group.name)));
        facts.set(FieldId::GroupIds, Value::texts(identity.groups.iter().map(|group| &group.id)));
        facts.set(FieldId::GroupEmails, Value::texts(identity.groups.iter().map(|group| &group.email)));
    }
}

/// Puts numbers into a list that may have some of them already.
fn add_ints(facts: &mut Facts, field: FieldId, more: &Arc<[i64]>) {
    if more.is_empty() {
        return;
    }
    let mut ints = more.to_vec();
    if let Some(Value::Ints(present)) = facts.get(field) {
        ints.extend(present.iter().filter(|int| !more.contains(int)));
    }
    facts.set(field, Value::ints(ints));
}

/// What is known of the addresses of an answer.
pub(crate) fn learn_addresses(knowledge: &intel::Snapshot, facts: &mut Facts) {
    let Some(Value::Ips(addresses)) = facts.get(FieldId::DnsResolvedIps).cloned() else { return };
    for address in addresses.iter() {
        let known = knowledge.address(*address);
        add_ints(facts, FieldId::DnsAddressContentCategory, known.content);
        add_ints(facts, FieldId::DnsAddressSecurityCategory, known.security);
        add_ints(facts, FieldId::DnsAddressIndicatorFeed, known.feeds);
    }
}

/// What is known of a host, as facts of a gate.
pub(crate) fn host_knowledge(
    knowledge: &intel::Snapshot,
    gate: Gate,
    host: &str,
) -> impl Iterator<Item = (FieldId, Value)> + use<> {
    let (_, _, content, security) = host_fields(gate);
    let known = knowledge.name(host);
    let applications = known.applications;
    // Of a DNS name the rules may ask for more, which is known of no other host.
    let dns = |field, ints: &Arc<[i64]>| (gate == Gate::Dns && !ints.is_empty()).then(|| (field, Value::Ints(ints.clone())));
    let of_name = [
        dns(FieldId::DnsIndicatorFeed, known.feeds),
        dns(FieldId::DnsNameContentCategory, known.content),
        dns(FieldId::DnsNameSecurityCategory, known.security),
    ];
    let ints = [
        (content, known.content),
        (security, known.security),
        (FieldId::AppIds, &applications.ids),
        (FieldId::AppOwnIds, &applications.own_ids),
        (FieldId::AppSupportIds, &applications.support_ids),
        (FieldId::AppTypeIds, &applications.type_ids),
        (FieldId::AppOwnTypeIds, &applications.own_type_ids),
    ]
    .map(|(field, ints)| (!ints.is_empty()).then(|| (field, Value::Ints(ints.clone()))));
    let texts = [
        (FieldId::AppNames, &applications.names),
        (FieldId::AppOwnNames, &applications.own_names),
        (FieldId::AppStatuses, &applications.statuses),
        (FieldId::AppOwnStatuses, &applications.own_statuses),
    ]
    .map(|(field, texts)| (!texts.is_empty()).then(|| (field, Value::Texts(texts.clone()))));
    ints.into_iter().chain(of_name).chain(texts).flatten()
}

/// The host in the one form that facts have, which most have already.
fn canonical(host: &str) -> Option<Text> {
    if model::name::is_canonical(host) {
        return Some(Text::new(host));
    }
    model::name::canonical(host).map(Text::from)
}

/// Sixteen hexadecimal digits, as block pages and the record show the number.
fn reference_text(id: TransactionId) -> Text {
    let digit = |place: u32| char::from_digit((id.0 >> (60 - 4 * place)) as u32 & 0xf, 16);
    (0..16).filter_map(digit).collect()
}

/// Where a gate keeps a host, its parents, and the categories of both kinds.
fn host_fields(gate: Gate) -> (FieldId, FieldId, FieldId, FieldId) {
    match gate {
        Gate::Dns => (FieldId::DnsFqdn, FieldId::DnsDomains, FieldId::DnsContentCategory, FieldId::DnsSecurityCategory),
        Gate::Web | Gate::Api | Gate::Mail => {
            (FieldId::HttpHost, FieldId::HttpDomains, FieldId::HttpContentCategory, FieldId::HttpSecurityCategory)
        }
        Gate::L4 => (FieldId::SniHost, FieldId::SniDomains, FieldId::FqdnContentCategory, FieldId::FqdnSecurityCategory),
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

/// How much the record wants to tell of a body: by its verdict, then by its size.
fn weight(verdict: Option<&Value>, size: Option<&Value>) -> (u8, i64) {
    let badness = match verdict.and_then(Value::as_text) {
        None => 0,
        Some("clean") => 1,
        Some("unscannable") => 2,
        Some("suspicious") => 3,
        Some(_) => 4,
    };
    let size = match size {
        Some(Value::Int(size)) => *size,
        _ => 0,
    };
    (badness, size)
}

fn rule_text(answer: &Answer) -> Option<String> {
    let rule = answer.rule.as_ref()?;
    Some(format!("{}={}:{}", answer.question.as_str(), answer.action.as_str(), rule.name))
}

#[cfg(test)]
#[path = "passage_tests.rs"]
mod tests;
