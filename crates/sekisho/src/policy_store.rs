//! Revisions of the policy in an embedded database: who, when, what, and the way back. Writing the same documents again
//! makes no revision, so that applying twice changes nothing (CX-07).

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use model::Timestamp;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

const REVISIONS: TableDefinition<i64, &[u8]> = TableDefinition::new("revisions");

/// Revisions that are kept. At a change an hour this is more than a year.
const REVISIONS_MAX: i64 = 10_000;

/// One applied state of the policy: documents by name, in the order in which they are merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    pub number: i64,
    pub time: Timestamp,
    pub author: String,
    pub note: String,
    /// File name and TOML text, as written.
    pub documents: Vec<(String, String)>,
}

pub struct PolicyStore(Database);

impl PolicyStore {
    /// Opens or makes the database; the first revision is the embedded default.
    pub fn open(path: &Path, default_policy: &str, now: Timestamp) -> Result<PolicyStore> {
        // Rules name people and what is watched: nobody else on this machine reads them.
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        drop(file.with_context(|| format!("cannot open {}", path.display()))?);
        let database = Database::create(path).with_context(|| format!("cannot open {}", path.display()))?;
        let store = PolicyStore(database);
        if store.newest()?.is_none() {
            let documents = vec![("default.toml".to_owned(), default_policy.to_owned())];
            store.append(documents, "sekisho", "the policy of a new installation", now)?;
        }
        Ok(store)
    }

    /// Adds a revision, or returns none where the documents are those of the newest.
    pub fn append(&self, documents: Vec<(String, String)>, author: &str, note: &str, now: Timestamp) -> Result<Option<Revision>> {
        let newest = self.newest()?;
        if newest.as_ref().is_some_and(|newest| newest.documents == documents) {
            return Ok(None);
        }
        let number = newest.map_or(1, |newest| newest.number + 1);
        let revision = Revision { number, time: now, author: author.into(), note: note.into(), documents };
        let bytes = serde_json::to_vec(&revision)?;
        let write = self.0.begin_write()?;
        {
            let mut table = write.open_table(REVISIONS)?;
            table.insert(number, bytes.as_slice())?;
            if number > REVISIONS_MAX {
                table.remove(number - REVISIONS_MAX)?;
            }
        }
        write.commit()?;
        Ok(Some(revision))
    }

    pub fn newest(&self) -> Result<Option<Revision>> {
        Ok(self.history()?.pop())
    }

    pub fn get(&self, number: i64) -> Result<Revision> {
        let Some(revision) = self.history()?.into_iter().find(|revision| revision.number == number) else {
            bail!("there is no revision {number}; `sekisho policy history` lists them");
        };
        Ok(revision)
    }

    /// Every revision, oldest first.
    pub fn history(&self) -> Result<Vec<Revision>> {
        let read = self.0.begin_read()?;
        let table = match read.open_table(REVISIONS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(e) => return Err(anyhow!(e)),
        };
        let mut revisions = Vec::new();
        for row in table.iter()? {
            let (_, bytes) = row?;
            revisions.push(serde_json::from_slice(bytes.value()).context("a stored revision is damaged")?);
        }
        Ok(revisions)
    }
}

/// Lines that one revision has and the other has not, document by document, marked `-` and `+`.
pub fn difference(before: &Revision, after: &Revision) -> String {
    let mut text = String::new();
    let mut names: Vec<&str> = before.documents.iter().chain(&after.documents).map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (old, new) = (document(before, name), document(after, name));
        if old != new {
            text.push_str(&format!("--- {name} (revision {})\n+++ {name} (revision {})\n", before.number, after.number));
            text.push_str(&changed_lines(old, new));
        }
    }
    text
}

fn document<'a>(revision: &'a Revision, name: &str) -> &'a str {
    revision.documents.iter().find(|(found, _)| found == name).map_or("", |(_, text)| text)
}

/// Common head and tail are left out; what lies between is shown whole.
fn changed_lines(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let removed = old[..old.len() - tail].iter().map(|line| format!("-{line}\n"));
    let added = new[..new.len() - tail].iter().map(|line| format!("+{line}\n"));
    format!("@@ line {} @@\n{}", head + 1, removed.chain(added).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Result<(tempfile::TempDir, PolicyStore)> {
        let folder = tempfile::tempdir()?;
        let store = PolicyStore::open(&folder.path().join("policy.redb"), "# default\n", Timestamp(1))?;
        Ok((folder, store))
    }

    #[test]
    fn applying_twice_makes_no_second_revision() -> Result<()> {
        let (_folder, store) = store()?;
        let documents = vec![("a.toml".to_owned(), "# a\n".to_owned())];
        assert_eq!(store.append(documents.clone(), "ann", "", Timestamp(2))?.map(|r| r.number), Some(2));
        assert_eq!(store.append(documents, "ann", "", Timestamp(3))?, None);
        assert_eq!(store.history()?.len(), 2);
        Ok(())
    }

    #[test]
    fn only_the_owner_reads_the_revisions() -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let (folder, _store) = store()?;
        let mode = std::fs::metadata(folder.path().join("policy.redb"))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        Ok(())
    }

    #[test]
    fn a_difference_names_the_lines() -> Result<()> {
        let (_folder, store) = store()?;
        let first = store.get(1)?;
        let documents = vec![("default.toml".to_owned(), "# default\n# more\n".to_owned())];
        let second = store.append(documents, "ann", "", Timestamp(2))?.context("a revision")?;
        let text = difference(&first, &second);
        assert!(text.contains("+# more") && !text.contains("-# default"), "{text}");
        assert!(store.get(9).is_err());
        Ok(())
    }
}
