//! The contents of policy lists that have a `source`: a file on this machine, or the kept copy of a feed. They are read when
//! the policy is compiled and at every reload. Nothing is fetched here: what comes from a URL is a feed, which keeps its last
//! good copy through every failure.
//!
//! A file has one entry a line; a line that begins with `#` is a comment, and what follows the first comma or blank is a
//! description (ON-07). Domains may also come as hosts, adblock or response policy zone lists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use intel::list::{Format, LIMITS};
use policy::document::{Document, List};
use policy::list::{Kind, Table};

use crate::{feeds, knowledge};

/// Lines of a source that are named as wrong.
const WRONG_LINES_MAX: usize = 20;
/// What a source begins with when it is a feed's copy.
const FEED_PREFIX: &str = "feed:";

/// Compiled contents by list name, and what was left out.
pub struct Contents {
    pub tables: BTreeMap<String, Arc<Table>>,
    pub warnings: Vec<String>,
}

/// Reads every source that the document's lists name.
pub fn read_sources(document: &Document, data: &Path) -> Result<Contents> {
    let mut contents = Contents { tables: BTreeMap::new(), warnings: Vec::new() };
    for list in document.lists.iter().filter(|list| list.enabled) {
        let Some(source) = &list.source else { continue };
        let read = read_source(list.kind, source, data).with_context(|| place(list))?;
        let (table, problems) = Table::build(list.kind, read.entries.iter().map(|(_, entry)| entry.as_str()));
        let told = if problems.is_empty() { Vec::new() } else { wrong_lines(list.kind, &read.entries) };
        let told = if told.is_empty() { problems.iter().map(ToString::to_string).collect() } else { told };
        contents.warnings.extend(read.skipped.into_iter().chain(told).map(|why| format!("{}: {source}: {why}", place(list))));
        contents.tables.insert(list.name.clone(), Arc::new(table));
    }
    Ok(contents)
}

fn place(list: &List) -> String {
    match &list.file {
        Some(file) => format!("{file}: list \"{}\"", list.name),
        None => format!("list \"{}\"", list.name),
    }
}

/// What a source holds.
struct Source {
    /// Entries with the lines that they stand in; 0 where a format has none.
    entries: Vec<(usize, String)>,
    /// Lines that were not followed, and why.
    skipped: Vec<String>,
}

fn read_source(kind: Kind, source: &str, data: &Path) -> Result<Source> {
    let text = knowledge::read_bounded(&path(source, data)?)?;
    if kind != Kind::Domain {
        let text = String::from_utf8_lossy(&text);
        let numbered = text.lines().enumerate();
        let entries = numbered.filter_map(|(place, line)| Some((place + 1, entry(kind, line)?))).collect();
        return Ok(Source { entries, skipped: Vec::new() });
    }
    let parsed = intel::list::parse(Format::Auto, &text, LIMITS);
    let excepted: std::collections::HashSet<&str> = parsed.exceptions.texts().collect();
    let entries = parsed.entries.texts().filter(|name| !excepted.contains(name)).map(|name| (0, name.to_owned())).collect();
    let skipped = parsed.skipped.iter().map(|(line, reason)| format!("line {line}: {reason}")).collect();
    Ok(Source { entries, skipped })
}

/// The first entries that are of another kind, by their lines (ON-07).
fn wrong_lines(kind: Kind, entries: &[(usize, String)]) -> Vec<String> {
    let numbered = entries.iter().filter(|(line, _)| *line > 0);
    let wrong = numbered.filter(|(_, entry)| !Table::accepts(kind, entry)).take(WRONG_LINES_MAX);
    let shown = |entry: &str| entry.chars().take(80).collect::<String>();
    wrong
        .map(|(line, entry)| format!("line {line}: `{}` is no entry of a list of kind {}", shown(entry), kind.as_str()))
        .collect()
}

fn path(source: &str, data: &Path) -> Result<PathBuf> {
    if let Some(name) = source.strip_prefix(FEED_PREFIX) {
        return feeds::copy_of(data, name);
    }
    ensure!(
        !source.contains("://"),
        "a URL is kept as a feed: sekisho feeds add --url {source} --name NAME --category CATEGORY; then: source = \"feed:NAME\""
    );
    let path = PathBuf::from(source);
    // The documents are kept apart from the folder that they came from, so a relative path would change its meaning.
    ensure!(path.is_absolute(), "the source `{source}` is no absolute path; write /PATH/TO/FILE, or feed:NAME");
    Ok(path)
}

fn entry(kind: Kind, line: &str) -> Option<String> {
    let line = line.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let is_whole = matches!(kind, Kind::Url | Kind::Text);
    let end = if is_whole { None } else { line.find(|c: char| c == ',' || c.is_whitespace()) };
    let entry = end.and_then(|end| line.get(..end)).unwrap_or(line);
    (!entry.is_empty() && !entry.starts_with('#')).then(|| entry.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(kind: &str, text: &str) -> Result<Contents> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("list.txt");
        std::fs::write(&file, text)?;
        let document = format!("[[list]]\nname = \"l\"\nkind = \"{kind}\"\nsource = {file:?}\n");
        read_sources(&Document::from_toml(&document)?, folder.path())
    }

    #[test]
    fn every_kind_is_read_from_a_file() -> Result<()> {
        let hash = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f";
        for (kind, text, has) in [
            ("domain", "# names\nBad.Example\n0.0.0.0 hosts.example\n", "bad.example"),
            ("url", "https://a.example/x,y\n", "https://a.example/x,y"),
            ("hash", &format!("{hash},the test file\n"), hash),
            ("email", "eve@example.com\tgone\r\n", "eve@example.com"),
            ("text", "a b\n", "a b"),
        ] {
            let contents = contents(kind, text)?;
            assert!(contents.tables["l"].has_text(has), "{kind} {:?}", contents.warnings);
        }
        let addresses = contents("ip", "192.0.2.0/24\n2001:db8::1 # one\n")?;
        assert_eq!(addresses.tables["l"].len(), 2, "{:?}", addresses.warnings);
        Ok(())
    }

    #[test]
    fn entries_of_another_kind_are_left_out_and_told() -> Result<()> {
        let contents = contents("ip", "192.0.2.1\nnot-an-address\n")?;
        assert_eq!(contents.tables["l"].len(), 1);
        assert!(contents.warnings[0].contains("line 2: `not-an-address`"), "{:?}", contents.warnings);
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_list_and_the_way_out() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for (source, told) in [
            ("/nowhere/list.txt", "/nowhere/list.txt"),
            ("list.txt", "absolute path"),
            ("https://lists.example/bad.txt", "sekisho feeds add --url"),
            ("feed:absent", "there is no feed \"absent\""),
        ] {
            let document = format!("[[list]]\nname = \"l\"\nkind = \"domain\"\nsource = \"{source}\"\n");
            let outcome = read_sources(&Document::from_toml(&document)?, folder.path());
            let error = outcome.err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains("list \"l\"") && error.contains(told), "{source}: {error}");
        }
        Ok(())
    }
}
