//! Lists as comma-separated values, in the shape of the reference service (ON-07): one entry a line, or with the header line
//! `value,description` an entry and a remark. Everything that is wrong is told by its line, and then nothing is taken: a list
//! that is short of an entry would let pass what it was to hold back. Quoting is that of RFC 4180; line ends are LF or CRLF.

use std::fmt::Write;

use csv::{ReaderBuilder, StringRecord};

use crate::Problem;
use crate::list::{ENTRIES_MAX, Kind, Table};

/// Lines that are told one by one; after this many the rest is only counted.
const PROBLEMS_MAX: usize = 20;

/// One entry and what its author remarked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    pub value: String,
    pub description: String,
}

/// The entries of a list of this kind.
pub fn list(kind: Kind, text: &str) -> Result<Vec<ListEntry>, Vec<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    let mut has_header = false;
    for (place, record) in reader.records().enumerate() {
        let Ok(record) = record else { continue };
        if place == 0 && is_header(&record) {
            has_header = true;
            continue;
        }
        match entry(kind, &record, has_header) {
            Ok(entry) => entries.push(entry),
            Err(message) => {
                let line = record.position().map_or(0, csv::Position::line);
                problems.push(format!("line {line}: {message}"));
            }
        }
    }
    if entries.len() > ENTRIES_MAX {
        problems.push(format!("{} entries, at most {ENTRIES_MAX} are allowed", entries.len()));
    }
    match problems.is_empty() {
        true => Ok(entries),
        false => Err(told(problems)),
    }
}

fn is_header(record: &StringRecord) -> bool {
    let mut cells = record.iter().map(|cell| cell.trim().to_ascii_lowercase());
    cells.next().as_deref() == Some("value") && cells.next().is_none_or(|second| second == "description") && record.len() <= 2
}

fn entry(kind: Kind, record: &StringRecord, has_header: bool) -> Result<ListEntry, String> {
    let value = record.get(0).unwrap_or_default();
    let description = record.get(1).unwrap_or_default();
    if record.len() > 2 {
        return Err(format!("{} values; an entry and a description are two", record.len()));
    }
    if record.len() == 2 && !has_header {
        return Err("a description without the header line `value,description`".to_owned());
    }
    if value.is_empty() {
        return Err("no entry".to_owned());
    }
    if value.trim() != value {
        return Err(format!("a blank before or after `{}`", value.trim()));
    }
    if !Table::accepts(kind, value) {
        let shown: String = value.chars().take(80).collect();
        return Err(format!("`{shown}` is no entry of a list of kind {}", kind.as_str()));
    }
    Ok(ListEntry { value: value.to_owned(), description: description.to_owned() })
}

fn told(mut problems: Vec<String>) -> Vec<Problem> {
    let more = problems.len().saturating_sub(PROBLEMS_MAX);
    problems.truncate(PROBLEMS_MAX);
    if more > 0 {
        problems.push(format!("{more} more lines are wrong"));
    }
    problems.into_iter().map(Problem::new).collect()
}

/// The list as a policy document. Descriptions become remarks beside the entries.
pub fn list_document(name: &str, kind: Kind, entries: &[ListEntry]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut document = format!("[[list]]\nname = {}\nkind = \"{}\"\nentries = [\n", quoted(name), kind.as_str());
    for ListEntry { value, description } in entries {
        // A remark ends with its line, so that a line break in one would write a line of its own.
        let remark: String = description.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let remark = if remark.trim().is_empty() { String::new() } else { format!(" # {}", remark.trim()) };
        let _ = writeln!(document, "    {},{remark}", quoted(value));
    }
    document.push_str("]\n");
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Document;

    fn wrong(kind: Kind, text: &str) -> String {
        let problems = list(kind, text).err().unwrap_or_default();
        problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn on_07_entries_come_with_or_without_a_header_and_in_either_line_end() {
        for text in [
            "a.example\nb.example\n",
            "a.example\r\nb.example",
            "\u{feff}value\na.example\nb.example\n",
            "Value,Description\r\na.example,\"first, of two\"\r\nb.example\r\n",
        ] {
            let entries = list(Kind::Domain, text).unwrap_or_default();
            assert_eq!(entries.iter().map(|entry| &*entry.value).collect::<Vec<_>>(), ["a.example", "b.example"], "{text:?}");
        }
    }

    #[test]
    fn on_07_what_is_wrong_is_told_by_its_line() {
        for (kind, text, told) in [
            (Kind::Domain, "a.example,why\n", "line 1: a description without the header line"),
            (Kind::Domain, "a.example\nb.example \n", "line 2: a blank before or after `b.example`"),
            (Kind::Domain, "value,description\na.example,b,c\n", "line 2: 3 values"),
            (Kind::Ip, "192.0.2.1\n192.0.2.0/24\nnowhere\n", "line 3: `nowhere` is no entry of a list of kind ip"),
            (Kind::Domain, "value,description\n,empty\n", "line 2: no entry"),
            (Kind::Domain, "value,description\n\"a.example\",\"two\nlines\"\nhttp://x/,\n", "line 4: `http://x/`"),
        ] {
            assert!(wrong(kind, text).starts_with(told), "{text:?}: {}", wrong(kind, text));
        }
        let many = "http://x/\n".repeat(30);
        assert!(
            wrong(Kind::Domain, &many)
                .ends_with("line 20: `http://x/` is no entry of a list of kind domain; 10 more lines are wrong")
        );
    }

    #[test]
    fn a_document_reads_back_whatever_a_remark_holds() {
        let entries = list(Kind::Text, "value,description\n\"a\"\"b\",\"x\n[[rule]]\"\nc,\n").unwrap_or_default();
        let text = list_document("odd \"name\"", Kind::Text, &entries);
        let document = Document::from_toml(&text).unwrap_or_default();
        assert!(document.rules.is_empty(), "{text}");
        let lists: Vec<_> = document.lists.iter().map(|list| (&*list.name, list.entries.clone())).collect();
        assert_eq!(lists, [("odd \"name\"", vec!["a\"b".to_owned(), "c".to_owned()])], "{text}");
    }
}
