//! Readers of block lists as the public publishes them: hosts files, adblock rules that a DNS filter can follow, plain
//! names (also with `*.`), and RPZ zones (draft-vixie-dnsop-dns-rpz section 4). Any text gives a value: a line that cannot
//! be followed is skipped and reported with its number, never guessed at.

use std::net::IpAddr;

use model::name::HOST_BYTES_MAX;

use crate::entries::{Entries, Scope};
use crate::ranges::parse_range;
use crate::table::KEY_BYTES_MAX;

/// How the text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Decided by the first lines that are neither empty nor a comment.
    #[default]
    Auto,
    /// `0.0.0.0 name...`
    Hosts,
    /// `||name^`, `@@||name^`
    Adblock,
    /// One name, address, range, URL or hash a line.
    Plain,
    /// A DNS response policy zone.
    Rpz,
}

/// Bounds of one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub entries_max: usize,
    pub line_bytes_max: usize,
    /// Skipped lines that are reported one by one; the rest are only counted.
    pub skipped_max: usize,
}

/// Five times the largest list that an operator is promised (ON-08: one million); a line holds the longest URL that
/// browsers send, twice; a report of a hundred lines is what a person reads.
pub const LIMITS: Limits = Limits { entries_max: 5_000_000, line_bytes_max: 4096, skipped_max: 100 };

/// Lines that `Format::Auto` looks at.
const GUESS_LINES_MAX: usize = 50;

impl Default for Limits {
    fn default() -> Limits {
        LIMITS
    }
}

/// Why a line was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    #[error("the line is too long")]
    TooLong,
    #[error("the line is not UTF-8")]
    NotText,
    #[error("not a name, address, URL or hash")]
    NotAnEntry,
    #[error("a rule that cannot be followed by name alone")]
    NotByName,
    #[error("a policy that is not to block or to pass")]
    OtherPolicy,
    #[error("a directive that is not followed")]
    Directive,
    #[error("the list is full")]
    Full,
}

/// What a text held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Names.
    pub entries: Entries,
    /// Names taken out of this list.
    pub exceptions: Entries,
    /// Names that the exceptions above do not take out (`$important`), and those that are taken out even so.
    pub important: Entries,
    pub important_exceptions: Entries,
    /// Addresses and ranges, which some lists mix in.
    pub addresses: Entries,
    pub address_exceptions: Entries,
    pub urls: Entries,
    /// SHA-256 in lower-case hexadecimal.
    pub hashes: Entries,
    /// Line numbers from 1, at most [`Limits::skipped_max`] of them.
    pub skipped: Vec<(usize, Reason)>,
    pub skipped_count: usize,
}

/// Reads a list.
pub fn parse(format: Format, text: &[u8], limits: Limits) -> Parsed {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let format = match format {
        Format::Auto => guess(text, limits),
        format => format,
    };
    let mut reader =
        Reader { parsed: Parsed::default(), limits, origin: String::new(), owner: String::new(), open: false, line: 0 };
    for line in text.split(|byte| *byte == b'\n') {
        reader.line += 1;
        reader.read(format, line);
    }
    reader.parsed
}

/// Whether the text is a host name in canonical form, underscores allowed (they appear in service names).
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= HOST_BYTES_MAX
        && text.split('.').all(is_label)
        && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// The form in which URLs are compared: host in lower case, port unless it is the default, path and query. None where
/// the text is no http or https URL, carries control characters, or is longer than a list may hold.
pub fn canonical_url(url: &str) -> Option<String> {
    let url = url.trim();
    if url.len() > KEY_BYTES_MAX || url.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return None;
    }
    let (scheme, rest) = url.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return None,
    };
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_ascii_lowercase();
    let host = host.strip_suffix(default_port).unwrap_or(&host);
    if host.is_empty() {
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(format!("{host}{slash}{path}"))
}

/// The 32 bytes of a SHA-256 written in hexadecimal.
pub fn sha256_bytes(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| pair.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(hash)
}

