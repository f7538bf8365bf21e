//! A policy as people write it: TOML documents of rules, lists, users, groups and locations. Names follow the Gateway API
//! (features.md 1.1). Reading checks the shape only; what the parts mean is checked when a policy is compiled.

mod endpoint;
mod token;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use model::verdict::UntrustedCertificate;
use model::{Action, Gate};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::list::Kind;

pub use endpoint::{Endpoint, EndpointSettings, Endpoints};
pub use token::Token;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    #[serde(rename = "list", skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<List>,
    #[serde(rename = "user", skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    #[serde(rename = "group", skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    #[serde(rename = "location", skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<Location>,
}

/// What holds for the whole policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Zone of schedules that name none, `Asia/Tokyo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Reason told to the person where a rule gives none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_reason: Option<String>,
    /// Takes the spellings of one mailbox for the same user where a rule names `identity.email` (ID-05).
    #[serde(skip_serializing_if = "is_no")]
    pub extended_email_matching: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Stands in the record; the name where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub gate: Gate,
    pub action: Action,
    /// The expression; empty is true, as in the two below, and all three must hold (GW-004).
    #[serde(default, alias = "traffic", skip_serializing_if = "String::is_empty")]
    pub when: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device_posture: String,
    /// Lower is read earlier. Rules without one come after all that have one, in the order of the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precedence: Option<i64>,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// RFC 3339 with offset; the rule is inert from that moment on (GW-008).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(default, skip_serializing_if = "RuleSettings::is_default")]
    pub settings: RuleSettings,
    /// The file it was read from, for messages.
    #[serde(skip)]
    pub file: Option<String>,
}

/// Hours of the week, `08:00-12:00,13:00-17:00`; a day that is left out is off (GW-007).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mon: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sat: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sun: Option<String>,
}

/// Settings of one rule; each is valid for some actions only (GW-020 to GW-037).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleSettings {
    /// Answer a blocked name with the block page's address (GW-022).
    #[serde(skip_serializing_if = "is_no")]
    pub block_page: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_reason: Option<String>,
    /// Where a redirect leads; with `block`, shown in place of the block page (GW-024, GW-025).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_host: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub override_ips: Vec<IpAddr>,
    /// `192.0.2.1:53`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add_headers: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delete_headers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untrusted_cert: Option<UntrustedCertificate>,
    /// Match the categories of the answer's addresses too (GW-033).
    #[serde(skip_serializing_if = "is_no")]
    pub ip_categories: bool,
    /// Match the indicator feeds of the answer's addresses too (GW-033).
    #[serde(skip_serializing_if = "is_no")]
    pub ip_indicator_feeds: bool,
    /// Leave the categories of names that the queried one leads to out (GW-034).
    #[serde(skip_serializing_if = "is_no")]
    pub ignore_cname_category_matches: bool,
    /// Accept answers whose signatures do not verify (GW-032).
    #[serde(skip_serializing_if = "is_no")]
    #[serde(alias = "insecure_disable_dnssec_validation")]
    pub danger_skip_dnssec: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    pub target_uri: String,
    /// Tell the target of the event, as a token that only this installation opens (GW-156).
    #[serde(skip_serializing_if = "is_no")]
    pub include_context: bool,
    /// Tell the target user, URL, addresses and rule in readable parameters (GW-152).
    #[serde(skip_serializing_if = "is_no")]
    pub danger_plain_context: bool,
    #[serde(skip_serializing_if = "is_no")]
    pub preserve_path_and_query: bool,
}

/// A named list. Its contents stand here, or come from `source`, which is read and compiled outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub kind: Kind,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<String>,
    /// An absolute path of a file with one entry a line, or `feed:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(skip)]
    pub file: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    pub email: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Names of groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
    /// Argon2id hash of the proxy password in PHC form, from `sekisho password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// SHA-256 of each client certificate, hexadecimal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_name: String,
    #[serde(skip)]
    pub file: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub email: String,
    #[serde(skip)]
    pub file: Option<String>,
}

