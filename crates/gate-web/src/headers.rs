//! What happens to header fields on their way: connection fields are taken off (RFC 9110 section 7.6.1), the policy's
//! operations are carried out (GW-020), and names of files are read (RFC 6266, RFC 8187). It decides nothing.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use model::HeaderChange;

/// Fields that end at the next hop whether `Connection` lists them or not (RFC 9110 section 7.6.1).
static CONNECTION_FIELDS: [HeaderName; 9] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    // Not a connection field in the standard, but only a client can speak of a settings frame (RFC 9113 section 3.1).
    HeaderName::from_static("http2-settings"),
];

/// Fields of framing, routing, authentication, request modifiers and response control.
static NEVER_TRAILERS: [HeaderName; 18] = [
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRAILER,
    header::MAX_FORWARDS,
    header::EXPECT,
    header::RANGE,
    header::AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    header::COOKIE,
    header::SET_COOKIE,
    header::CACHE_CONTROL,
    header::EXPIRES,
    header::DATE,
    header::LOCATION,
    header::VARY,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
];

/// Names that `Connection` may list before the message is refused. Browsers list one or two.
pub(crate) const CONNECTION_NAMES_MAX: usize = 16;

/// Header operations of one permit (GW-020).
const CHANGES_MAX: usize = 20;

/// Fields that `Connection` cannot take off: without them the message would mean something else to the next hop.
static NEVER_LISTED: [HeaderName; 5] =
    [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE, header::CONTENT_TYPE];

/// Takes the connection fields off, and those that `Connection` lists. False where the list itself is an attack: it is too
/// long, or names a field that frames or addresses the message (hop-by-hop abuse).
#[must_use]
pub(crate) fn strip_connection_fields(headers: &mut HeaderMap) -> bool {
    let mut listed: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for name in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            // What nearly every connection says; the field of this name is taken off in any case.
            if name.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let Ok(name) = HeaderName::from_bytes(name) else { return false };
            if NEVER_LISTED.contains(&name) || listed.len() == CONNECTION_NAMES_MAX {
                return false;
            }
            listed.push(name);
        }
    }
    let speaks_trailers = headers.get(header::TE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let present = present_connection_fields(headers);
    let fixed = CONNECTION_FIELDS.iter().enumerate().filter(|(place, _)| present & (1 << place) != 0).map(|(_, name)| name);
    for name in listed.iter().chain(fixed) {
        headers.remove(name);
    }
    if speaks_trailers {
        // The one value that HTTP/2 keeps end to end (RFC 9113 section 8.2.2); gRPC needs it.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    true
}

/// Takes the fields off that have no meaning after a body: readers who merge them and readers who do not would see two
/// messages (RFC 9110 section 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    for name in CONNECTION_FIELDS.iter().chain(&NEVER_TRAILERS) {
        trailers.remove(name);
    }
}

/// One bit for each of the connection fields that is there: most messages have one, and looking for all of them by name costs
/// as much as reading the message.
fn present_connection_fields(headers: &HeaderMap) -> u16 {
    let places = headers.keys().filter_map(|name| CONNECTION_FIELDS.iter().position(|field| field == name));
    places.fold(0, |present, place| present | 1 << place)
}

/// Whether this is a request to become a WebSocket (RFC 6455 section 4.1).
pub(crate) fn asks_for_websocket(method: &http::Method, version: http::Version, headers: &HeaderMap) -> bool {
    method == http::Method::GET
        && version == http::Version::HTTP_11
        && names_token(headers, header::CONNECTION, "upgrade")
        && headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers.get_all(header::UPGRADE).iter().count() == 1
}

/// Whether a comma-separated field lists this word.
pub(crate) fn names_token(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(word))
}

/// Carries out the operations of a permit: deletions, then overwrites, then additions (GW-020). Returns what was done, as
/// the record lists it. An operation whose name or value cannot stand in a header is left out and listed as such.
pub(crate) fn apply_changes(headers: &mut HeaderMap, changes: &[HeaderChange]) -> Vec<String> {
    let rank = |change: &HeaderChange| match change {
        HeaderChange::Delete { .. } => 0,
        HeaderChange::Set { .. } => 1,
        HeaderChange::Add { .. } => 2,
    };
    let mut ordered: Vec<&HeaderChange> = changes.iter().take(CHANGES_MAX).collect();
    ordered.sort_by_key(|change| rank(change));
    ordered.into_iter().map(|change| apply_change(headers, change)).collect()
}

