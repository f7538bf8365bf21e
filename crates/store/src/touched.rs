//! Who ever met an indicator? Filters say which files can hold it, page indexes where, and the table of unsealed
//! sightings is asked directly. A list of thousands costs little more than the few of it that were ever met.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use arrow::array::{Array, BooleanArray, Int32Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use model::{Observable, Timestamp};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowFilter, RowSelection,
};

use crate::lake::{self, Lake};
use crate::manifest::SealedFile;
use crate::sighting::{self, Sighting, SightingRow, kind_of};
use crate::sighting_columns::SightingRows;
use crate::tail::View;
use crate::wanted::Wanted;
use crate::{Error, Result, filter};

/// Something to look for. Where its kind is not said, its shape tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Indicator {
    pub kind: Option<Observable>,
    pub value: String,
}

impl Indicator {
    pub fn of(kind: Observable, value: impl Into<String>) -> Indicator {
        Indicator { kind: Some(kind), value: value.into() }
    }

    /// An indicator as a person writes it.
    pub fn guess(value: impl Into<String>) -> Indicator {
        Indicator { kind: None, value: value.into() }
    }

    /// The kinds that it can be.
    fn kinds(&self) -> Vec<Observable> {
        if let Some(kind) = self.kind {
            return vec![kind];
        }
        let value = self.value.trim();
        let is_hash = matches!(value.len(), 32 | 40 | 64) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        if value.parse::<IpAddr>().is_ok() {
            vec![Observable::Ip]
        } else if is_hash {
            vec![Observable::Hash]
        } else if value.contains('/') {
            vec![Observable::Url]
        } else if value.contains('@') {
            vec![Observable::UserName, Observable::Email]
        } else {
            vec![Observable::Hostname, Observable::UserName, Observable::FileName]
        }
    }

    /// Its stored forms.
    fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let value = self.value.trim();
        self.kinds().into_iter().map(move |kind| {
            let value = match (kind, value.parse::<IpAddr>()) {
                (Observable::Ip, Ok(ip)) => ip.to_string(),
                _ => sighting::normal(kind, value).into_owned(),
            };
            Candidate { key: sighting::key(kind, &value), value }
        })
    }
}

struct Candidate {
    key: u128,
    value: String,
}

type Order = (i32, String, String, String, String);

/// Rows of the same observable and who, from wherever they come, as one.
#[derive(Default)]
struct Merged(BTreeMap<Order, SightingRow<'static>>);

impl Merged {
    fn add(&mut self, row: &SightingRow<'_>) {
        let (type_id, value, user, device, src_ip) = row.order();
        let order = (type_id, value.to_owned(), user.to_owned(), device.to_owned(), src_ip.to_owned());
        match self.0.get_mut(&order) {
            Some(known) => known.absorb(row),
            None => drop(self.0.insert(order, owned(row))),
        }
    }

    fn sightings(self) -> Vec<Sighting> {
        let sighting = |row: SightingRow<'_>| {
            Some(Sighting {
                kind: kind_of(row.type_id)?,
                value: row.value.into_owned(),
                user: row.user.into_owned(),
                device: row.device.into_owned(),
                src_ip: row.src_ip.into_owned(),
                first: Timestamp(row.first),
                last: Timestamp(row.last),
                count: u64::try_from(row.count).unwrap_or_default(),
                blocked: u64::try_from(row.blocked).unwrap_or_default(),
                gates: sighting::gates_of(row.gates),
            })
        };
        self.0.into_values().filter_map(sighting).collect()
    }
}

pub(crate) fn owned(row: &SightingRow<'_>) -> SightingRow<'static> {
    let text = |text: &str| std::borrow::Cow::Owned(text.to_owned());
    let (value, user, device, src_ip) = (text(&row.value), text(&row.user), text(&row.device), text(&row.src_ip));
    SightingRow { value, user, device, src_ip, ..*row }
}

pub(crate) fn touched(lake: &Lake, view: &View, indicators: &[Indicator]) -> Result<Vec<Sighting>> {
    let mut candidates = indicators.iter().flat_map(Indicator::candidates).collect::<Vec<_>>();
    candidates.sort_unstable_by(|a, b| (&a.value, a.key).cmp(&(&b.value, b.key)));
    candidates.dedup_by_key(|candidate| candidate.key);
    let wanted = Wanted::new(candidates.iter().map(|candidate| candidate.key));
    let mut merged = Merged::default();
    for segment in &view.segments {
        segment.read().sightings.find(&wanted).for_each(|row| merged.add(&row));
    }
    for file in view.manifest.files.iter().filter(|file| file.kind.holds_sightings()) {
        let possible = possible(lake, file, &candidates);
        if !possible.is_empty() {
            read_file(lake, file, &possible, &mut merged)?;
        }
    }
    Ok(merged.sightings())
}

/// The candidates that a file can hold, in order of value.
fn possible<'c>(lake: &Lake, file: &SealedFile, candidates: &'c [Candidate]) -> Vec<&'c Candidate> {
    let Some(filter) = lake.filter(file) else { return candidates.iter().collect() };
    let view = filter.view();
    candidates.iter().filter(|candidate| filter::may_hold(&view, candidate.key as u64)).collect()
}

