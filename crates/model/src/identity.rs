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

/// A user as the policy sees it. `how` names the proof: `token`, `basic`, `certificate`, `location`, `doh`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub email: Arc<str>,
    pub name: Arc<str>,
    pub id: Arc<str>,
    pub groups: Vec<Group>,
    pub device_id: Arc<str>,
    pub device_name: Arc<str>,
    pub how: Arc<str>,
}
