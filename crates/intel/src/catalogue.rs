//! Applications: which hosts belong to which product. A host is an application's *own*, or one that it only needs
//! (*support*: a shared login, a content network). Allowing an application covers both; blocking it covers only its own
//! hosts, so that blocking one product does not break its neighbours (ON-09).

use std::sync::Arc;

use serde::Deserialize;

use crate::Error;

/// Compiled by the project, and taken from a published collection. Each file states its source; a later one may add hosts
/// to the applications of an earlier one.
const EMBEDDED: [&str; 2] = [include_str!("../data/applications.toml"), include_str!("../data/applications-v2fly.toml")];

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
    types: Vec<TypeSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueSpec {
    #[expect(dead_code, reason = "stated for people; the parser only demands that it is there")]
    source: String,
    #[serde(default, rename = "type")]
    types: Vec<TypeSpec>,
    #[serde(rename = "application")]
    applications: Vec<ApplicationSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeSpec {
    id: i64,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplicationSpec {
    id: i64,
    /// Left out where hosts are added to the application of that number.
    #[serde(default)]
    name: Option<String>,
    #[serde(default, rename = "type")]
    type_id: Option<i64>,
    hosts: Vec<String>,
    #[serde(default)]
    support: Vec<String>,
}

impl Catalogue {
    /// The catalogue that ships.
    pub fn embedded() -> Result<Catalogue, Error> {
        let mut catalogue = Catalogue::default();
        for text in EMBEDDED {
            catalogue.extend(text)?;
        }
        Ok(catalogue)
    }

    /// Reads a catalogue of the same form as the one that ships.
    pub fn parse(text: &str) -> Result<Catalogue, Error> {
        let mut catalogue = Catalogue::default();
        catalogue.extend(text)?;
        Ok(catalogue)
    }

    /// Adds the applications of another file, and the hosts that it has for those that are known.
    pub fn extend(&mut self, text: &str) -> Result<(), Error> {
        let spec: CatalogueSpec = toml::from_str(text).map_err(Error::Catalogue)?;
        self.types.extend(spec.types);
        for entry in spec.applications {
            self.add(entry)?;
        }
        Ok(())
    }

    fn add(&mut self, entry: ApplicationSpec) -> Result<(), Error> {
        let known = self.applications.iter_mut().find(|application| application.id == entry.id);
        let name = entry.name.clone().or_else(|| known.as_ref().map(|known| known.name.to_string()));
        let refuse = |problem| Error::Application { application: name.clone().unwrap_or_else(|| entry.id.to_string()), problem };
        if entry.hosts.is_empty() {
            return Err(refuse("it has no hosts of its own"));
        }
        if !entry.hosts.iter().chain(&entry.support).all(|host| crate::list::is_name(host)) {
            return Err(refuse("a host is not a name in canonical form"));
        }
        let hosts = entry.hosts.iter().map(|host| Arc::from(host.as_str()));
        let support_hosts = entry.support.iter().map(|host| Arc::from(host.as_str()));
        match (known, &entry.name, entry.type_id) {
            (Some(_), Some(_), _) => Err(refuse("its number is taken")),
            (Some(known), None, None) => {
                let known = Arc::make_mut(known);
                known.hosts.extend(hosts);
                known.support_hosts.extend(support_hosts);
                Ok(())
            }
            (None, Some(name), Some(type_id)) => {
                let ty = self.types.iter().find(|ty| ty.id == type_id).ok_or_else(|| refuse("its type is not declared"))?;
                self.applications.push(Arc::new(Application {
                    id: entry.id,
                    name: name.as_str().into(),
                    type_id: ty.id,
                    type_name: ty.name.as_str().into(),
                    status: "unreviewed".into(),
                    hosts: hosts.collect(),
                    support_hosts: support_hosts.collect(),
                }));
                Ok(())
            }
            _ => Err(refuse("it needs a name and a type, or neither where its number is known")),
        }
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
