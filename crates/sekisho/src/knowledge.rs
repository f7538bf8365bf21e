//! What the program knows of names, addresses and files: the catalogue that ships, the operator's lists and the feeds that
//! were added by command. A list that cannot be read fails the whole load, so that the earlier knowledge stays in place and
//! the log says why. Nothing is fetched here.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use intel::list::{Format, LIMITS};
use intel::{Catalogue, CategoryKind, Geography, NamedList, Snapshot};
use serde::{Deserialize, Serialize};

use crate::feeds;
use crate::operations::now;

/// The largest list file. Five million names of thirty bytes stay below it.
pub const LIST_BYTES_MAX: u64 = 256 << 20;

/// One list, `[[knowledge.lists]]` in the configuration. The file is read at the start and at every reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSpec {
    pub name: String,
    pub path: PathBuf,
    /// `hosts`, `adblock`, `plain`, `rpz`, or `auto`.
    #[serde(default = "auto")]
    pub format: String,
    /// Name or number of the category that its entries are put in, such as `Malware` or `66`.
    pub category: String,
    /// Number under which `dns.indicator_feed` shows it.
    #[serde(default)]
    pub feed_id: Option<i64>,
}

fn auto() -> String {
    "auto".to_owned()
}

/// Everything that knowledge is made of, as configured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnowledgeSpec {
    pub lists: Vec<ListSpec>,
    /// A MaxMind-format file of countries; none leaves countries and continents unknown.
    pub geography: Option<PathBuf>,
    /// A MaxMind-format file of autonomous systems; none leaves `net.src.asn` unknown.
    pub autonomous_systems: Option<PathBuf>,
    /// Leaves fetching of feeds to the command `sekisho feeds update`.
    pub feeds_by_command_only: bool,
    /// Names of the organisation and of brands whose imitations are looked for.
    pub brands: Vec<String>,
}

/// Reads every list, those of the data folder's feeds too, and compiles the snapshot.
pub fn load(spec: &KnowledgeSpec, data: &Path) -> Result<Snapshot> {
    let mut builder = Snapshot::builder();
    builder.catalogue(Catalogue::embedded()?);
    builder.pinned(intel::pinned::embedded()?);
    for brand in &spec.brands {
        builder.add_brand(brand);
    }
    let mut geography = Geography::default();
    if let Some(path) = &spec.geography {
        let opened = read_bounded(path).and_then(|file| Ok(Geography::open(file)?));
        geography = opened.with_context(|| format!("geography file {}", path.display()))?;
    }
    if let Some(path) = &spec.autonomous_systems {
        let opened = read_bounded(path).and_then(|file| Ok(geography.with_systems(file)?));
        geography = opened.with_context(|| format!("file of autonomous systems {}", path.display()))?;
    }
    builder.geography(geography);
    let feeds = feeds::usable(data, now())?;
    for list in spec.lists.iter().chain(&feeds) {
        let parts = read_list(list).with_context(|| format!("list `{}`", list.name))?;
        for part in parts {
            builder.add_list(part);
        }
    }
    Ok(builder.build())
}

fn read_list(list: &ListSpec) -> Result<Vec<NamedList>> {
    let category = category(&list.category)?;
    let text = read_bounded(&list.path)?;
    let parsed = intel::list::parse(format(&list.format)?, &text, LIMITS);
    if parsed.skipped_count > 0 {
        tracing::warn!(list = list.name, skipped = parsed.skipped_count, "lines of a list were not understood");
    }
    for (line, reason) in &parsed.skipped {
        tracing::info!(list = list.name, line, %reason, "a line of a list was not followed");
    }
    Ok(NamedList::from_parsed(&list.name, list.feed_id, Some(category), parsed))
}

/// A whole file, refused where it is larger than a list may be.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = Vec::new();
    file.take(LIST_BYTES_MAX + 1).read_to_end(&mut text)?;
    anyhow::ensure!(text.len() as u64 <= LIST_BYTES_MAX, "{} is larger than {LIST_BYTES_MAX} bytes", path.display());
    Ok(text)
}

pub fn format(name: &str) -> Result<Format> {
    match name {
        "auto" => Ok(Format::Auto),
        "hosts" => Ok(Format::Hosts),
        "adblock" => Ok(Format::Adblock),
        "plain" => Ok(Format::Plain),
        "rpz" => Ok(Format::Rpz),
        _ => Err(anyhow!("format `{name}` is none of auto, hosts, adblock, plain, rpz")),
    }
}

pub fn category(name: &str) -> Result<CategoryKind> {
    if let Ok(id) = name.parse::<i64>() {
        return Ok(CategoryKind::of(id));
    }
    let found = intel::category_named(name);
    Ok(found.with_context(|| format!("there is no category `{name}`"))?.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(folder: &Path, text: &str, category: &str) -> Result<ListSpec> {
        let path = folder.join("list.txt");
        std::fs::write(&path, text)?;
        Ok(ListSpec { name: "test".into(), path, format: auto(), category: category.into(), feed_id: Some(7) })
    }

    fn of(list: ListSpec) -> KnowledgeSpec {
        KnowledgeSpec { lists: vec![list], ..KnowledgeSpec::default() }
    }

    #[test]
    fn a_hosts_file_becomes_a_security_category() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let snapshot = load(&of(list(folder.path(), "0.0.0.0 bad.example\n", "Malware")?), folder.path())?;
        let known = snapshot.name("bad.example");
        assert_eq!((known.security.as_ref(), known.feeds.as_ref()), ([117].as_slice(), [7].as_slice()));
        assert!(snapshot.name("good.example").is_empty());
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_list() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut missing = list(folder.path(), "", "Malware")?;
        missing.path = folder.path().join("absent");
        let error = load(&of(missing), folder.path()).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains("list `test`"), "{error}");
        assert!(load(&of(list(folder.path(), "", "No such category")?), folder.path()).is_err());
        Ok(())
    }
}
