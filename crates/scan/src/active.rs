//! Active content that needs no unpacking: external relationships and DDE in OOXML parts, Excel 4 macro sheets, DDE in
//! CSV, programs inside documents. It only notices; OLE, PDF and RTF notice their own while they are opened.

use crate::format::{Format, contains, find, is_executable};
use crate::report::{FindingKind, Unscannable};
use crate::walk::{Node, Walk};

/// An OOXML part larger than this is data, not markup written by a person.
const PART_BYTES_MAX: usize = 32 << 20;
/// Relationship types that make Office fetch and use what the target names.
const FETCHED: [&str; 6] = ["/attachedtemplate", "/oleobject", "/frame", "/subdocument", "/externallinkpath", "/control"];

pub(crate) fn inspect(walk: &mut Walk<'_>, node: &Node, format: &Format, bytes: &[u8]) {
    if node.in_document && (is_executable(format) || matches!(format.name, "lnk" | "msi") || is_run_by_name(&node.path)) {
        walk.find(node, FindingKind::EmbeddedExecutable, format.name);
    }
    if bytes.len() > PART_BYTES_MAX {
        return;
    }
    let part = node.path.rsplit('!').next().unwrap_or_default();
    if part.ends_with(".rels") {
        relationships(walk, node, bytes);
    } else if node.in_document && part.ends_with(".xml") {
        fields(walk, node, bytes);
    }
    if part.starts_with("xl/macrosheets/") && !part.ends_with(".rels") {
        walk.find(node, FindingKind::MacroSheet, part);
    }
    if matches!(format.name, "txt" | "xml") && is_dde_cell(bytes) {
        walk.find(node, FindingKind::Dde, "formula in text");
    }
    if format.name == "xml" && contains(bytes, b"w:wordDocument") {
        fields(walk, node, bytes);
    }
    if format.name == "txt" && bytes.starts_with(b"ID;") && is_macro_in_symbolic_link(bytes) {
        walk.find(node, FindingKind::MacroSheet, "macro in SYLK");
    }
    if part.starts_with("xl/externalLinks/") && part.ends_with(".bin") && is_dde_in_binary_workbook(bytes) {
        walk.find(node, FindingKind::Dde, "external link");
    }
    if node.path.ends_with("META-INF/manifest.xml") && contains(bytes, b":encryption-data") {
        walk.note(node, Unscannable::Encrypted, "manifest");
    }
}

/// A member whose name Windows runs on opening, whatever its bytes are.
fn is_run_by_name(path: &str) -> bool {
    const RUN: [&str; 18] = [
        "exe", "scr", "com", "bat", "cmd", "pif", "js", "jse", "vbs", "vbe", "wsf", "wsh", "hta", "ps1", "msi", "lnk", "cpl",
        "jar",
    ];
    let name = path.rsplit(['!', '/']).next().unwrap_or_default();
    name.rsplit_once('.').is_some_and(|(_, extension)| RUN.iter().any(|run| run.eq_ignore_ascii_case(extension)))
}

/// ECMA-376 part 2, section 9.3: a relationship with `TargetMode="External"` leaves the package.
fn relationships(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for element in text.split('<').filter(|element| element.starts_with("Relationship ")) {
        if !attribute(element, "TargetMode").is_some_and(|mode| mode.eq_ignore_ascii_case("external")) {
            continue;
        }
        let target = attribute(element, "Target").unwrap_or_default();
        let kind = attribute(element, "Type").unwrap_or_default().to_ascii_lowercase();
        if FETCHED.iter().any(|fetched| kind.ends_with(fetched)) && leaves_the_machine(target) {
            walk.find(node, FindingKind::RemoteTemplate, target);
        } else if !kind.ends_with("/hyperlink") {
            walk.find(node, FindingKind::ExternalLink, target);
        }
    }
}

fn attribute<'t>(element: &'t str, name: &str) -> Option<&'t str> {
    let start = element.find(&format!(" {name}="))? + name.len() + 2;
    let rest = element.get(start..)?;
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    rest.get(1..)?.split(quote).next()
}

fn leaves_the_machine(target: &str) -> bool {
    let target = target.to_ascii_lowercase();
    ["http:", "https:", "ftp:", "mhtml:", "\\\\", "file://", "//"].iter().any(|scheme| target.starts_with(scheme))
}

/// DDE fields in Word (the instruction may be spread over many runs) and `ddeLink` in Excel.
fn fields(walk: &mut Walk<'_>, node: &Node, bytes: &[u8]) {
    if contains(bytes, b"<ddeLink") {
        walk.find(node, FindingKind::Dde, "ddeLink");
    }
    if !contains(bytes, b"instrText") && !contains(bytes, b"fldSimple") {
        return;
    }
    let text = String::from_utf8_lossy(bytes);
    let runs = text.split("<w:instrText").skip(1).filter_map(|run| run.split_once('>')).map(|(_, run)| run);
    let typed: String = runs.filter_map(|run| run.split('<').next()).collect();
    let simple = text.split("w:instr=\"").skip(1).filter_map(|run| run.split('"').next());
    let is_dde = |instruction: &str| {
        let instruction = instruction.to_ascii_uppercase();
        instruction.contains("DDEAUTO") || instruction.contains("DDE ")
    };
    if is_dde(&typed) || simple.into_iter().any(is_dde) {
        walk.find(node, FindingKind::Dde, "field");
    }
}

/// SYLK files hold Excel 4 macros: a sheet option of its own, and names that start by themselves.
fn is_macro_in_symbolic_link(bytes: &[u8]) -> bool {
    let folded = bytes.to_ascii_lowercase();
    [&b"\no;e"[..], b"nauto_open", b"nauto_close", b"=exec(", b"eexec(", b"ecall("].iter().any(|sign| contains(&folded, sign))
}

/// BrtBeginSupBook ([MS-XLSB] section 2.4.254) of type 1.
fn is_dde_in_binary_workbook(bytes: &[u8]) -> bool {
    const BEGIN_SUP_BOOK: &[u8] = b"\xe8\x02";
    const TYPE_DDE: u16 = 1;
    // The length is one byte or two, the type follows.
    bytes.strip_prefix(BEGIN_SUP_BOOK).is_some_and(|record| {
        let length_bytes = if record.first().is_some_and(|byte| byte & 0x80 != 0) { 2 } else { 1 };
        crate::format::read_u16(record, length_bytes) == Some(TYPE_DDE)
    })
}

/// A cell such as `=cmd|'/c ...'!A0`, which spreadsheets run when a CSV file is opened.
fn is_dde_cell(bytes: &[u8]) -> bool {
    const PROGRAMS: [&[u8]; 5] = [b"cmd|", b"powershell|", b"msexcel|", b"mshta|", b"rundll32|"];
    if find(bytes, b"|").is_none() {
        return false;
    }
    let folded = bytes.to_ascii_lowercase();
    let sign = |at: usize| at.checked_sub(1).and_then(|before| folded.get(before)).is_some_and(|sign| b"=+-@*(".contains(sign));
    let quote = |at: usize| folded.get(at..).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"'"));
    PROGRAMS.iter().any(|program| memchr::memmem::find_iter(&folded, program).any(|at| sign(at) && quote(at + program.len())))
}
