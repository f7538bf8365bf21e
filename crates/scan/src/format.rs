//! True type by signature (HT-15): what a file is, whatever its name or Content-Type says. One table in reading order,
//! the first row that recognises the bytes wins; containers that share a signature (zip, OLE) are told apart by their
//! members. Formats without a signature (scripts, source text) are only told from binary data.

use crate::formats::{
    ace, arc, arj, cab, chm, cpio, crx, disk, dmg, eml, installer, iso, lnk, lzh, lzip, lzo, mac, ole, onenote, pdf, pgp, rar,
    rtf, sevenz, stream, szdd, tar, tnef, udf, wim, xar, zip, zoo,
};
use crate::report::Unscannable;
use crate::walk::{Node, Step, Walk};

/// Bytes looked at to tell text from binary data.
const TEXT_PROBE_BYTES: usize = 4096;
/// Where the ISO 9660 volume descriptor identifier stands (ECMA-119 section 8: sector 16, after the type byte).
const ISO_IDENTIFIER_OFFSET: usize = 0x8001;

pub(crate) type Open = fn(&mut Walk<'_>, &Node, &[u8]) -> Step;

/// What can be done with a member of a format.
#[derive(Clone, Copy)]
pub(crate) enum Opener {
    Leaf,
    Container(Open),
    /// A container that is recognised and cannot be opened here.
    Sealed(Unscannable),
}

/// One file format.
pub struct Format {
    /// The usual file-name extension.
    pub name: &'static str,
    pub mime: &'static str,
    pub(crate) opener: Opener,
    recognise: Recogniser,
}

enum Recogniser {
    At(usize, &'static [u8]),
    By(fn(&[u8]) -> bool),
    /// Only named by another row's members.
    Never,
}

const fn leaf(name: &'static str, mime: &'static str, recognise: Recogniser) -> Format {
    Format { name, mime, opener: Opener::Leaf, recognise }
}

const fn container(name: &'static str, mime: &'static str, open: Open, recognise: Recogniser) -> Format {
    Format { name, mime, opener: Opener::Container(open), recognise }
}

const fn sealed(name: &'static str, mime: &'static str, recognise: Recogniser) -> Format {
    Format { name, mime, opener: Opener::Sealed(Unscannable::Unsupported), recognise }
}

use Recogniser::{At, By, Never};

const BINARY: &str = "application/octet-stream";

/// Signatures, most specific first.
const FORMATS: &[Format] = &[
    // The mark stands at the end; the start is whatever the image packs first.
    container("dmg", "application/x-apple-diskimage", dmg::open, By(dmg::is_dmg)),
    container("zip", "application/zip", zip::open, By(zip::is_zip)),
    container("crx", "application/x-chrome-extension", crx::open, At(0, crx::SIGNATURE)),
    container("7z", "application/x-7z-compressed", sevenz::open, At(0, b"7z\xbc\xaf\x27\x1c")),
    container("rar", "application/vnd.rar", rar::open, At(0, b"Rar!\x1a\x07")),
    container("rar", "application/vnd.rar", rar::open, At(0, b"RE~^")),
    container("gz", "application/gzip", stream::gzip, At(0, b"\x1f\x8b\x08")),
    container("bz2", "application/x-bzip2", stream::bzip2, By(stream::is_bzip2)),
    container("xz", "application/x-xz", stream::xz, At(0, b"\xfd7zXZ\0")),
    container("lz", "application/x-lzip", lzip::open, At(0, b"LZIP\x01")),
    container("zst", "application/zstd", stream::zstd, By(stream::is_zstd)),
    container("lz4", "application/x-lz4", stream::lz4, At(0, b"\x04\x22\x4d\x18")),
    container("lz4", "application/x-lz4", stream::lz4, At(0, b"\x02\x21\x4c\x18")),
    container("Z", "application/x-compress", stream::compress, At(0, b"\x1f\x9d")),
    container("cab", "application/vnd.ms-cab-compressed", cab::open, At(0, b"MSCF\0\0\0\0")),
    container("lzh", "application/x-lzh-compressed", lzh::open, By(lzh::is_lzh)),
    container("ole", "application/x-ole-storage", ole::open, At(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")),
    container("one", "application/onenote", onenote::open, At(0, onenote::SIGNATURE)),
    container("pdf", "application/pdf", pdf::open, By(pdf::is_pdf)),
    container("rtf", "application/rtf", rtf::open, By(rtf::is_rtf)),
    container("deb", "application/vnd.debian.binary-package", cpio::open_ar, At(0, b"!<arch>\ndebian-binary")),
    // Linker libraries begin with a symbol table; they hold ten thousands of tiny objects and nothing packed.
    leaf("lib", "application/x-archive", At(0, b"!<arch>\n/ ")),
    container("a", "application/x-archive", cpio::open_ar, At(0, b"!<arch>\n")),
    container("rpm", "application/x-rpm", cpio::open_rpm, At(0, b"\xed\xab\xee\xdb")),
    container("cpio", "application/x-cpio", cpio::open, By(cpio::is_cpio)),
    container("tar", "application/x-tar", tar::open, By(tar::is_tar)),
    container("iso", "application/x-iso9660-image", iso::open, At(ISO_IDENTIFIER_OFFSET, b"CD001")),
    container("udf", "application/x-udf-image", udf::open, By(udf::is_udf)),
    container("arj", "application/x-arj", arj::open, By(arj::is_arj)),
    container("zoo", "application/x-zoo", zoo::open, At(zoo::TAG_OFFSET, zoo::TAG)),
    container("arc", "application/x-arc", arc::open, By(arc::is_arc)),
    container("xar", "application/x-xar", xar::open, At(0, b"xar!\0\x1c")),
    container("wim", "application/x-ms-wim", wim::open, At(0, wim::SIGNATURE)),
    container("chm", "application/vnd.ms-htmlhelp", chm::open, At(0, chm::SIGNATURE)),
    container("lzo", "application/x-lzop", lzo::open, At(0, lzo::SIGNATURE)),
    container("tnef", "application/vnd.ms-tnef", tnef::open, At(0, tnef::SIGNATURE)),
    container("szdd", "application/x-ms-compress-szdd", szdd::open, At(0, szdd::SZDD)),
    container("szdd", "application/x-ms-compress-szdd", szdd::open, At(0, szdd::SZ)),
    container("kwaj", "application/x-ms-compress-kwaj", szdd::open_kwaj, At(0, szdd::KWAJ)),
    container("inno", "application/x-inno-setup", installer::open_inno_data, By(installer::inno_data)),
    container("applesingle", "application/applefile", mac::open_apple, At(0, mac::APPLE_SINGLE)),
    container("appledouble", "multipart/appledouble", mac::open_apple, At(0, mac::APPLE_DOUBLE)),
    container("hfs", "application/x-apple-hfs", dmg::open_hfs_plus, By(dmg::is_hfs_plus)),
    container("ace", "application/x-ace-compressed", ace::open, At(ace::SIGNATURE_OFFSET, ace::SIGNATURE)),
    container("mso", "application/x-mso", stream::active_mime, At(0, b"ActiveMime\0")),
    sealed("lrz", "application/x-lrzip", At(0, b"LRZI\0")),
    sealed("grz", "application/x-grzip", At(0, b"GRZipII\0")),
    sealed("sit", "application/x-stuffit", At(0, b"StuffIt (c)1997")),
    sealed("squashfs", "application/vnd.squashfs", At(0, b"hsqs")),
    sealed("qcow2", "application/x-qemu-disk", At(0, b"QFI\xfb")),
    sealed("vmdk", "application/x-vmdk", At(0, b"KDMV")),
    sealed("vhdx", "application/x-vhdx", At(0, b"vhdxfile")),
    sealed("vhd", "application/x-vhd", At(0, b"conectix")),
    sealed("stuffit", "application/x-stuffit", At(0, b"SIT!\0")),
    sealed("sar", "application/x-sapcar", At(0, b"CAR 2.0")),
    Format {
        name: "pgp",
        mime: "application/pgp-encrypted",
        opener: Opener::Sealed(Unscannable::Encrypted),
        recognise: By(pgp::is_encrypted),
    },
    container("p7m", "application/pkcs7-mime", pgp::open_signed, By(pgp::is_signed)),
    leaf("dll", "application/vnd.microsoft.portable-executable", By(is_dll)),
    leaf("exe", "application/vnd.microsoft.portable-executable", By(is_portable_executable)),
    leaf("exe", "application/x-dosexec", At(0, b"MZ")),
    leaf("elf", "application/x-elf", At(0, b"\x7fELF")),
    leaf("macho", "application/x-mach-binary", At(0, b"\xcf\xfa\xed\xfe")),
    leaf("macho", "application/x-mach-binary", At(0, b"\xce\xfa\xed\xfe")),
    leaf("class", "application/java-vm", At(0, b"\xca\xfe\xba\xbe")),
    leaf("dex", "application/x-dex", At(0, b"dex\n03")),
    leaf("wasm", "application/wasm", At(0, b"\0asm")),
    container("lnk", "application/x-ms-shortcut", lnk::open, At(0, b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0F")),
    leaf("png", "image/png", At(0, b"\x89PNG\r\n\x1a\n")),
    leaf("jpg", "image/jpeg", At(0, b"\xff\xd8\xff")),
    leaf("gif", "image/gif", At(0, b"GIF8")),
    leaf("webp", "image/webp", By(|bytes| riff(bytes, b"WEBP"))),
    leaf("wav", "audio/wav", By(|bytes| riff(bytes, b"WAVE"))),
    leaf("avi", "video/x-msvideo", By(|bytes| riff(bytes, b"AVI "))),
    leaf("tif", "image/tiff", At(0, b"II*\0")),
    leaf("tif", "image/tiff", At(0, b"MM\0*")),
    leaf("ico", "image/x-icon", At(0, b"\0\0\x01\0")),
    leaf("bmp", "image/bmp", By(is_bmp)),
    leaf("avif", "image/avif", At(4, b"ftypavif")),
    leaf("heic", "image/heic", At(4, b"ftypheic")),
    leaf("mov", "video/quicktime", At(4, b"ftypqt")),
    leaf("mp4", "video/mp4", At(4, b"ftyp")),
    leaf("mkv", "video/x-matroska", At(0, b"\x1a\x45\xdf\xa3")),
    leaf("flv", "video/x-flv", At(0, b"FLV\x01")),
    leaf("mp3", "audio/mpeg", At(0, b"ID3")),
    leaf("flac", "audio/flac", At(0, b"fLaC")),
    leaf("ogg", "audio/ogg", At(0, b"OggS")),
    leaf("woff", "font/woff", At(0, b"wOFF")),
    leaf("woff2", "font/woff2", At(0, b"wOF2")),
    leaf("ttf", "font/ttf", At(0, b"\0\x01\0\0\0")),
    leaf("otf", "font/otf", At(0, b"OTTO")),
    leaf("sqlite", "application/vnd.sqlite3", At(0, b"SQLite format 3\0")),
    leaf("ps", "application/postscript", At(0, b"%!PS")),
    container("swf", "application/x-shockwave-flash", stream::flash, By(is_flash)),
    leaf("djvu", "image/vnd.djvu", At(0, b"AT&TFORM")),
    leaf("psd", "image/vnd.adobe.photoshop", At(0, b"8BPS")),
    leaf("sh", "text/x-shellscript", At(0, b"#!")),
    leaf("html", "text/html", By(is_html)),
    leaf("svg", "image/svg+xml", By(is_svg)),
    leaf("xml", "text/xml", By(|bytes| starts_folded(bytes, &[b"<?xml"]))),
    container("eml", "message/rfc822", eml::open, By(eml::is_eml)),
    container("lzma", "application/x-lzma", stream::lzma, By(stream::is_lzma)),
    container("macbin", "application/x-macbinary", mac::open_mac_binary, By(mac::is_mac_binary)),
    container("fat", "application/x-raw-disk-image", disk::open_fat, By(disk::is_fat)),
    sealed("disk", "application/x-raw-disk-image", By(disk::is_foreign_file_system)),
    container("disk", "application/x-raw-disk-image", disk::open_partitions, By(disk::is_partitioned)),
    leaf("txt", "text/plain", By(is_text)),
    leaf("bin", BINARY, By(|_| true)),
];

const UNKNOWN: Format = leaf("bin", BINARY, Never);

/// Zip containers told apart by a member: the first row whose member exists.
const ZIP_FAMILY: &[(&str, Format)] = &[
    ("word/vbaProject.bin", container("docm", "application/vnd.ms-word.document.macroEnabled.12", zip::open, Never)),
    ("xl/vbaProject.bin", container("xlsm", "application/vnd.ms-excel.sheet.macroEnabled.12", zip::open, Never)),
    ("ppt/vbaProject.bin", container("pptm", "application/vnd.ms-powerpoint.presentation.macroEnabled.12", zip::open, Never)),
    (
        "word/document.xml",
        container("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", zip::open, Never),
    ),
    ("xl/workbook.bin", container("xlsb", "application/vnd.ms-excel.sheet.binary.macroEnabled.12", zip::open, Never)),
    ("xl/workbook.xml", container("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", zip::open, Never)),
    (
        "ppt/presentation.xml",
        container("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation", zip::open, Never),
    ),
    ("AndroidManifest.xml", container("apk", "application/vnd.android.package-archive", zip::open, Never)),
    ("META-INF/container.xml", container("epub", "application/epub+zip", zip::open, Never)),
    ("META-INF/manifest.xml", container("odt", "application/vnd.oasis.opendocument", zip::open, Never)),
    ("META-INF/MANIFEST.MF", container("jar", "application/java-archive", zip::open, Never)),
];

/// OLE containers told apart by a stream name, written in UTF-16LE in the directory ([MS-CFB] section 2.6.1).
const OLE_FAMILY: &[(&str, Format)] = &[
    ("EncryptedPackage", container("ole", "application/x-ole-storage", ole::open, Never)),
    ("__properties_version1.0", container("msg", "application/vnd.ms-outlook", ole::open, Never)),
    ("WordDocument", container("doc", "application/msword", ole::open, Never)),
    ("Workbook", container("xls", "application/vnd.ms-excel", ole::open, Never)),
    ("PowerPoint Document", container("ppt", "application/vnd.ms-powerpoint", ole::open, Never)),
    ("\u{4840}\u{3b3f}", container("msi", "application/x-msi", ole::open, Never)),
    ("\u{4840}\u{3f3f}", container("msi", "application/x-msi", ole::open, Never)),
];

/// The true type of bytes.
pub fn true_type(bytes: &[u8]) -> &'static Format {
    detect(bytes)
}

/// The first row of this name.
pub(crate) fn named(name: &str) -> &'static Format {
    FORMATS.iter().find(|format| format.name == name).unwrap_or(&UNKNOWN)
}

pub(crate) fn detect(bytes: &[u8]) -> &'static Format {
    let found = FORMATS.iter().find(|format| format.recognise.accepts(bytes)).unwrap_or(&UNKNOWN);
    match found.name {
        "zip" => family_by_name(ZIP_FAMILY, &zip::names(bytes)).unwrap_or(found),
        "ole" => family_by_stream(OLE_FAMILY, bytes).unwrap_or(found),
        _ => found,
    }
}

impl Recogniser {
    fn accepts(&self, bytes: &[u8]) -> bool {
        match self {
            At(offset, magic) => bytes.get(*offset..).is_some_and(|rest| rest.starts_with(magic)),
            By(recognise) => recognise(bytes),
            Never => false,
        }
    }
}

fn family_by_name(family: &'static [(&str, Format)], names: &[String]) -> Option<&'static Format> {
    family.iter().find(|(member, _)| names.iter().any(|name| name == member)).map(|(_, format)| format)
}

fn family_by_stream(family: &'static [(&str, Format)], bytes: &[u8]) -> Option<&'static Format> {
    family.iter().find(|(stream, _)| contains(bytes, &utf16(stream))).map(|(_, format)| format)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Whether bytes contain a needle, in linear time.
pub(crate) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    find(bytes, needle).is_some()
}

/// Where a needle first stands.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, needle)
}

fn riff(bytes: &[u8], kind: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(kind)
}

fn is_bmp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"BM") && bytes.get(6..10) == Some(&[0; 4])
}

fn is_flash(bytes: &[u8]) -> bool {
    [b"FWS", b"CWS", b"ZWS"].iter().any(|magic| bytes.starts_with(*magic))
        && bytes.get(3).is_some_and(|version| (3..=60).contains(version))
}

/// Where the PE header stands, if there is one ([MS PE/COFF] section 2).
pub(crate) fn pe_offset(bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    let offset = read_u32(bytes, 0x3c)? as usize;
    bytes.get(offset..)?.starts_with(b"PE\0\0").then_some(offset)
}

fn is_portable_executable(bytes: &[u8]) -> bool {
    pe_offset(bytes).is_some()
}

/// The DLL flag of the file header's characteristics.
fn is_dll(bytes: &[u8]) -> bool {
    const FILE_DLL: u16 = 0x2000;
    pe_offset(bytes).and_then(|offset| read_u16(bytes, offset + 22)).is_some_and(|flags| flags & FILE_DLL != 0)
}

/// Text, skipping a byte order mark and leading white space.
fn trimmed(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start()
}

fn starts_folded(bytes: &[u8], prefixes: &[&[u8]]) -> bool {
    let text = trimmed(bytes);
    prefixes.iter().any(|prefix| text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix)))
}

