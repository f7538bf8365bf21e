//! Applications: which hosts belong to which product. A host is an application's *own*, or one that it only needs
//! (*support*: a shared login, a content network). Allowing an application covers both; blocking it covers only its own
//! hosts, so that blocking one product does not break its neighbours (ON-09).

use std::sync::Arc;

use serde::Deserialize;

use crate::Error;

/// Compiled by the project; the source is stated in the file.
const EMBEDDED: &str = include_str!("../data/applications.toml");

/// How a host belongs to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Relation {
    Own,
    Support,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    pub id: i64,
    pub name: Arc<str>,
    pub type_id: i64,
    pub type_name: Arc<str>,
    /// The operator's opinion: `unreviewed` until it is given another.
    pub status: Arc<str>,
    pub hosts: Vec<Arc<str>>,
    pub support_hosts: Vec<Arc<str>>,
}

/// An application that a host belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationMatch {
    pub application: Arc<Application>,
    pub relation: Relation,
}

/// All applications, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    pub applications: Vec<Arc<Application>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueSpec {
    #[expect(dead_code, reason = "stated for people; the parser only demands that it is there")]
    source: String,
    #[serde(rename = "type")]
    types: Vec<TypeSpec>,
    #[serde(rename = "application")]
    applications: Vec<ApplicationSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeSpec {
    id: i64,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplicationSpec {
    id: i64,
    name: String,
    #[serde(rename = "type")]
    type_id: i64,
    hosts: Vec<String>,
    #[serde(default)]
    support: Vec<String>,
}

impl Catalogue {
    /// The catalogue that ships.
    pub fn embedded() -> Result<Catalogue, Error> {
        Catalogue::parse(EMBEDDED)
    }

    /// Reads a catalogue of the same form as the one that ships.
    pub fn parse(text: &str) -> Result<Catalogue, Error> {
        let spec: CatalogueSpec = toml::from_str(text).map_err(Error::Catalogue)?;
        let mut applications: Vec<Arc<Application>> = Vec::with_capacity(spec.applications.len());
        for entry in spec.applications {
            let refuse = |problem| Error::Application { application: entry.name.clone(), problem };
            let ty = spec.types.iter().find(|ty| ty.id == entry.type_id).ok_or_else(|| refuse("its type is not declared"))?;
            if applications.iter().any(|other| other.id == entry.id) {
                return Err(refuse("its number is taken"));
            }
            if entry.hosts.is_empty() {
                return Err(refuse("it has no hosts of its own"));
            }
            if !entry.hosts.iter().chain(&entry.support).all(|host| crate::list::is_name(host)) {
                return Err(refuse("a host is not a name in canonical form"));
            }
            applications.push(Arc::new(Application {
                id: entry.id,
                name: entry.name.as_str().into(),
                type_id: ty.id,
                type_name: ty.name.as_str().into(),
                status: "unreviewed".into(),
                hosts: entry.hosts.iter().map(|host| host.as_str().into()).collect(),
                support_hosts: entry.support.iter().map(|host| host.as_str().into()).collect(),
            }));
        }
        Ok(Catalogue { applications })
    }

    /// Gives an application the operator's status (`approved`, `unapproved`, `in_review`); false where it is unknown.
    pub fn set_status(&mut self, id: i64, status: &str) -> bool {
        match self.applications.iter_mut().find(|application| application.id == id) {
            Some(application) => {
                Arc::make_mut(application).status = status.into();
                true
            }
            None => false,
        }
    }

    /// An application by its name, whatever the case.
    pub fn named(&self, name: &str) -> Option<&Application> {
        self.applications.iter().find(|application| application.name.eq_ignore_ascii_case(name)).map(Arc::as_ref)
    }
}
