//! The facts of a transaction: of its connection, of the host and its aliases, of addresses and URLs, of bodies. What is
//! known of each follows from it here; what is decided about it is the passage's business.

use std::sync::Arc;

use model::{Facts, FieldId, Gate, Session, Station, Text, Timestamp, Value};

use super::{Passage, finding};

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

impl Passage {
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
    pub(super) fn learn_place(&mut self, addresses: FieldId, country: FieldId, continent: FieldId) {
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

    pub(super) fn learn_report(&mut self, report: &scan::Report, name: &str) {
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
    pub(super) fn choose_body(&mut self) {
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
}

pub(super) fn connection_facts(facts: &mut Facts, session: &Session, began: Timestamp) {
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
