//! One scan: a file, its members, their members. Every member is matched by the engines, looked at for active content
//! and opened if it is a container. This file owns the order, the limits and the verdict; formats only hand members in.

use crate::active;
use crate::capped::{Budget, End};
use crate::clock::Clock;
use crate::engines::{Engines, Hit};
use crate::format::{self, Format, Opener};
use crate::formats;
use crate::limits::Limits;
use crate::report::{FINDINGS_MAX, Finding, FindingKind, MEMBER_BYTES_MAX, Report, Unscannable, Verdict};
use sha2::Digest;
use std::io::Read;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Continue with the next member, or stop because a hit or a hard limit ended the scan.
pub(crate) type Flow = ControlFlow<()>;
/// `Err` says why this one container could not be read to its end; the scan goes on beside it.
pub(crate) type Step = Result<(), Unscannable>;

/// Where a member stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Members joined by `!`; empty for the file itself.
    pub(crate) path: String,
    pub(crate) depth: u32,
    /// Some container around this member is a document; mail and archives carry programs rightfully, documents do not.
    pub(crate) in_document: bool,
}

impl Node {
    fn child(&self, name: &str) -> Node {
        let separator = if self.path.is_empty() { "" } else { "!" };
        let mut path = format!("{}{separator}{}", self.path, name);
        truncate(&mut path, MEMBER_BYTES_MAX);
        Node { path, depth: self.depth + 1, in_document: self.in_document }
    }
}

fn truncate(text: &mut String, bytes_max: usize) {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// The state of one scan.
pub(crate) struct Walk<'a> {
    engines: &'a Engines,
    pub(crate) budget: Budget<'a>,
    hit: Option<(Hit, String)>,
    reason: Option<Unscannable>,
    halted: bool,
    findings: Vec<Finding>,
}

/// Scans one file.
pub(crate) fn scan(engines: &Engines, limits: &Limits, clock: &dyn Clock, name: &str, bytes: &[u8]) -> Report {
    scan_as(engines, limits, clock, name, format::detect(bytes), bytes)
}

/// Scans one file whose format is said by the caller.
pub(crate) fn scan_as(
    engines: &Engines,
    limits: &Limits,
    clock: &dyn Clock,
    name: &str,
    format: &'static Format,
    bytes: &[u8],
) -> Report {
    let size = bytes.len() as u64;
    let mut report = identify(engines, format, bytes);
    if size > limits.input_bytes {
        report.verdict = Verdict::Unscannable(Unscannable::TooLarge);
        return report;
    }
    let mut walk =
        Walk { engines, budget: Budget::new(limits, clock, size), hit: None, reason: None, halted: false, findings: Vec::new() };
    let root = Node { path: String::new(), depth: 0, in_document: false };
    walk.compare_with_name(&root, name, format);
    let _ = walk.visit_as(&root, format, bytes);
    walk.conclude(&mut report);
    report
}