fn apply_change(headers: &mut HeaderMap, change: &HeaderChange) -> String {
    let (verb, name) = match change {
        HeaderChange::Delete { name } => ("delete", name),
        HeaderChange::Set { name, .. } => ("set", name),
        HeaderChange::Add { name, .. } => ("add", name),
    };
    let done = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !frames_message(name)).and_then(|field| {
        match change {
            HeaderChange::Delete { .. } => {
                headers.remove(&field);
            }
            HeaderChange::Set { value, .. } => {
                headers.insert(field, HeaderValue::from_bytes(value.as_bytes()).ok()?);
            }
            HeaderChange::Add { value, .. } => {
                headers.append(field, HeaderValue::from_bytes(value.as_bytes()).ok()?);
            }
        }
        Some(())
    });
    match done {
        Some(()) => format!("{verb} {name}"),
        None => format!("refused {verb} {name}"),
    }
}

/// Fields that the gate itself writes. A rule that could change them would break the framing of the next message.
fn frames_message(name: &HeaderName) -> bool {
    CONNECTION_FIELDS.contains(name) || *name == header::CONTENT_LENGTH || *name == header::HOST
}

/// Codings that the scanner undoes by their signatures (RFC 9110 section 8.4.1). Not zstd: a stream may begin with frames that
/// hold nothing and have signatures of their own (RFC 8878 section 3.1.2).
const READABLE_CODINGS: [&str; 3] = ["identity", "gzip", "x-gzip"];

/// Whether a scan of the body sees what the other side will: a file in a coding that stays on would be called clean by its
/// outside. Origins are never offered such a coding.
pub(crate) fn is_readable_coding(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().all(|value| {
        value.to_str().is_ok_and(|text| {
            let mut codings = text.split(',').map(str::trim).filter(|coding| !coding.is_empty());
            codings.all(|coding| READABLE_CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known)))
        })
    })
}

/// The media type that a header claims, in lower case and without parameters (HT-14).
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    (!essence.is_empty()).then(|| essence.to_ascii_lowercase())
}

/// Whether the response asks to be saved (RFC 6266 section 4.2: any type but `inline` is treated as `attachment`).
pub(crate) fn is_attachment(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_DISPOSITION) else { return false };
    let bytes = value.as_bytes();
    let kind = bytes.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    !kind.is_empty() && !kind.eq_ignore_ascii_case(b"inline")
}

/// The name that Content-Disposition gives, without any path.
pub(crate) fn disposition_name(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_DISPOSITION)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let extended = parameter(&text, "filename*").and_then(|value| extended_value(&value));
    let name = extended.or_else(|| parameter(&text, "filename"))?;
    last_part(&name)
}

/// The name of a file after the last part of a URL's path.
pub(crate) fn path_name(path: &str) -> Option<String> {
    last_part(&percent_decoded(path.rsplit('/').next().unwrap_or_default()))
}

/// Longest file name that is kept, bytes: the limit of common file systems.
const FILE_NAME_BYTES_MAX: usize = 255;

fn last_part(name: &str) -> Option<String> {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    while name.len() > FILE_NAME_BYTES_MAX {
        name.pop();
    }
    (!name.is_empty()).then_some(name)
}

/// One parameter of a header value; quotes and backslashes are taken off (RFC 9110 section 5.6.6).
pub(crate) fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (text, tail) = parameter_value(after.trim_start());
        if name.trim_matches([' ', '\t', ';']).eq_ignore_ascii_case(wanted) {
            return Some(text);
        }
        rest = tail;
    }
}

/// A token or a quoted string, and what follows its semicolon.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, tail) = text.split_once(';').unwrap_or((text, ""));
        return (token.trim().to_string(), tail);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

/// `UTF-8'en'na%20me` (RFC 8187 section 3.2). Only UTF-8 is read, the one encoding that senders may use.
fn extended_value(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let charset = parts.next()?;
    parts.next()?;
    let text = parts.next()?;
    charset.eq_ignore_ascii_case("utf-8").then(|| percent_decoded(text))
}

