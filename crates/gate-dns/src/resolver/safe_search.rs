//! The enforced-safe hosts of search engines and of YouTube (AC-04, AC-05). The hosts are the engines' own published ones:
//! Google's "Lock SafeSearch", Bing's "Strict", DuckDuckGo's "Safe", Yandex's "Family", YouTube's "Restricted Mode" in both of
//! its degrees, and those of Brave, Ecosia and Pixabay.

use crate::spec::YoutubeRestriction;

const GOOGLE: &str = "forcesafesearch.google.com";
const BING: &str = "strict.bing.com";
const DUCKDUCKGO: &str = "safe.duckduckgo.com";
const YANDEX: &str = "familysearch.yandex.ru";
const BRAVE: &str = "forcesafe.search.brave.com";
const ECOSIA: &str = "strict-safe-search.ecosia.org";
const PIXABAY: &str = "safesearch.pixabay.com";
const YOUTUBE_STRICT: &str = "restrict.youtube.com";
const YOUTUBE_MODERATE: &str = "restrictmoderate.youtube.com";

const BING_HOSTS: &[&str] = &["bing.com", "www.bing.com", "edgeservices.bing.com"];
const DUCKDUCKGO_HOSTS: &[&str] = &["duckduckgo.com", "www.duckduckgo.com", "start.duckduckgo.com", "duck.com", "www.duck.com"];
const BRAVE_HOSTS: &[&str] = &["search.brave.com"];
const ECOSIA_HOSTS: &[&str] = &["ecosia.org", "www.ecosia.org"];
const PIXABAY_HOSTS: &[&str] = &["pixabay.com", "www.pixabay.com"];
const YANDEX_HOSTS: &[&str] = &["ya.ru", "www.ya.ru"];
const YOUTUBE_HOSTS: &[&str] = &[
    "www.youtube.com",
    "m.youtube.com",
    "youtube.com",
    "youtubei.googleapis.com",
    "youtube.googleapis.com",
    "www.youtube-nocookie.com",
];

/// Countries in which Yandex searches.
const YANDEX_SUFFIXES: &[&str] = &[
    "az", "by", "com", "com.am", "com.ge", "com.ru", "com.tr", "ee", "eu", "fr", "kg", "kz", "lt", "lv", "md", "net", "org",
    "pl", "ru", "tj", "tm", "ua", "uz",
];

/// Suffixes after `google.` of the search domains that Google lists.
const GOOGLE_SUFFIXES: &[&str] = &[
    "ad", "ae", "al", "am", "as", "at", "az", "ba", "be", "bf", "bg", "bi", "bj", "bs", "bt", "by", "ca", "cat", "cd", "cf",
    "cg", "ch", "ci", "cl", "cm", "cn", "co.ao", "co.bw", "co.ck", "co.cr", "co.id", "co.il", "co.in", "co.jp", "co.ke", "co.kr",
    "co.ls", "co.ma", "co.mz", "co.nz", "co.th", "co.tz", "co.ug", "co.uk", "co.uz", "co.ve", "co.vi", "co.za", "co.zm", "co.zw",
    "com", "com.af", "com.ag", "com.ar", "com.au", "com.bd", "com.bh", "com.bn", "com.bo", "com.br", "com.bz", "com.co",
    "com.cu", "com.cy", "com.do", "com.ec", "com.eg", "com.et", "com.fj", "com.gh", "com.gi", "com.gt", "com.hk", "com.jm",
    "com.kh", "com.kw", "com.lb", "com.ly", "com.mm", "com.mt", "com.mx", "com.my", "com.na", "com.ng", "com.ni", "com.np",
    "com.om", "com.pa", "com.pe", "com.pg", "com.ph", "com.pk", "com.pr", "com.py", "com.qa", "com.sa", "com.sb", "com.sg",
    "com.sl", "com.sv", "com.tj", "com.tr", "com.tw", "com.ua", "com.uy", "com.vc", "com.vn", "cv", "cz", "de", "dj", "dk", "dm",
    "dz", "ee", "es", "fi", "fm", "fr", "ga", "ge", "gg", "gl", "gm", "gr", "gy", "hn", "hr", "ht", "hu", "ie", "im", "iq", "is",
    "it", "je", "jo", "kg", "ki", "kz", "la", "li", "lk", "lt", "lu", "lv", "md", "me", "mg", "mk", "ml", "mn", "mu", "mv", "mw",
    "ne", "nl", "no", "nr", "nu", "pl", "pn", "ps", "pt", "ro", "rs", "ru", "rw", "sc", "se", "sh", "si", "sk", "sm", "sn", "so",
    "sr", "st", "td", "tg", "tl", "tm", "tn", "to", "tt", "vg", "vu", "ws",
];

