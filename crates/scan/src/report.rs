//! What a scan says: a verdict, where the hit was, what the file is, and what was noticed (AV-06, AV-10).
//! It carries facts only; blocking is the policy's choice.

use serde::{Deserialize, Serialize};

/// Findings kept in one report. More repeats of the same observation tell a reader nothing.
pub const FINDINGS_MAX: usize = 64;
/// A member path in a report, in bytes. Paths longer than this appear only in attacks on the reader.
pub const MEMBER_BYTES_MAX: usize = 512;

/// The result of one scan. Malicious outranks unscannable, unscannable outranks suspicious: a file that could not be
/// read to its end must not look milder than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Clean,
    Malicious,
    Suspicious,
    Unscannable(Unscannable),
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Malicious => "malicious",
            Self::Suspicious => "suspicious",
            Self::Unscannable(_) => "unscannable",
        }
    }
}

/// Why a file could not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unscannable {
    Encrypted,
    DepthLimit,
    EntryLimit,
    SizeLimit,
    RatioLimit,
    TimeLimit,
    /// Two members share the same packed bytes.
    Overlap,
    Corrupt,
    /// A container or method that is recognised and cannot be opened here.
    Unsupported,
    /// The file itself is larger than the scanner takes.
    TooLarge,
    /// The worker died or a parser panicked.
    Crashed,
    /// No worker could be had within the deadline.
    Unavailable,
}

impl Unscannable {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::DepthLimit => "depth_limit",
            Self::EntryLimit => "entry_limit",
            Self::SizeLimit => "size_limit",
            Self::RatioLimit => "ratio_limit",
            Self::TimeLimit => "time_limit",
            Self::Overlap => "overlap",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::Crashed => "crashed",
            Self::Unavailable => "unavailable",
        }
    }

    /// The reason that is reported when several apply: resource limits first, since they stop the scan.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::TimeLimit | Self::Overlap | Self::Crashed | Self::Unavailable | Self::TooLarge => 5,
            Self::EntryLimit | Self::SizeLimit | Self::RatioLimit => 4,
            Self::DepthLimit => 3,
            Self::Encrypted => 2,
            Self::Unsupported => 1,
            Self::Corrupt => 0,
        }
    }
}

/// One thing that the scan noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub member: String,
    pub detail: String,
}

/// The kinds of things that a scan notices besides signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    Macro,
    MacroAutoExec,
    /// Calls in a macro that start programs, fetch or write files.
    MacroCalls,
    /// A macro module whose compiled form is there and whose source is not.
    MacroStomped,
    MacroSheet,
    Dde,
    RemoteTemplate,
    ExternalLink,
    EmbeddedExecutable,
    EmbeddedObject,
    PdfJavaScript,
    PdfLaunch,
    PdfOpenAction,
    PdfEmbeddedFile,
    PdfLink,
    HtmlSmuggling,
    /// A script or a link that fetches or builds a file and runs it.
    ScriptDropper,
    TypeMismatch,
    /// A container could not be read; detail names the reason.
    NotRead,
}

impl FindingKind {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Macro => "macro",
            Self::MacroAutoExec => "macro_auto_exec",
            Self::MacroCalls => "macro_calls",
            Self::MacroStomped => "macro_stomped",
            Self::MacroSheet => "macro_sheet",
            Self::Dde => "dde",
            Self::RemoteTemplate => "remote_template",
            Self::ExternalLink => "external_link",
            Self::EmbeddedExecutable => "embedded_executable",
            Self::EmbeddedObject => "embedded_object",
            Self::PdfJavaScript => "pdf_java_script",
            Self::PdfLaunch => "pdf_launch",
            Self::PdfOpenAction => "pdf_open_action",
            Self::PdfEmbeddedFile => "pdf_embedded_file",
            Self::PdfLink => "pdf_link",
            Self::HtmlSmuggling => "html_smuggling",
            Self::ScriptDropper => "script_dropper",
            Self::TypeMismatch => "type_mismatch",
            Self::NotRead => "not_read",
        }
    }

    /// Whether this alone makes a file suspicious. Macros, external links and embedded objects are everyday content;
    /// code that starts by itself, fetches code or hides an executable is not.
    pub fn is_suspicious(self) -> bool {
        matches!(
            self,
            Self::MacroAutoExec
                | Self::MacroSheet
                | Self::Dde
                | Self::RemoteTemplate
                | Self::EmbeddedExecutable
                | Self::PdfLaunch
                | Self::PdfJavaScript
                | Self::HtmlSmuggling
                | Self::ScriptDropper
                | Self::MacroStomped
        )
    }
}

/// The whole answer about one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub verdict: Verdict,
    /// The engine that hit: `eicar`, `hash`, `ndb`, `yara`, `clamd`; empty without a hit.
    pub engine: String,
    pub signature: String,
    /// Path of the hit inside the file, members joined by `!`; empty for the file itself.
    pub member: String,
    pub sha256: String,
    pub size: u64,
    /// Type by signature, as a file-name extension: `zip`, `exe`, `pdf`, `docx` (HT-15).
    pub true_type: String,
    pub mime: String,
    pub findings: Vec<Finding>,
    /// Members unpacked, all levels together.
    pub entries: u32,
    /// Version of the definitions that were used.
    pub definitions: String,
}

impl Report {
    /// A report about a file that was not read at all.
    pub fn unscannable(reason: Unscannable, size: u64) -> Self {
        Self {
            verdict: Verdict::Unscannable(reason),
            engine: String::new(),
            signature: String::new(),
            member: String::new(),
            sha256: String::new(),
            size,
            true_type: String::new(),
            mime: String::new(),
            findings: Vec::new(),
            entries: 0,
            definitions: String::new(),
        }
    }
}