fn read_file(lake: &Lake, file: &SealedFile, candidates: &[&Candidate], merged: &mut Merged) -> Result<()> {
    let path = lake.root.join(&file.path);
    let (opened, footer) = lake.open(file)?;
    let (groups, selection) = places(&footer, candidates);
    if groups.is_empty() {
        return Ok(());
    }
    let mask = ProjectionMask::columns(footer.parquet_schema(), ["type_id", "value"]);
    let keys = candidates.iter().map(|candidate| candidate.key).collect::<HashSet<_>>();
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(opened, footer)
        .with_row_groups(groups)
        .with_row_selection(selection)
        .with_row_filter(RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, move |batch| is_candidate(&batch, &keys)))]))
        .build()
        .map_err(Error::parquet("read", &path))?;
    for batch in reader {
        let batch = batch.map_err(Error::arrow("read sightings"))?;
        let rows = SightingRows::new(&batch)?;
        (0..batch.num_rows()).for_each(|row| merged.add(&rows.row(row)));
    }
    Ok(())
}

fn is_candidate(batch: &RecordBatch, keys: &HashSet<u128>) -> std::result::Result<BooleanArray, ArrowError> {
    let types = batch.column(0).as_any().downcast_ref::<Int32Array>();
    let values = batch.column(1).as_any().downcast_ref::<StringArray>();
    let (Some(types), Some(values)) = (types, values) else {
        return Err(ArrowError::SchemaError("sightings have other columns".to_owned()));
    };
    let is = |(type_id, value): (&i32, Option<&str>)| {
        let key = kind_of(*type_id).zip(value).map(|(kind, value)| sighting::key(kind, value));
        Some(key.is_some_and(|key| keys.contains(&key)))
    };
    Ok(types.values().iter().zip(values).map(is).collect())
}

/// The row groups that can hold a candidate and, within them, the rows of the pages that can.
fn places(footer: &ArrowReaderMetadata, candidates: &[&Candidate]) -> (Vec<usize>, RowSelection) {
    let metadata = footer.metadata();
    let value_column = footer.parquet_schema().columns().iter().position(|column| column.name() == "value");
    let (mut groups, mut ranges, mut begun) = (Vec::new(), Vec::new(), 0);
    for group in 0..metadata.num_row_groups() {
        let rows = usize::try_from(metadata.row_group(group).num_rows()).unwrap_or_default();
        let may_hold = |min: &[u8], max: &[u8]| {
            let at = candidates.partition_point(|candidate| candidate.value.as_bytes() < min);
            candidates.get(at).is_some_and(|candidate| candidate.value.as_bytes() <= max)
        };
        let pages = value_column.and_then(|column| lake::page_rows(footer, group, column, may_hold));
        let pages = pages.unwrap_or_else(|| std::iter::once(0..rows).collect());
        if !pages.is_empty() {
            groups.push(group);
            ranges.extend(pages.into_iter().map(|page| page.start + begun..page.end + begun));
            begun += rows;
        }
    }
    (groups, RowSelection::from_consecutive_ranges(ranges.into_iter(), begun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_tells_the_kind() {
        let kind = |value: &str| Indicator::guess(value).kinds()[0];
        assert_eq!(kind("192.0.2.1"), Observable::Ip);
        assert_eq!(kind("2001:db8::1"), Observable::Ip);
        assert_eq!(kind(&"aB".repeat(32)), Observable::Hash);
        assert_eq!(kind("https://a.example/b"), Observable::Url);
        assert_eq!(kind("mia@example.com"), Observable::UserName);
        assert_eq!(kind("evil.example"), Observable::Hostname);
    }

    #[test]
    fn stored_forms_carry_no_query_and_no_case() {
        let form = |value: &str| Indicator::guess(value).candidates().next().unwrap().value;
        assert_eq!(form("HTTPS://Evil.Example/A?token=1#x"), "https://evil.example/A");
        assert_eq!(form("Evil.Example."), "evil.example");
        assert_eq!(form("2001:DB8:0::1"), "2001:db8::1");
    }
}