fn is_label(label: &str) -> bool {
    // RFC 1035 section 2.3.4.
    (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn guess(text: &[u8], limits: Limits) -> Format {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| line.len() <= limits.line_bytes_max);
    let lines = lines.filter_map(|line| std::str::from_utf8(line).ok()).map(str::trim).filter(|line| !line.is_empty());
    for line in lines.take(GUESS_LINES_MAX) {
        if line.starts_with("$TTL") || line.starts_with("$ORIGIN") || line.starts_with(';') || line.contains(" SOA ") {
            return Format::Rpz;
        }
        if line.starts_with("||") || line.starts_with("@@") || line.starts_with('!') || line.starts_with("[Adblock") {
            return Format::Adblock;
        }
        if line.starts_with('#') {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let is_hosts = words.next().is_some_and(|word| word.parse::<IpAddr>().is_ok())
            && words.next().is_some_and(|word| is_name(&word.to_ascii_lowercase()));
        return if is_hosts { Format::Hosts } else { Format::Plain };
    }
    Format::Plain
}

struct Reader {
    parsed: Parsed,
    limits: Limits,
    /// The zone that RPZ names are relative to.
    origin: String,
    /// The owner of the last record, which a line that begins with a space belongs to (RFC 1035 section 5.1).
    owner: String,
    /// Inside parentheses, a record goes on over lines.
    open: bool,
    line: usize,
}

impl Reader {
    fn read(&mut self, format: Format, line: &[u8]) {
        if line.len() > self.limits.line_bytes_max {
            return self.skip(Reason::TooLong);
        }
        let Ok(line) = std::str::from_utf8(line) else {
            return self.skip(Reason::NotText);
        };
        match format {
            Format::Hosts => self.hosts(line),
            Format::Adblock => self.adblock(line.trim()),
            Format::Rpz => self.rpz(line),
            Format::Plain | Format::Auto => self.plain(line),
        }
    }

    fn skip(&mut self, reason: Reason) {
        self.parsed.skipped_count += 1;
        if self.parsed.skipped.len() < self.limits.skipped_max {
            self.parsed.skipped.push((self.line, reason));
        }
    }

    fn hosts(&mut self, line: &str) {
        let mut words = before_comment(line).split_ascii_whitespace();
        let Some(address) = words.next() else {
            return;
        };
        if address.parse::<IpAddr>().is_err() {
            return self.skip(Reason::NotAnEntry);
        }
        for name in words {
            // The machine's own names stand in every hosts file and are not blocked by anyone.
            if !is_own_name(name) {
                self.name(name, Scope::Whole);
            }
        }
    }

    fn plain(&mut self, line: &str) {
        let entry = before_comment(line).trim();
        if entry.is_empty() || entry.starts_with('!') || entry.starts_with(';') {
            return;
        }
        if entry.contains("://") {
            return match canonical_url(entry) {
                Some(_) => self.add(|parsed| &mut parsed.urls, entry, Scope::Exact),
                None => self.skip(Reason::NotAnEntry),
            };
        }
        if parse_range(entry).is_some() {
            return self.add(|parsed| &mut parsed.addresses, entry, Scope::Exact);
        }
        if sha256_bytes(entry).is_some() {
            return self.add(|parsed| &mut parsed.hashes, &entry.to_ascii_lowercase(), Scope::Exact);
        }
        match entry.strip_prefix("*.") {
            Some(below) => self.name(below, Scope::Below),
            None => self.name(entry.strip_prefix('.').unwrap_or(entry), Scope::Whole),
        }
    }

    /// The part of the adblock syntax that speaks about whole names; modifiers that narrow a rule by page, type or client
    /// make it one that a name alone cannot answer.
    fn adblock(&mut self, line: &str) {
        if line.is_empty() || line.starts_with('!') || line.starts_with('#') || line.starts_with('[') {
            return;
        }
        let (is_exception, rule) = line.strip_prefix("@@").map_or((false, line), |rule| (true, rule));
        let (pattern, modifiers) = rule.split_once('$').unwrap_or((rule, ""));
        let is_important = modifiers.split(',').any(|modifier| modifier == "important");
        if modifiers.split(',').any(|modifier| !matches!(modifier, "" | "important" | "all" | "document" | "third-party")) {
            return self.skip(Reason::NotByName);
        }
        let Some((name, scope)) = adblock_name(pattern) else {
            return self.skip(Reason::NotByName);
        };
        if name.parse::<IpAddr>().is_ok() {
            return match is_exception {
                true => self.add(|parsed| &mut parsed.address_exceptions, name, Scope::Exact),
                false => self.add(|parsed| &mut parsed.addresses, name, Scope::Exact),
            };
        }
        match (is_exception, is_important) {
            (false, false) => self.name(name, scope),
            (false, true) => self.put(|parsed| &mut parsed.important, name, scope),
            (true, false) => self.exception(name, scope),
            (true, true) => {
                self.exception(name, scope);
                self.put(|parsed| &mut parsed.important_exceptions, name, scope);
            }
        }
    }

    fn rpz(&mut self, line: &str) {
        let line = line.split_once(';').map_or(line, |(before, _)| before);
        let goes_on = self.open;
        self.open = line.contains('(') || (self.open && !line.contains(')'));
        let mut words = line.split_ascii_whitespace().peekable();
        // Only a start of authority is written over lines, and nothing in it is a policy.
        if goes_on || words.peek().is_none() {
            return;
        }
        if !line.starts_with([' ', '\t']) {
            let Some(owner) = words.next() else { return };
            if owner.starts_with('$') {
                return self.directive(owner, words.next().unwrap_or_default());
            }
            self.owner = owner.to_ascii_lowercase();
        }
        let mut words = words.skip_while(|word| is_ttl(word) || word.eq_ignore_ascii_case("IN"));
        let (kind, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if kind.eq_ignore_ascii_case("SOA") && self.origin.is_empty() {
            self.origin = self.owner.strip_suffix('.').unwrap_or_default().to_owned();
        }
        let owner = self.relative();
        if owner.is_empty() || owner == "@" {
            // The zone's own records; a policy for all names would be `*`.
            if !matches!(kind.to_ascii_uppercase().as_str(), "SOA" | "NS") {
                self.skip(Reason::NotAnEntry);
            }
            return;
        }
        if !kind.eq_ignore_ascii_case("CNAME") {
            // An address or text record is a local answer, which is the policy's business, but it does name a trigger.
            return match kind.to_ascii_uppercase().as_str() {
                "A" | "AAAA" | "TXT" => self.trigger(&owner, false),
                _ => self.skip(Reason::OtherPolicy),
            };
        }
        match target.trim_end_matches('.').to_ascii_lowercase().as_str() {
            "" | "*" | "rpz-drop" | "rpz-tcp-only" => self.trigger(&owner, false),
            "rpz-passthru" => self.trigger(&owner, true),
            _ => self.skip(Reason::OtherPolicy),
        }
    }

    fn directive(&mut self, directive: &str, value: &str) {
        match directive.to_ascii_uppercase().as_str() {
            "$ORIGIN" => self.origin = value.trim_end_matches('.').to_ascii_lowercase(),
            "$TTL" => {}
            _ => self.skip(Reason::Directive),
        }
    }

    /// The owner without the zone that it stands in; empty for the zone itself.
    fn relative(&self) -> String {
        let Some(absolute) = self.owner.strip_suffix('.') else {
            return self.owner.clone();
        };
        if absolute == self.origin {
            return String::new();
        }
        let inner = absolute.strip_suffix(self.origin.as_str()).and_then(|inner| inner.strip_suffix('.'));
        inner.filter(|_| !self.origin.is_empty()).unwrap_or(absolute).to_owned()
    }

    fn trigger(&mut self, owner: &str, is_exception: bool) {
        if let Some(reversed) = owner.strip_suffix(".rpz-ip") {
            return match (rpz_address(reversed), is_exception) {
                (Some(range), false) => self.add(|parsed| &mut parsed.addresses, &range, Scope::Exact),
                (Some(range), true) => self.add(|parsed| &mut parsed.address_exceptions, &range, Scope::Exact),
                (None, _) => self.skip(Reason::NotAnEntry),
            };
        }
        if [".rpz-nsdname", ".rpz-nsip", ".rpz-client-ip"].iter().any(|trigger| owner.ends_with(trigger)) {
            return self.skip(Reason::NotByName);
        }
        let (name, scope) = owner.strip_prefix("*.").map_or((owner, Scope::Exact), |below| (below, Scope::Below));
        match is_exception {
            true => self.exception(name, scope),
            false => self.name(name, scope),
        }
    }

    fn name(&mut self, name: &str, scope: Scope) {
        self.put(|parsed| &mut parsed.entries, name, scope);
    }

    fn exception(&mut self, name: &str, scope: Scope) {
        self.put(|parsed| &mut parsed.exceptions, name, scope);
    }

    fn put(&mut self, kind: impl Fn(&mut Parsed) -> &mut Entries, name: &str, scope: Scope) {
        match model::name::canonical(name).filter(|name| is_name(name) && name.parse::<IpAddr>().is_err()) {
            Some(name) => self.add(kind, &name, scope),
            None => self.skip(Reason::NotAnEntry),
        }
    }

    fn add(&mut self, kind: impl Fn(&mut Parsed) -> &mut Entries, entry: &str, scope: Scope) {
        let parsed = &self.parsed;
        let held = parsed.entries.len()
            + parsed.important.len()
            + parsed.exceptions.len()
            + parsed.addresses.len()
            + parsed.urls.len()
            + parsed.hashes.len();
        if held >= self.limits.entries_max || !kind(&mut self.parsed).push(entry, scope) {
            self.skip(Reason::Full);
        }
    }
}

/// `300`, `2h`, `1w2d` (as BIND writes times to live).
fn is_ttl(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
        && word.bytes().all(|byte| byte.is_ascii_digit() || b"smhdwSMHDW".contains(&byte))
}

fn before_comment(line: &str) -> &str {
    // A `#` inside a URL is a fragment; a comment begins a line or follows a space. Address lists use `;` (Spamhaus).
    let line = line.trim_start();
    if line.starts_with('#') {
        return "";
    }
    line.match_indices(['#', ';']).find(|(at, _)| line[..*at].ends_with([' ', '\t'])).map_or(line, |(at, _)| &line[..at])
}

fn is_own_name(name: &str) -> bool {
    const OWN: &[&str] = &[
        "localhost",
        "localhost.localdomain",
        "local",
        "broadcasthost",
        "ip6-localhost",
        "ip6-loopback",
        "ip6-localnet",
        "ip6-mcastprefix",
        "ip6-allnodes",
        "ip6-allrouters",
        "ip6-allhosts",
        "0.0.0.0",
    ];
    OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// `||name^` covers the name and all below it; `|name^` and `name` the name alone.
fn adblock_name(pattern: &str) -> Option<(&str, Scope)> {
    let (body, scope) = match pattern.strip_prefix("||") {
        Some(body) => (body, Scope::Whole),
        None => (pattern.strip_prefix('|').unwrap_or(pattern), Scope::Exact),
    };
    let body = body.strip_suffix('|').unwrap_or(body);
    let body = body.strip_suffix('^').unwrap_or(body);
    let (body, scope) = body.strip_prefix("*.").map_or((body, scope), |below| (below, Scope::Below));
    (!body.is_empty() && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte)))
        .then_some((body, scope))
}

/// `24.0.2.0.192` is 192.0.2.0/24, and `128.1.zz.db8.2001` is 2001:db8::1/128 (draft-vixie-dnsop-dns-rpz section 4.1.1).
fn rpz_address(reversed: &str) -> Option<String> {
    let (prefix, labels) = reversed.split_once('.')?;
    let mut labels: Vec<&str> = labels.split('.').collect();
    labels.reverse();
    let is_v4 = labels.len() == 4 && labels.iter().all(|label| label.parse::<u8>().is_ok());
    let address = if is_v4 { labels.join(".") } else { v6_text(&labels) };
    let range = format!("{address}/{prefix}");
    parse_range(&range).map(|_| range)
}

/// `zz` stands for the longest run of zeros.
fn v6_text(labels: &[&str]) -> String {
    let place = labels.iter().position(|label| *label == "zz");
    match place {
        Some(place) => {
            let (before, after) = labels.split_at(place);
            format!("{}::{}", before.join(":"), after.get(1..).unwrap_or_default().join(":"))
        }
        None => labels.join(":"),
    }
}
