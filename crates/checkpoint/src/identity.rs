//! Who a client is: locations by source network or DoH token, users by token (alone or inside Basic credentials), password or
//! certificate. Users and groups come from the policy documents; a directory that fills the same table (OIDC, LDAP) can take
//! their place (ID-06): it makes a `Directory`, and nothing else asks where a user came from.
//!
//! A token is `skt_`, 40 letters or digits, and 8 hexadecimal digits of checksum, so that a leak scanner can recognise one
//! and tell a typing error from a stranger's without asking anybody (DL-02). Documents hold only its SHA-256.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Group, Identity, Session, Text, Timestamp, Transport};
use policy::document::{Document, Ecs, Endpoint, Endpoints};
use sha2::{Digest, Sha256};

use crate::FailureMode;

/// What every token begins with.
pub const TOKEN_PREFIX: &str = "skt_";
/// Letters and digits of a token: 40 of 62 kinds are 238 bits.
pub const TOKEN_SECRET_CHARS: usize = 40;
const TOKEN_CHECK_CHARS: usize = 8;

/// What a client shows.
pub enum Credential<'a> {
    /// A token of ours, from wherever it was carried.
    Token(&'a str),
    /// Proxy or HTTP Basic: a token as the password or as the user, or a user's e-mail and password.
    Basic { user: &'a str, password: &'a str },
    /// SHA-256 of a client certificate that the listener has verified, hexadecimal.
    Certificate { fingerprint: &'a str },
    /// The token in a DoH path or a DoT name: a location's, or a user's (ON-03).
    DohToken(&'a str),
    /// Only where it comes from.
    Network(IpAddr),
}

/// Why a credential proves nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    Unknown,
    /// The token's time is over (ON-03).
    Expired,
}

impl Unproved {
    /// As the record says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Unproved::Unknown => "credentials",
            Unproved::Expired => "token_expired",
        }
    }
}

/// What a password is compared with, and whom that proves.
pub(crate) struct PasswordQuestion {
    pub(crate) hash: Arc<str>,
    proves: Option<Arc<Identity>>,
}

impl PasswordQuestion {
    pub(crate) fn answer(self, is_right: bool) -> Result<Arc<Identity>, Unproved> {
        self.proves.filter(|_| is_right).ok_or(Unproved::Unknown)
    }
}

/// A user's token.
struct Secret {
    identity: Arc<Identity>,
    ends: Option<Timestamp>,
}

/// The place that a client belongs to (ON-01).
#[derive(Clone, Debug)]
pub struct Location {
    pub name: Text,
    /// What happens to names that could not be examined or resolved.
    pub fails: FailureMode,
    pub identity: Option<Arc<Identity>>,
    /// Ceiling on answers' time to live, seconds (AC-06).
    pub max_ttl: Option<u32>,
    /// The subnet that upstream resolvers are told (RFC 7871).
    pub ecs: Ecs,
    endpoints: Arc<Endpoints>,
}

impl Location {
    /// Whether it matters here which way a client comes.
    pub fn has_endpoints(&self) -> bool {
        !self.endpoints.is_empty()
    }

    /// Why a client that comes this way is refused here, as the record says it (ON-01, ON-05).
    pub fn refusal(&self, transport: Transport, client: IpAddr, has_token: bool) -> Option<&'static str> {
        if self.endpoints.is_empty() {
            return None;
        }
        self.endpoints.get(&Endpoint::of(transport, client)?)?.refusal(client, has_token)
    }
}

/// Users and locations, compiled for look-up.
#[derive(Default)]
pub struct Directory {
    /// By hexadecimal SHA-256 of the token.
    by_secret: HashMap<String, Secret>,
    by_certificate: HashMap<String, Arc<Identity>>,
    by_doh_token: HashMap<String, Location>,
    by_email: HashMap<String, Arc<Identity>>,
    /// By e-mail: the hash of the password, and who has proved it.
    by_password: HashMap<String, (Arc<str>, Arc<Identity>)>,
    /// Longest prefix first.
    by_network: Vec<(IpNet, Location)>,
}

/// A token's text, or none where its form or checksum is wrong: then no table needs to be asked.
pub fn checked_token(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(TOKEN_PREFIX)?;
    let (secret, check) = rest.split_at_checked(TOKEN_SECRET_CHARS)?;
    let is_plain = secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_plain && check.len() == TOKEN_CHECK_CHARS && token_check(secret) == check).then_some(text)
}

