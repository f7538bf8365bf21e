//! Files that pretend: an executable under the media type of a picture or a text, and a name whose last extension runs
//! while the one before it is a document's; and, as a note, any other content under a media type of another kind. The true
//! type comes from the scan; this reads no bytes.

use intel::Snapshot;
use model::{Facts, FieldId, Finding, Severity, Value};

pub const NAME: &str = "file.disguise";

/// True types that run, as the scan names them.
const EXECUTABLE_TYPES: &[&str] = &["exe", "dll", "elf", "macho", "msi", "jar", "apk", "dex", "lnk"];
/// Extensions that Windows or a shell runs on opening.
const EXECUTABLE_EXTENSIONS: &[&str] = &[
    "exe", "scr", "com", "bat", "cmd", "pif", "js", "jse", "vbs", "vbe", "wsf", "wsh", "hta", "ps1", "msi", "lnk", "cpl", "jar",
];
/// Extensions of documents, pictures and media, which people open without a thought.
const DOCUMENT_EXTENSIONS: &[&str] = &[
    "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "txt", "rtf", "csv", "jpg", "jpeg", "png", "gif", "mp3", "mp4", "avi",
    "mov", "html", "htm",
];
/// Media types under which nothing that runs is sent. Scripts have text types of their own and are left out.
const HARMLESS_MIMES: &[&str] =
    &["image/", "audio/", "video/", "font/", "text/plain", "text/html", "text/css", "text/csv", "application/pdf"];

/// What a media type promises, and the true types that keep the promise. Types that are not listed promise nothing.
const PROMISES: &[(&str, &[&str])] = &[
    ("image/", &["jpg", "png", "gif", "bmp", "webp", "tif", "ico", "avif", "heic", "psd", "djvu", "svg"]),
    ("audio/", &["mp3", "wav", "flac", "ogg", "mp4", "mkv"]),
    ("video/", &["mp4", "mov", "avi", "mkv", "flv", "ogg"]),
    ("font/", &["ttf", "otf", "woff", "woff2"]),
    ("application/pdf", &["pdf"]),
];
/// What the scan calls content that it does not know.
const UNKNOWN_TYPES: &[&str] = &["bin", "txt"];

/// Whether a known type stands under a media type that promises another.
fn breaks_promise(mime: &str, ty: &str) -> bool {
    let starts = |promise: &str| mime.get(..promise.len()).is_some_and(|head| head.eq_ignore_ascii_case(promise));
    let kept = |types: &[&str]| types.iter().any(|kept| kept.eq_ignore_ascii_case(ty));
    !ty.is_empty() && !kept(UNKNOWN_TYPES) && PROMISES.iter().any(|(promise, types)| starts(promise) && !kept(types))
}

pub fn inspect(facts: &Facts, _: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mime = crate::text(facts, FieldId::DownloadMime).unwrap_or_default();
    let ty = crate::text(facts, FieldId::FileType).unwrap_or_default();
    if is_executable(facts) && is_harmless(mime) {
        findings.extend(crate::finding(NAME, Severity::High, "an executable is served as something harmless", mime));
    } else if breaks_promise(mime, ty) {
        let evidence = format!("{mime} is {ty}");
        findings.extend(crate::finding(NAME, Severity::Low, "the content is of another kind than its media type", &evidence));
    }
    if let Some(name) = crate::text(facts, FieldId::FileName).filter(|name| has_double_extension(name)) {
        findings.extend(crate::finding(NAME, Severity::High, "the file's name hides that it runs", name));
    }
    findings
}

fn is_executable(facts: &Facts) -> bool {
    let is_listed = |ty: &str| EXECUTABLE_TYPES.iter().any(|listed| ty.eq_ignore_ascii_case(listed));
    if crate::text(facts, FieldId::FileType).is_some_and(is_listed) {
        return true;
    }
    matches!(facts.get(FieldId::DownloadFileTypes), Some(Value::Texts(types)) if types.iter().any(|ty| is_listed(ty)))
}

fn is_harmless(mime: &str) -> bool {
    HARMLESS_MIMES.iter().any(|harmless| mime.get(..harmless.len()).is_some_and(|head| head.eq_ignore_ascii_case(harmless)))
}

/// `invoice.pdf.exe`, also with spaces between, or a right-to-left mark that turns the end of the name around.
pub fn has_double_extension(name: &str) -> bool {
    if name.contains('\u{202e}') {
        return true;
    }
    let mut parts = name.rsplit('.').map(str::trim);
    let (last, before, stem) = (parts.next(), parts.next(), parts.next());
    let is_in =
        |part: Option<&str>, list: &[&str]| part.is_some_and(|part| list.iter().any(|listed| part.eq_ignore_ascii_case(listed)));
    stem.is_some() && is_in(last, EXECUTABLE_EXTENSIONS) && is_in(before, DOCUMENT_EXTENSIONS)
}

#[cfg(test)]
mod tests {
    use model::{Gate, Station};

    use super::*;

    fn found(mime: &str, ty: &str, name: &str) -> usize {
        let mut facts = Facts::new(Gate::Web);
        facts.reach(Station::ResponseBody);
        facts.set(FieldId::DownloadMime, Value::text(mime));
        facts.set(FieldId::FileType, Value::text(ty));
        facts.set(FieldId::FileName, Value::text(name));
        inspect(&facts, &Snapshot::empty()).len()
    }

    #[test]
    fn honest_files_are_left_alone() {
        for (mime, ty, name) in [
            ("application/octet-stream", "exe", "setup.exe"),
            ("image/png", "png", "a.png"),
            ("text/javascript", "js", "jquery.min.js"),
            ("application/zip", "zip", "report.pdf.zip"),
            ("image/svg+xml", "svg", "a.svg"),
            ("image/png", "bin", "a.png"),
            ("audio/ogg", "ogg", "a.ogg"),
            ("", "", "archive.tar.gz"),
            ("", "", "pdf.exe"),
            ("", "", ""),
        ] {
            assert_eq!(found(mime, ty, name), 0, "{mime} {ty} {name}");
        }
    }

    #[test]
    fn disguised_files_are_found() {
        for (mime, ty, name) in [
            ("image/jpeg", "exe", "a.jpg"),
            ("image/jpeg", "zip", "a.jpg"),
            ("application/pdf", "html", "a.pdf"),
            ("TEXT/HTML; charset=utf-8", "elf", ""),
            ("", "", "invoice.pdf.exe"),
            ("", "", "photo.JPG .scr"),
            ("", "", "cod\u{202e}fdp.exe"),
        ] {
            assert_eq!(found(mime, ty, name), 1, "{mime} {ty} {name}");
        }
    }
}