fn identify(engines: &Engines, format: &Format, bytes: &[u8]) -> Report {
    let mut report = Report::unscannable(Unscannable::Crashed, bytes.len() as u64);
    report.sha256 = hex(&sha2::Sha256::digest(bytes));
    report.true_type = format.name.to_owned();
    report.mime = format.mime.to_owned();
    report.definitions = engines.version().to_owned();
    report
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

impl Walk<'_> {
    fn conclude(self, report: &mut Report) {
        report.entries = self.budget.entries();
        report.findings = self.findings;
        let suspicious = report.findings.iter().find(|finding| finding.kind.is_suspicious());
        report.verdict = match (self.hit, self.reason, suspicious) {
            (Some((hit, member)), _, _) => {
                report.engine = hit.engine.to_owned();
                report.signature = hit.signature;
                report.member = member;
                Verdict::Malicious
            }
            (None, Some(reason), _) => Verdict::Unscannable(reason),
            (None, None, Some(_)) => Verdict::Suspicious,
            (None, None, None) => Verdict::Clean,
        };
    }

    /// Examines one member: engines first, since a hit makes opening it needless.
    pub(crate) fn visit(&mut self, node: &Node, bytes: &[u8]) -> Flow {
        let format = format::detect(bytes);
        let name = node.path.rsplit(['!', '/']).next().unwrap_or_default().to_owned();
        self.compare_with_name(node, &name, format);
        self.visit_as(node, format, bytes)
    }

    /// Matches bytes that are most likely nothing: no entry is counted, nothing is opened.
    pub(crate) fn probe(&mut self, parent: &Node, name: &str, bytes: &[u8]) -> Flow {
        if let Err(limit) = self.budget.check_time() {
            return self.halt(limit);
        }
        match self.engines.matches_cheaply(bytes) {
            Ok(Some(hit)) => {
                self.hit = Some((hit, parent.child(name).path));
                self.halted = true;
            }
            Ok(None) => {}
            Err(limit) => return self.halt(limit),
        }
        self.flow()
    }

    /// Examines a member whose format the container dictates.
    pub(crate) fn visit_as(&mut self, node: &Node, format: &'static Format, bytes: &[u8]) -> Flow {
        if self.halted {
            return Flow::Break(());
        }
        if let Err(limit) = self.budget.check_time() {
            return self.halt(limit);
        }
        match self.engines.matches(bytes, self.budget.time_left()) {
            Ok(Some(hit)) => {
                self.hit = Some((hit, node.path.clone()));
                self.halted = true;
                return Flow::Break(());
            }
            Ok(None) => {}
            Err(reason) => self.note(node, reason, "engine"),
        }
        active::inspect(self, node, format, bytes);
        formats::script::inspect(self, node, format, bytes);
        self.open(node, format, bytes)
    }

    fn open(&mut self, node: &Node, format: &'static Format, bytes: &[u8]) -> Flow {
        let node = &Node { in_document: node.in_document || format::is_document(format), ..node.clone() };
        match format.opener {
            Opener::Leaf => {}
            Opener::Sealed(reason) => self.note(node, reason, format.name),
            Opener::Container(_) if node.depth >= self.budget.depth_max() => {
                self.note(node, Unscannable::DepthLimit, format.name)
            }
            Opener::Container(open) => self.guarded(node, format.name, |walk| open(walk, node, bytes)),
        }
        if !self.halted && node.depth < self.budget.depth_max() {
            self.guarded(node, "carriers", |walk| formats::carrier::open(walk, node, format, bytes));
        }
        self.flow()
    }

    /// Runs a parser; a panic inside it costs this container, not the scan.
    fn guarded(&mut self, node: &Node, what: &str, parse: impl FnOnce(&mut Self) -> Step) {
        let outcome = catch_unwind(AssertUnwindSafe(|| parse(self)));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => self.note(node, reason, what),
            Err(_) => self.note(node, Unscannable::Crashed, what),
        }
    }

    pub(crate) fn flow(&self) -> Flow {
        if self.halted { Flow::Break(()) } else { Flow::Continue(()) }
    }

    /// Ends the scan: a limit of the whole file was reached.
    pub(crate) fn halt(&mut self, limit: Unscannable) -> Flow {
        self.raise(limit);
        self.halted = true;
        Flow::Break(())
    }

    fn raise(&mut self, reason: Unscannable) {
        if self.reason.is_none_or(|known| known.rank() < reason.rank()) {
            self.reason = Some(reason);
        }
    }

    /// Remembers that something could not be read; the rest of the file is still examined.
    pub(crate) fn note(&mut self, node: &Node, reason: Unscannable, what: &str) {
        self.raise(reason);
        self.find(node, FindingKind::NotRead, &format!("{what}: {}", reason.as_str()));
    }

    /// Examines something that may not be what it looks like: failing to read it is forgotten, unless it ended the scan or
    /// is an archive that somebody encrypted.
    pub(crate) fn tentative(&mut self, examine: impl FnOnce(&mut Self) -> Flow) -> Flow {
        let reason = self.reason;
        let findings = self.findings.len();
        let flow = examine(self);
        let is_certain = self.halted || self.reason == Some(Unscannable::Encrypted);
        if !is_certain {
            self.reason = reason;
            let mut index = 0;
            self.findings.retain(|finding| {
                index += 1;
                index <= findings || finding.kind != FindingKind::NotRead
            });
        }
        flow
    }

    pub(crate) fn find(&mut self, node: &Node, kind: FindingKind, detail: &str) {
        if self.findings.len() >= FINDINGS_MAX {
            return;
        }
        let mut detail = detail.to_owned();
        truncate(&mut detail, MEMBER_BYTES_MAX);
        let finding = Finding { kind, member: node.path.clone(), detail };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Reads one member through the capped reader and examines it.
    pub(crate) fn member(&mut self, parent: &Node, name: &str, reader: &mut dyn Read) -> Flow {
        let node = parent.child(name);
        if let Err(limit) = self.budget.enter() {
            return self.halt(limit);
        }
        let (bytes, end) = self.budget.read(reader);
        match end {
            End::Whole => {}
            End::Broken => self.note(&node, Unscannable::Corrupt, "member"),
            End::Limit(limit) => {
                self.match_prefix(&node, &bytes);
                return self.halt(limit);
            }
        }
        self.visit(&node, &bytes)
    }

    /// A limit was reached inside this member; what was read may still hold a hit, and a hit is the better answer.
    fn match_prefix(&mut self, node: &Node, bytes: &[u8]) {
        if let Ok(Some(hit)) = self.engines.matches(bytes, self.budget.time_left()) {
            self.hit = Some((hit, node.path.clone()));
        }
    }

    /// Examines bytes that stand in the parent as they are.
    pub(crate) fn slice(&mut self, parent: &Node, name: &str, mut bytes: &[u8]) -> Flow {
        self.member(parent, name, &mut bytes)
    }

    /// Examines a part of the parent in place: nothing is unpacked, so nothing is charged but one entry.
    pub(crate) fn view(&mut self, parent: &Node, name: &str, bytes: &[u8]) -> Flow {
        if let Err(limit) = self.budget.enter() {
            return self.halt(limit);
        }
        self.visit(&parent.child(name), bytes)
    }

    /// Reads bytes through the capped reader without examining them, for containers in containers.
    pub(crate) fn unpack(&mut self, reader: &mut dyn Read) -> Result<Vec<u8>, Flow> {
        match self.budget.read(reader) {
            (bytes, End::Whole | End::Broken) => Ok(bytes),
            (_, End::Limit(limit)) => Err(self.halt(limit)),
        }
    }

    fn compare_with_name(&mut self, node: &Node, name: &str, format: &Format) {
        if let Some(detail) = format::mismatch(name, format) {
            self.find(node, FindingKind::TypeMismatch, &detail);
        }
    }
}
