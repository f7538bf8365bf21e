//! Public feeds that an operator can add by name, and what becomes of them over time. Nothing is fetched here and no
//! feed's content ships: the binary fetches, this says what to ask for (RFC 9110 section 13.1) and what an answer means.

use model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::CategoryKind;
use crate::category::{ADVERTISEMENTS, COMMAND_AND_CONTROL, CRYPTOMINING, MALWARE, PHISHING, SCAM};
use crate::list::Format;

/// A feed that can be added by its name. A text may hold names, addresses, URLs and hashes; each is compiled as what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    pub name: &'static str,
    pub title: &'static str,
    pub url: &'static str,
    pub format: Format,
    pub category: CategoryKind,
    /// The publisher's terms as far as they are known; the operator reads them before use.
    pub licence: &'static str,
    pub note: &'static str,
}

macro_rules! feeds {
    ($($name:literal $title:literal $url:literal $format:ident $kind:ident($category:expr) $licence:literal $note:literal;)+) => {
        /// In the order in which they are offered.
        pub const FEEDS: &[Feed] = &[$(Feed {
            name: $name, title: $title, url: $url, format: Format::$format, category: CategoryKind::$kind($category),
            licence: $licence, note: $note,
        },)+];
    };
}

feeds! {
    "urlhaus" "abuse.ch URLhaus, host names" "https://urlhaus.abuse.ch/downloads/hostfile/" Hosts Security(MALWARE) "CC0-1.0" "hosts that serve malware";
    "urlhaus-urls" "abuse.ch URLhaus, URLs that are online" "https://urlhaus.abuse.ch/downloads/text_online/" Plain Security(MALWARE) "CC0-1.0" "exact URLs, for the web gate";
    "threatfox" "abuse.ch ThreatFox, host names" "https://threatfox.abuse.ch/downloads/hostfile/" Hosts Security(COMMAND_AND_CONTROL) "CC0-1.0" "names of command and control servers";
    "feodo" "abuse.ch Feodo Tracker, addresses" "https://feodotracker.abuse.ch/downloads/ipblocklist.txt" Plain Security(COMMAND_AND_CONTROL) "CC0-1.0" "addresses of botnet servers; often short";
    "malware-bazaar" "abuse.ch MalwareBazaar, recent SHA-256" "https://bazaar.abuse.ch/export/txt/sha256/recent/" Plain Security(MALWARE) "CC0-1.0" "file hashes of the last two days";
    "phishing-army" "Phishing Army" "https://phishing.army/download/phishing_army_blocklist.txt" Plain Security(PHISHING) "CC-BY-NC-4.0" "not for commercial use";
    "blp-phishing" "Block List Project, phishing" "https://blocklistproject.github.io/Lists/phishing.txt" Auto Security(PHISHING) "Unlicense" "large";
    "blp-ransomware" "Block List Project, ransomware" "https://blocklistproject.github.io/Lists/ransomware.txt" Auto Security(MALWARE) "Unlicense" "";
    "blp-scam" "Block List Project, scam" "https://blocklistproject.github.io/Lists/scam.txt" Auto Security(SCAM) "Unlicense" "";
    "hagezi-threats" "HaGeZi Threat Intelligence Feeds" "https://raw.githubusercontent.com/hagezi/dns-blocklists/main/adblock/tif.txt" Adblock Security(MALWARE) "GPL-3.0" "very large";
    "nocoin" "NoCoin" "https://raw.githubusercontent.com/hoshsadiq/adblock-nocoin-list/master/hosts.txt" Hosts Security(CRYPTOMINING) "MIT" "mining in the browser";
    "spamhaus-drop" "Spamhaus DROP" "https://www.spamhaus.org/drop/drop.txt" Plain Security(COMMAND_AND_CONTROL) "Spamhaus terms, free of charge" "networks run by criminals";
    "tor-exits" "Tor exit addresses" "https://check.torproject.org/torbulkexitlist" Plain Security(68) "none stated" "anonymizer, not a threat by itself";
    "stevenblack" "StevenBlack unified hosts" "https://raw.githubusercontent.com/StevenBlack/hosts/master/hosts" Hosts Content(ADVERTISEMENTS) "MIT" "advertising, trackers and malware in one list";
    "adguard-dns" "AdGuard DNS filter" "https://adguardteam.github.io/AdGuardSDNSFilter/Filters/filter.txt" Adblock Content(ADVERTISEMENTS) "GPL-3.0" "has exceptions";
    "hagezi-pro" "HaGeZi Multi PRO" "https://raw.githubusercontent.com/hagezi/dns-blocklists/main/adblock/pro.txt" Adblock Content(ADVERTISEMENTS) "GPL-3.0" "";
    "oisd-small" "OISD small" "https://small.oisd.nl/" Adblock Content(ADVERTISEMENTS) "GPL-3.0" "prefers not to break anything";
    "oisd-big" "OISD big" "https://big.oisd.nl/" Adblock Content(ADVERTISEMENTS) "GPL-3.0" "";
    "peter-lowe" "Peter Lowe's ad servers" "https://pgl.yoyo.org/adservers/serverlist.php?hostformat=hosts&showintro=0&mimetype=plaintext" Hosts Content(ADVERTISEMENTS) "McRae General Public License" "small";
}