/// A token made of this secret, which the caller has drawn at random.
pub fn token_of(secret: &str) -> String {
    format!("{TOKEN_PREFIX}{secret}{}", token_check(secret))
}

/// What a document holds in a token's place.
pub fn secret_digest(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn token_check(secret: &str) -> String {
    let mut text = hex(&Sha256::digest(format!("{TOKEN_PREFIX}{secret}").as_bytes()));
    text.truncate(TOKEN_CHECK_CHARS);
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn identity_of(user: &policy::document::User, groups: &[policy::document::Group]) -> Identity {
    let group = |name: &String| match groups.iter().find(|group| group.name == *name) {
        Some(group) => {
            Group { id: Arc::from(group.id.as_str()), name: Arc::from(name.as_str()), email: Arc::from(group.email.as_str()) }
        }
        None => Group { name: Arc::from(name.as_str()), ..Group::default() },
    };
    Identity {
        email: Arc::from(user.email.as_str()),
        mailbox: Arc::from(model::identity::mailbox(&user.email)),
        name: Arc::from(user.name.as_str()),
        id: Arc::from(user.id.as_str()),
        groups: user.groups.iter().map(group).collect(),
        device_id: Arc::from(user.device_id.as_str()),
        device_name: Arc::from(user.device_name.as_str()),
        how: Arc::from(""),
    }
}

impl Directory {
    /// Users and locations of a policy document.
    pub fn from_document(document: &Document) -> Directory {
        let mut directory = Directory::default();
        let mut by_email = HashMap::new();
        for user in &document.users {
            let identity = Arc::new(identity_of(user, &document.groups));
            let with = |how: &str| Arc::new(Identity { how: Arc::from(how), ..Identity::clone(&identity) });
            for token in &user.tokens {
                let secret = Secret { identity: with("token"), ends: token.ends() };
                directory.by_secret.insert(token.sha256.to_ascii_lowercase(), secret);
            }
            if let Some(hash) = &user.password {
                directory.by_password.insert(user.email.clone(), (Arc::from(hash.as_str()), with("password")));
            }
            for fingerprint in &user.certificates {
                directory.by_certificate.insert(fingerprint.to_ascii_lowercase(), with("certificate"));
            }
            by_email.insert(user.email.clone(), identity);
        }
        for location in &document.locations {
            directory.add_location(location, &by_email);
        }
        directory.by_email = by_email;
        directory.by_network.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        directory
    }

    fn add_location(&mut self, written: &policy::document::Location, by_email: &HashMap<String, Arc<Identity>>) {
        let identity = written.user.as_ref().and_then(|email| by_email.get(email));
        let endpoints = Arc::new(written.endpoints.clone());
        let place = |how: &str| Location {
            name: Text::from(written.name.as_str()),
            fails: match written.fail {
                policy::document::Fail::Open => FailureMode::Open,
                policy::document::Fail::Closed => FailureMode::Closed,
            },
            identity: identity.map(|identity| Arc::new(Identity { how: Arc::from(how), ..Identity::clone(identity) })),
            max_ttl: written.max_ttl,
            ecs: written.ecs,
            endpoints: endpoints.clone(),
        };
        if let Some(token) = &written.doh_token {
            self.by_doh_token.insert(token.clone(), place("doh"));
        }
        self.by_network.extend(written.networks.iter().map(|network| (*network, place("location"))));
    }

    /// The user whom this credential proves. Secrets are compared by digest, so that the time taken tells nothing of them.
    pub fn identify(&self, credential: &Credential<'_>, now: Timestamp) -> Result<Arc<Identity>, Unproved> {
        let known = |identity: Option<Arc<Identity>>| identity.ok_or(Unproved::Unknown);
        match credential {
            Credential::Token(text) => self.by_token(text, now),
            Credential::Basic { user, password } => match self.by_token(password, now) {
                Err(Unproved::Unknown) => self.by_token(user, now),
                proved => proved,
            },
            Credential::Certificate { fingerprint } => known(self.by_certificate.get(&fingerprint.to_ascii_lowercase()).cloned()),
            Credential::DohToken(token) => match self.by_doh_token.get(*token) {
                Some(location) => known(location.identity.clone()),
                None => self.by_token(token, now),
            },
            Credential::Network(client) => known(self.locate(*client, None).and_then(|location| location.identity)),
        }
    }

    fn by_token(&self, text: &str, now: Timestamp) -> Result<Arc<Identity>, Unproved> {
        let token = checked_token(text).ok_or(Unproved::Unknown)?;
        let secret = self.by_secret.get(&secret_digest(token)).ok_or(Unproved::Unknown)?;
        match secret.ends.is_some_and(|ends| ends <= now) {
            true => Err(Unproved::Expired),
            false => Ok(secret.identity.clone()),
        }
    }

    /// The hash that proves a user by password. A name without one is compared with another user's hash, in vain: the time
    /// that a refusal takes would else tell who has an account here. None where nobody has a password.
    pub(crate) fn password_question(&self, user: &str) -> Option<PasswordQuestion> {
        let own = self.by_password.get(user);
        let (hash, _) = own.or_else(|| self.by_password.values().next())?;
        Some(PasswordQuestion { hash: hash.clone(), proves: own.map(|(_, identity)| identity.clone()) })
    }

    pub(crate) fn user(&self, email: &str) -> Option<Arc<Identity>> {
        self.by_email.get(email).cloned()
    }

    /// The location of a client. A token that no location has is not forgiven by the client's network.
    pub fn locate(&self, client: IpAddr, doh_token: Option<&str>) -> Option<Location> {
        match doh_token {
            Some(token) => self.by_doh_token.get(token).cloned(),
            None => {
                let client = client.to_canonical();
                self.by_network.iter().find(|(network, _)| network.contains(&client)).map(|(_, location)| location.clone())
            }
        }
    }
}

/// The location that a network has in one directory, by its place in it; none where a client is in no location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whereabouts(Option<usize>);

impl Directory {
    pub(crate) fn whereabouts(&self, client: IpAddr) -> Whereabouts {
        Whereabouts(self.by_network.iter().position(|(network, _)| network.contains(&client)))
    }

    /// Whether a session is one of this location: by its name and, where it has a user, by that very user.
    pub(crate) fn is_at(&self, whereabouts: Whereabouts, session: &Session) -> bool {
        let location = whereabouts.0.and_then(|place| self.by_network.get(place)).map(|(_, location)| location);
        let name = location.map(|location| location.name.as_str()).unwrap_or_default();
        let is_same_user = match (location.and_then(|location| location.identity.as_ref()), &session.identity) {
            (Some(located), Some(identity)) => Arc::ptr_eq(located, identity),
            (None, None) => true,
            _ => false,
        };
        session.location == name && is_same_user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_a_wrong_letter_is_refused_before_any_look_up() {
        let token = token_of(&"a".repeat(TOKEN_SECRET_CHARS));
        assert_eq!(checked_token(&token), Some(token.as_str()));
        for wrong in [token.replacen('a', "b", 1), token[1..].to_string(), format!("{token}0"), String::new(), "skt_é".into()] {
            assert_eq!(checked_token(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_without_a_password_costs_a_refusal_as_much_as_one_with() {
        let user = |email: &str, password: Option<&str>| policy::document::User {
            email: email.into(),
            password: password.map(str::to_owned),
            ..Default::default()
        };
        let of = |users| Directory::from_document(&Document { users, ..Document::default() });
        let directory = of(vec![user("ann@example.com", Some("$argon2id$ann")), user("bob@example.com", None)]);
        let ann = directory.password_question("ann@example.com").map(|asked| (asked.hash.clone(), asked.answer(true).is_ok()));
        assert_eq!(ann, Some((Arc::from("$argon2id$ann"), true)));
        for name in ["bob@example.com", "stranger@example.com"] {
            let asked = directory.password_question(name).map(|asked| (asked.hash.clone(), asked.answer(true)));
            assert_eq!(asked, Some((Arc::from("$argon2id$ann"), Err(Unproved::Unknown))), "{name}: even if it were right");
        }
        assert!(of(vec![user("bob@example.com", None)]).password_question("bob@example.com").is_none());
    }

    #[test]
    fn on_03_a_token_ends_at_its_moment() {
        let token = token_of(&"t".repeat(TOKEN_SECRET_CHARS));
        let held = policy::document::Token {
            sha256: secret_digest(&token),
            expires: Some("1970-01-01T00:00:10Z".into()),
            ..Default::default()
        };
        let user = policy::document::User { email: "ann@example.com".into(), tokens: vec![held], ..Default::default() };
        let directory = Directory::from_document(&Document { users: vec![user], ..Document::default() });
        let at = |seconds| directory.identify(&Credential::Token(&token), Timestamp::from_seconds(seconds)).err();
        assert_eq!((at(9), at(10)), (None, Some(Unproved::Expired)));
    }
}
