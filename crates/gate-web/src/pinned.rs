//! Hosts of applications that accept only their own certificates: they cannot be inspected, only let through or refused
//! (TL-05, TL-11). The list is short on purpose; an operator adds to it with a `do not inspect` rule.
//!
//! Sources: Apple's "Use Apple products on enterprise networks" names the hosts at which interception fails; Microsoft's
//! documentation of Windows Update asks for no inspection; Signal and WhatsApp publish that their clients pin.

/// Domains; everything below them is meant too.
const PINNED: &[&str] = &[
    "push.apple.com",
    "itunes.apple.com",
    "apps.apple.com",
    "gs.apple.com",
    "gdmf.apple.com",
    "albert.apple.com",
    "identity.apple.com",
    "mesu.apple.com",
    "swscan.apple.com",
    "xp.apple.com",
    "update.microsoft.com",
    "windowsupdate.com",
    "delivery.mp.microsoft.com",
    "signal.org",
    "whatsapp.net",
];

/// Whether a host belongs to such an application.
pub(crate) fn is_pinned(host: &str) -> bool {
    PINNED.iter().any(|domain| model::name::is_within(host, domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_domain_and_what_is_below_it() {
        assert!(is_pinned("chat.signal.org") && is_pinned("signal.org"));
        assert!(!is_pinned("notsignal.org") && !is_pinned("signal.org.evil.example"));
    }
}