/// A feed by its name.
pub fn feed_named(name: &str) -> Option<&'static Feed> {
    FEEDS.iter().find(|feed| feed.name == name)
}

/// How one feed is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    pub refresh_seconds: i64,
    /// After this long without a success the entries are no longer used: stale indicators block people who have done
    /// nothing, since addresses and names change hands.
    pub expire_seconds: i64,
    /// A copy with fewer entries than this share of the last good one is refused, in percent.
    pub shrink_percent_min: usize,
}

/// Daily lists are the custom; two weeks bridge a publisher's holiday; a list that lost four fifths overnight is far more
/// often a broken export than good news.
pub const KEEPING: Keeping = Keeping { refresh_seconds: 24 * 3600, expire_seconds: 14 * 24 * 3600, shrink_percent_min: 20 };

/// First wait after a failure; doubles with each, up to the refresh interval.
const RETRY_SECONDS_MIN: i64 = 300;

/// What is remembered of a feed between fetches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedState {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    /// When the publisher last answered with a copy, or said that ours is the newest.
    pub succeeded: Option<Timestamp>,
    pub tried: Option<Timestamp>,
    pub failures: u32,
    pub entries: usize,
    /// Why the last try failed; empty where it did not.
    pub problem: String,
}

/// What the publisher said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 304.
    NotModified,
    /// A whole copy, already parsed.
    Copy { etag: Option<String>, last_modified: Option<String>, entries: usize },
    /// Anything else: no connection, another status, a body over its bound.
    Failed(String),
}

/// What to do with the copy in hand and the one kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Replace,
    KeepLastGood,
}

impl FeedState {
    /// When to ask next.
    pub fn due(&self, keeping: Keeping) -> Timestamp {
        let Some(tried) = self.tried else {
            return Timestamp::default();
        };
        let wait = match self.failures {
            0 => keeping.refresh_seconds,
            failures => RETRY_SECONDS_MIN.saturating_mul(1 << (failures - 1).min(20)).min(keeping.refresh_seconds),
        };
        tried.plus_micros(wait.saturating_mul(1_000_000))
    }

    /// Request headers that make the publisher answer 304 where nothing changed.
    pub fn conditions(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let etag = self.etag.as_deref().map(|etag| ("if-none-match", etag));
        etag.into_iter().chain(self.last_modified.as_deref().map(|date| ("if-modified-since", date)))
    }

    /// Whether the kept copy is too old to be used.
    pub fn is_expired(&self, now: Timestamp, keeping: Keeping) -> bool {
        self.succeeded.is_none_or(|at| at.plus_micros(keeping.expire_seconds.saturating_mul(1_000_000)) < now)
    }

    /// Takes in an answer.
    pub fn learn(&mut self, now: Timestamp, reply: Reply, keeping: Keeping) -> Outcome {
        self.tried = Some(now);
        match reply {
            Reply::NotModified if self.succeeded.is_some() => {
                self.succeed(now);
                Outcome::KeepLastGood
            }
            Reply::NotModified => self.fail("not modified, but no copy is kept"),
            Reply::Copy { entries: 0, .. } => self.fail("the copy has no entries"),
            Reply::Copy { entries, .. }
                if entries.saturating_mul(100) < self.entries.saturating_mul(keeping.shrink_percent_min) =>
            {
                self.fail("the copy lost most of its entries")
            }
            Reply::Copy { etag, last_modified, entries } => {
                self.succeed(now);
                (self.etag, self.last_modified, self.entries) = (etag, last_modified, entries);
                Outcome::Replace
            }
            Reply::Failed(problem) => self.fail(&problem),
        }
    }