/// Text with its percent escapes read; a broken escape stands for itself.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.filter(|_| *byte == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        rows.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn connection_cannot_take_off_what_frames_the_message() {
        for listed in ["host", "Content-Length", "x, authorization", "a b", &"x,".repeat(17)] {
            let mut map = HeaderMap::new();
            map.insert("connection", HeaderValue::from_str(listed).unwrap());
            assert!(!strip_connection_fields(&mut map), "{listed}");
        }
    }

    #[test]
    fn listed_and_fixed_connection_fields_are_taken_off() {
        let mut map = headers(&[
            ("connection", "X-Hop, keep-alive"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("x-kept", "1"),
        ]);
        assert!(strip_connection_fields(&mut map));
        let names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 2);
        assert!(map.contains_key("x-kept") && map["te"] == "trailers");
    }

    #[test]
    fn operations_run_delete_set_add_and_never_touch_framing() {
        let change = |name: &str, value: &str| (std::sync::Arc::<str>::from(name), std::sync::Arc::<str>::from(value));
        let ((n1, v1), (n2, v2), (n3, v3)) = (change("x", "1"), change("x", "2"), change("host", "evil"));
        let changes = [
            HeaderChange::Add { name: n1.clone(), value: v1 },
            HeaderChange::Set { name: n2, value: v2 },
            HeaderChange::Delete { name: n1 },
            HeaderChange::Set { name: n3, value: v3 },
        ];
        let mut map = headers(&[("x", "0"), ("host", "good")]);
        let done = apply_changes(&mut map, &changes);
        assert_eq!(done, ["delete x", "set x", "refused set host", "add x"]);
        assert_eq!(map.get_all("x").iter().collect::<Vec<_>>(), ["2", "1"]);
        assert_eq!(map["host"], "good");
    }

    #[test]
    fn a_coding_that_the_scanner_cannot_undo_is_told() {
        for (value, readable) in [
            ("gzip", true),
            ("GZIP, identity", true),
            ("zstd", false),
            ("br", false),
            ("gzip, br", false),
            ("deflate", false),
            ("aes128gcm", false),
            ("gzip;q=1", false),
        ] {
            assert_eq!(is_readable_coding(&headers(&[("content-encoding", value)])), readable, "{value}");
        }
        assert!(is_readable_coding(&HeaderMap::new()));
        assert!(!is_readable_coding(&headers(&[("content-encoding", "gzip"), ("content-encoding", "br")])));
    }

    #[test]
    fn file_names_of_all_writings_lose_their_path() {
        for (value, name) in [
            ("attachment; filename=\"a\\\"b.zip\"", Some("a\"b.zip")),
            ("attachment; filename=plain.exe ; size=3", Some("plain.exe")),
            ("attachment; filename=\"x.txt\"; filename*=UTF-8''na%20me%2e.exe", Some("na me..exe")),
            ("attachment; filename=\"..\\\\..\\\\evil.dll\"", Some("evil.dll")),
            ("attachment; filename=\"../../etc/passwd\"", Some("passwd")),
            ("attachment; x=\"; filename=no\"; filename=yes", Some("yes")),
            ("attachment", None),
            ("attachment; filename=\"", None),
        ] {
            let mut map = HeaderMap::new();
            map.insert("content-disposition", HeaderValue::from_str(value).unwrap());
            assert_eq!(disposition_name(&map).as_deref(), name, "{value}");
        }
        assert_eq!(path_name("/a/b%2Fc%zz.exe").as_deref(), Some("c%zz.exe"));
        assert_eq!(path_name("/a/"), None);
    }

    #[test]
    fn a_websocket_needs_both_fields_once() {
        let get = http::Method::GET;
        let good = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert!(asks_for_websocket(&get, http::Version::HTTP_11, &good));
        for bad in [
            headers(&[("upgrade", "websocket")]),
            headers(&[("connection", "upgrade"), ("upgrade", "h2c")]),
            headers(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]),
        ] {
            assert!(!asks_for_websocket(&get, http::Version::HTTP_11, &bad));
        }
    }
}
