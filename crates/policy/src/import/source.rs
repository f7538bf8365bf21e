//! Reads what the hosted Gateway exports: the API's answers for rules and lists, a Terraform state file (both generations of
//! the provider), or `terraform show -json`. Only the shape is read here; meaning is given next door.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Error;

/// Modules of a Terraform plan within each other; a state nests a handful.
const MODULES_DEPTH_MAX: usize = 64;

const RULE_TYPES: &[&str] = &["cloudflare_zero_trust_gateway_policy", "cloudflare_teams_rule"];
const LIST_TYPES: &[&str] = &["cloudflare_zero_trust_list", "cloudflare_teams_list"];

/// A rule as the API names its parts (GW-001 to GW-009). What is absent and what is null are the same.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct SourceRule {
    pub id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub action: Option<String>,
    pub filters: Option<Vec<String>>,
    pub traffic: Option<String>,
    pub identity: Option<String>,
    pub device_posture: Option<String>,
    pub precedence: Option<i64>,
    pub enabled: Option<bool>,
    pub deleted_at: Option<String>,
    #[serde(default)]
    pub schedule: Value,
    #[serde(default)]
    pub expiration: Value,
    #[serde(default)]
    pub rule_settings: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct SourceList {
    pub id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub items: Option<Vec<Value>>,
    #[serde(default)]
    pub items_with_description: Option<Vec<Value>>,
}

#[derive(Debug, Default)]
pub(super) struct Source {
    pub rules: Vec<SourceRule>,
    pub lists: Vec<SourceList>,
}

/// The object in a value; the older provider wraps each in an array of one.
pub(super) fn object(value: &Value) -> Option<&Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object),
        Value::Array(blocks) => blocks.first().and_then(Value::as_object),
        _ => None,
    }
}

impl Source {
    pub(super) fn read(text: &str) -> Result<Source, Error> {
        let value: Value = serde_json::from_str(text)?;
        let mut source = Source::default();
        if let Some(resources) = value.get("resources").and_then(Value::as_array) {
            source.state(resources)?;
        } else if let Some(module) = value.pointer("/values/root_module") {
            source.module(module, 0)?;
        } else {
            let things = value.get("result").unwrap_or(&value);
            let things = things.as_array().map_or(std::slice::from_ref(things), Vec::as_slice);
            things.iter().try_for_each(|thing| source.thing(thing))?;
        }
        match source.rules.is_empty() && source.lists.is_empty() {
            true => Err(Error::NotAnExport("expected the API's answer or a Terraform state")),
            false => Ok(source),
        }
    }

    /// A rule has an action and a list has a type.
    fn thing(&mut self, thing: &Value) -> Result<(), Error> {
        if thing.get("action").is_some() {
            self.rules.push(SourceRule::deserialize(thing)?);
        } else if thing.get("type").is_some() && thing.get("name").is_some() {
            self.lists.push(SourceList::deserialize(thing)?);
        }
        Ok(())
    }

    fn state(&mut self, resources: &[Value]) -> Result<(), Error> {
        for resource in resources {
            let instances = resource.get("instances").and_then(Value::as_array);
            for attributes in instances.into_iter().flatten().filter_map(|instance| instance.get("attributes")) {
                self.resource(resource, attributes)?;
            }
        }
        Ok(())
    }

    fn module(&mut self, module: &Value, depth: usize) -> Result<(), Error> {
        if depth > MODULES_DEPTH_MAX {
            return Err(Error::NotAnExport("its modules are nested too deeply"));
        }
        let parts = |name| module.get(name).and_then(Value::as_array).into_iter().flatten();
        for resource in parts("resources") {
            if let Some(values) = resource.get("values") {
                self.resource(resource, values)?;
            }
        }
        parts("child_modules").try_for_each(|child| self.module(child, depth + 1))
    }

    fn resource(&mut self, resource: &Value, values: &Value) -> Result<(), Error> {
        let ty = resource.get("type").and_then(Value::as_str).unwrap_or_default();
        if RULE_TYPES.contains(&ty) {
            self.rules.push(SourceRule::deserialize(values)?);
        } else if LIST_TYPES.contains(&ty) {
            self.lists.push(SourceList::deserialize(values)?);
        }
        Ok(())
    }
}