/// The safe host of a search engine's host, or none for any other name. YouTube belongs to it (AC-04).
pub(super) fn safe_search(host: &str, youtube: YoutubeRestriction) -> Option<&'static str> {
    if is_search(host, "google", GOOGLE_SUFFIXES) {
        return Some(GOOGLE);
    }
    if is_search(host, "yandex", YANDEX_SUFFIXES) || YANDEX_HOSTS.contains(&host) {
        return Some(YANDEX);
    }
    let engines = [
        (BING_HOSTS, BING),
        (DUCKDUCKGO_HOSTS, DUCKDUCKGO),
        (BRAVE_HOSTS, BRAVE),
        (ECOSIA_HOSTS, ECOSIA),
        (PIXABAY_HOSTS, PIXABAY),
    ];
    let safe = engines.iter().find(|(hosts, _)| hosts.contains(&host)).map(|(_, safe)| *safe);
    safe.or_else(|| youtube_restricted(host, youtube))
}

/// The restricted host of a YouTube host.
pub(super) fn youtube_restricted(host: &str, degree: YoutubeRestriction) -> Option<&'static str> {
    YOUTUBE_HOSTS.contains(&host).then_some(match degree {
        YoutubeRestriction::Strict => YOUTUBE_STRICT,
        YoutubeRestriction::Moderate => YOUTUBE_MODERATE,
    })
}

/// `google.SUFFIX` or `www.google.SUFFIX`: other hosts of the domain are other services.
fn is_search(host: &str, label: &str, suffixes: &[&str]) -> bool {
    let host = host.strip_prefix("www.").unwrap_or(host);
    host.split_once('.').is_some_and(|(first, suffix)| first == label && suffixes.binary_search(&suffix).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_as_their_search_needs() {
        assert!(GOOGLE_SUFFIXES.is_sorted() && YANDEX_SUFFIXES.is_sorted());
    }

    /// AC-04 and AC-05: each engine's hosts, and names that only look like them.
    #[test]
    fn engines_are_recognised_by_whole_host() {
        for (host, safe) in [
            ("www.google.com", GOOGLE),
            ("google.co.jp", GOOGLE),
            ("www.google.com.au", GOOGLE),
            ("www.bing.com", BING),
            ("duckduckgo.com", DUCKDUCKGO),
            ("yandex.ru", YANDEX),
            ("www.yandex.com.tr", YANDEX),
            ("search.brave.com", BRAVE),
            ("www.ecosia.org", ECOSIA),
            ("pixabay.com", PIXABAY),
            ("www.youtube.com", YOUTUBE_STRICT),
        ] {
            assert_eq!(safe_search(host, YoutubeRestriction::Strict), Some(safe), "{host}");
        }
        assert_eq!(safe_search("www.youtube.com", YoutubeRestriction::Moderate), Some(YOUTUBE_MODERATE));
        for host in ["mail.google.com", "google.com.evil.example", "www.google.evil", "notgoogle.com", GOOGLE, BING, YANDEX, ""] {
            assert_eq!(safe_search(host, YoutubeRestriction::Strict), None, "{host}");
        }
        assert_eq!(youtube_restricted("m.youtube.com", YoutubeRestriction::Strict), Some(YOUTUBE_STRICT));
        assert_eq!(youtube_restricted("www.google.com", YoutubeRestriction::Strict), None);
    }
}