    fn succeed(&mut self, now: Timestamp) {
        self.succeeded = Some(now);
        self.failures = 0;
        self.problem.clear();
    }

    fn fail(&mut self, problem: &str) -> Outcome {
        self.failures = self.failures.saturating_add(1);
        self.problem = problem.to_owned();
        Outcome::KeepLastGood
    }
}

/// What one source says about an indicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// How far the source is trusted, in percent.
    pub confidence: u8,
    pub last_seen: Timestamp,
    /// How long until the opinion counts half: days for addresses, months for file hashes.
    pub half_life_seconds: i64,
}

/// How sure several sources are together, in percent: each opinion fades by its half-life, and independent sources leave
/// less and less doubt (one minus the product of the doubts).
pub fn score(opinions: &[Opinion], now: Timestamp) -> u8 {
    let doubt = opinions.iter().fold(1.0_f64, |doubt, opinion| {
        let age = (now.seconds() - opinion.last_seen.seconds()).max(0) as f64;
        let faded = 0.5_f64.powf(age / opinion.half_life_seconds.max(1) as f64);
        doubt * (1.0 - f64::from(opinion.confidence.min(100)) / 100.0 * faded)
    });
    ((1.0 - doubt) * 100.0).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn copy(entries: usize) -> Reply {
        Reply::Copy { etag: Some("\"a\"".to_owned()), last_modified: None, entries }
    }

    #[test]
    fn an_empty_or_collapsed_copy_never_replaces_a_good_one() {
        let mut state = FeedState::default();
        assert_eq!(state.learn(at(0), copy(0), KEEPING), Outcome::KeepLastGood);
        assert_eq!(state.learn(at(1), copy(1000), KEEPING), Outcome::Replace);
        assert_eq!(state.learn(at(2), copy(199), KEEPING), Outcome::KeepLastGood);
        assert_eq!((state.entries, state.failures), (1000, 1));
        assert_eq!(state.learn(at(3), copy(200), KEEPING), Outcome::Replace);
        assert_eq!((state.failures, state.problem.as_str()), (0, ""));
    }

    #[test]
    fn failures_wait_longer_and_never_beyond_the_interval() {
        let mut state = FeedState::default();
        assert_eq!(state.due(KEEPING), at(0));
        for wait in [300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 76800, DAY, DAY] {
            state.learn(at(0), Reply::Failed("no route".to_owned()), KEEPING);
            assert_eq!(state.due(KEEPING), at(wait));
        }
        state.learn(at(0), copy(1), KEEPING);
        assert_eq!(state.due(KEEPING), at(DAY));
    }

    #[test]
    fn a_feed_expires_when_its_publisher_is_silent() {
        let mut state = FeedState::default();
        assert!(state.is_expired(at(0), KEEPING));
        assert_eq!(state.learn(at(0), Reply::NotModified, KEEPING), Outcome::KeepLastGood);
        assert!(state.is_expired(at(0), KEEPING), "a 304 without a copy is no success");
        state.learn(at(0), copy(5), KEEPING);
        assert!(!state.is_expired(at(14 * DAY), KEEPING));
        assert!(state.is_expired(at(14 * DAY + 1), KEEPING));
        state.learn(at(13 * DAY), Reply::NotModified, KEEPING);
        assert!(!state.is_expired(at(20 * DAY), KEEPING));
        assert_eq!(state.conditions().collect::<Vec<_>>(), [("if-none-match", "\"a\"")]);
    }

    #[test]
    fn sources_add_up_and_fade() {
        let opinion = Opinion { confidence: 50, last_seen: at(0), half_life_seconds: 10 };
        assert_eq!(score(&[], at(0)), 0);
        assert_eq!(score(&[opinion], at(0)), 50);
        assert_eq!(score(&[opinion, opinion], at(0)), 75);
        assert_eq!(score(&[opinion], at(10)), 25);
        assert_eq!(score(&[Opinion { half_life_seconds: 0, ..opinion }], at(1_000_000)), 0);
    }

    #[test]
    fn feeds_have_unique_names_and_secure_addresses() {
        for (place, feed) in FEEDS.iter().enumerate() {
            assert!(feed.url.starts_with("https://"), "{}", feed.name);
            assert!(!feed.licence.is_empty(), "{}", feed.name);
            assert!(FEEDS[place + 1..].iter().all(|other| other.name != feed.name && other.url != feed.url), "{}", feed.name);
        }
        assert_eq!(feed_named("urlhaus").map(|feed| feed.format), Some(Format::Hosts));
    }
}
