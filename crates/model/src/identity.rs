//! Who a session belongs to. Source: features.md 1.3.7 (ID-01..04); directory sign-on fills the same nouns later.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    pub id: Arc<str>,
    pub name: Arc<str>,
    pub email: Arc<str>,
}

/// The one form of an address whose spellings a mailbox shares (ID-05): lower case, and before the last `@` without dots and
/// without what follows a plus.
pub fn mailbox(email: &str) -> String {
    let email = email.to_ascii_lowercase();
    let Some((local, domain)) = email.rsplit_once('@') else { return email };
    let local = local.split_once('+').map_or(local, |(before, _)| before).replace('.', "");
    format!("{local}@{domain}")
}

/// A user as the policy sees it. `how` names the proof: `token`, `basic`, `certificate`, `location`, `doh`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub email: Arc<str>,
    /// The address as all its spellings share it, from [`mailbox`].
    pub mailbox: Arc<str>,
    pub name: Arc<str>,
    pub id: Arc<str>,
    pub groups: Vec<Group>,
    pub device_id: Arc<str>,
    pub device_name: Arc<str>,
    pub how: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::mailbox;

    #[test]
    fn id_05_every_spelling_of_a_mailbox_is_one() {
        for spelling in ["annlee@example.com", "Ann.Lee@Example.com", "ann.lee+news@example.com", "a.n.n.lee+a+b@example.com"] {
            assert_eq!(mailbox(spelling), "annlee@example.com", "{spelling}");
        }
        assert_eq!(mailbox("ann@mail.example.com"), "ann@mail.example.com");
        assert_eq!(mailbox("No.Address"), "no.address");
    }
}