fn is_html(bytes: &[u8]) -> bool {
    starts_folded(bytes, &[b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<iframe", b"<!--"])
}

fn is_svg(bytes: &[u8]) -> bool {
    let head = bytes.get(..bytes.len().min(TEXT_PROBE_BYTES)).unwrap_or_default();
    starts_folded(bytes, &[b"<svg"]) || (starts_folded(bytes, &[b"<?xml"]) && contains(head, b"<svg"))
}

/// No control characters except white space in the first page.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    let head = bytes.get(..bytes.len().min(TEXT_PROBE_BYTES)).unwrap_or_default();
    head.iter().all(|byte| !matches!(byte, 0..=8 | 14..=25 | 28..=31))
}

pub(crate) fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

pub(crate) fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

pub(crate) fn read_u64(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// Kinds of files. A name of one kind and a type of another is worth saying; inside a kind, names are sloppy.
const KINDS: &[(&str, &[&str])] = &[
    (
        "document",
        &[
            "pdf", "doc", "docx", "docm", "xls", "xlsx", "xlsm", "xlsb", "ppt", "pptx", "pptm", "rtf", "odt", "ods", "odp",
            "one", "msg", "epub", "ole",
        ],
    ),
    ("picture", &["jpg", "jpeg", "png", "gif", "bmp", "webp", "tif", "tiff", "ico", "avif", "heic", "psd", "djvu"]),
    ("media", &["mp3", "mp4", "wav", "avi", "mov", "mkv", "flv", "flac", "ogg"]),
    (
        "archive",
        &[
            "zip", "7z", "rar", "gz", "tgz", "bz2", "xz", "tar", "cab", "iso", "lzh", "arj", "ace", "zoo", "zst", "lz4", "lz",
            "Z", "wim", "dmg",
        ],
    ),
    ("program", &["exe", "dll", "scr", "elf", "macho", "msi", "lnk", "cpl", "sys"]),
    ("text", &["txt", "csv", "html", "htm", "xml", "svg", "json", "css", "js", "eml", "sh"]),
];

fn kind_of(name: &str) -> Option<&'static str> {
    KINDS.iter().find(|(_, members)| members.iter().any(|member| member.eq_ignore_ascii_case(name))).map(|(kind, _)| *kind)
}

/// Says how a file's name and what it is disagree. Programs and links behind another name count as hiding.
pub(crate) fn mismatch(name: &str, format: &Format) -> Option<String> {
    let (_, extension) = name.rsplit_once('.')?;
    let (named, is) = (kind_of(extension)?, kind_of(format.name)?);
    (named != is).then(|| format!("named {}, is {}", extension.to_ascii_lowercase(), format.name))
}

/// Formats that people read and that have no reason to carry programs.
pub(crate) fn is_document(format: &Format) -> bool {
    const DOCUMENTS: [&str; 14] =
        ["docx", "docm", "xlsx", "xlsm", "xlsb", "pptx", "pptm", "doc", "xls", "ppt", "pdf", "rtf", "one", "odt"];
    DOCUMENTS.contains(&format.name)
}

pub(crate) fn is_executable(format: &Format) -> bool {
    matches!(format.name, "exe" | "dll" | "elf" | "macho")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ht_15_types_come_from_signatures() {
        for (bytes, name) in [
            (&b"%PDF-1.7\n"[..], "pdf"),
            (b"7z\xbc\xaf\x27\x1c\0\x04", "7z"),
            (b"\x7fELF\x02", "elf"),
            (b"MZ", "exe"),
            (b"\x89PNG\r\n\x1a\n", "png"),
            (b"  <!DOCTYPE HTML>", "html"),
            (b"hello", "txt"),
            (b"\0\x01\x02", "bin"),
            (b"", "txt"),
        ] {
            assert_eq!(detect(bytes).name, name);
        }
    }

    #[test]
    fn an_executable_behind_a_document_name_is_a_mismatch() {
        assert!(mismatch("invoice.pdf", detect(b"MZ")).is_some());
        assert!(mismatch("setup.exe", detect(b"MZ")).is_none());
        assert!(mismatch("noextension", detect(b"MZ")).is_none());
    }
}