/// A place that clients come from, known by network or by the token in its DNS-over-HTTPS path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Location {
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doh_token: Option<String>,
    /// What happens when Sekisho itself cannot decide: `open` lets pass, `closed` refuses.
    pub fail: Fail,
    /// Ceiling on the time to live of answers given here, seconds (AC-06).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<u32>,
    /// Which subnet of its clients upstream resolvers are told, so that they give near addresses (RFC 7871, ON-01).
    #[serde(skip_serializing_if = "Ecs::is_off")]
    pub ecs: Ecs,
    /// E-mail of the user whom a client of this location is taken for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What holds for single ways in; one that is not named is open to everybody (ON-01, ON-05).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: Endpoints,
    #[serde(skip)]
    pub file: Option<String>,
}

/// The client subnet option towards upstream resolvers (RFC 7871): `off`, `client`, or a subnet that stands for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Ecs {
    #[default]
    Off,
    /// The client's own, cut to 24 or 56 bits; nothing for an address that is not public.
    Client,
    /// This one in place of the client's, as where clients have private addresses behind one public one.
    Fixed(IpNet),
}

impl Ecs {
    fn is_off(&self) -> bool {
        *self == Ecs::Off
    }
}

impl TryFrom<String> for Ecs {
    type Error = String;

    fn try_from(text: String) -> Result<Ecs, String> {
        match text.as_str() {
            "off" => Ok(Ecs::Off),
            "client" => Ok(Ecs::Client),
            subnet => match subnet.parse::<IpNet>() {
                Ok(subnet) => Ok(Ecs::Fixed(subnet.trunc())),
                Err(_) => Err(format!("ecs is \"off\", \"client\" or a subnet such as \"203.0.113.0/24\", not \"{subnet}\"")),
            },
        }
    }
}

impl From<Ecs> for String {
    fn from(ecs: Ecs) -> String {
        match ecs {
            Ecs::Off => "off".to_owned(),
            Ecs::Client => "client".to_owned(),
            Ecs::Fixed(subnet) => subnet.to_string(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    Open,
    #[default]
    Closed,
}

const fn yes() -> bool {
    true
}

const fn is_yes(value: &bool) -> bool {
    *value
}

const fn is_no(value: &bool) -> bool {
    !*value
}

impl RuleSettings {
    fn is_default(&self) -> bool {
        *self == RuleSettings::default()
    }
}

impl Rule {
    /// A rule with nothing but its name, gate and action.
    pub fn new(name: impl Into<String>, gate: Gate, action: Action) -> Rule {
        Rule {
            id: None,
            name: name.into(),
            description: String::new(),
            gate,
            action,
            when: String::new(),
            identity: String::new(),
            device_posture: String::new(),
            precedence: None,
            enabled: true,
            schedule: None,
            expires: None,
            settings: RuleSettings::default(),
            file: None,
        }
    }

    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.name)
    }
}

impl Document {
    pub fn from_toml(text: &str) -> Result<Document, Error> {
        Ok(toml::from_str(text)?)
    }

    pub fn to_toml(&self) -> Result<String, Error> {
        Ok(toml::to_string_pretty(self)?)
    }

    /// One document of many files, in the order of their names. Settings may stand in one of them only.
    pub fn merge(mut files: Vec<(String, Document)>) -> Result<Document, Error> {
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let mut whole = Document::default();
        let mut settings_file = None;
        for (file, mut document) in files {
            document.note_file(&file);
            if let Some(settings) = document.settings.take() {
                if let Some(first) = settings_file {
                    return Err(Error::SettingsTwice { first, second: file });
                }
                whole.settings = Some(settings);
                settings_file = Some(file);
            }
            whole.rules.append(&mut document.rules);
            whole.lists.append(&mut document.lists);
            whole.users.append(&mut document.users);
            whole.groups.append(&mut document.groups);
            whole.locations.append(&mut document.locations);
        }
        Ok(whole)
    }

    fn note_file(&mut self, file: &str) {
        let name = || Some(file.to_owned());
        self.rules.iter_mut().for_each(|rule| rule.file = name());
        self.lists.iter_mut().for_each(|list| list.file = name());
        self.users.iter_mut().for_each(|user| user.file = name());
        self.groups.iter_mut().for_each(|group| group.file = name());
        self.locations.iter_mut().for_each(|location| location.file = name());
    }
}
