//! Who met what: one row for each observable, user, device and source address of a day, with counts and times. The table
//! grows with each commit, answers look-ups of what is not sealed yet, and is written sorted when its segment is sealed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, Int32Array, Int32Builder, Int64Array, Int64Builder, StringArray, StringBuilder};
use arrow::array::{TimestampMicrosecondArray, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use model::{FIELDS, Gate, Observable, Timestamp};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::batch::{Cells, Rows, typed, without_query};
use crate::day::Day;
use crate::{Error, Result, schema};

/// One answer to "who ever met this?".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighting {
    pub kind: Observable,
    pub value: String,
    /// Empty where the user was not known.
    pub user: String,
    pub device: String,
    pub src_ip: String,
    pub first: Timestamp,
    pub last: Timestamp,
    pub count: u64,
    pub blocked: u64,
    pub gates: Vec<Gate>,
}

impl Sighting {
    /// The user, or the source address where no user was known.
    pub fn who(&self) -> &str {
        if self.user.is_empty() { &self.src_ip } else { &self.user }
    }
}

/// The form in which a value is stored and looked up. Query strings are cut: they carry tokens.
pub(crate) fn normal(kind: Observable, value: &str) -> Cow<'_, str> {
    match kind {
        Observable::Hostname => lower(value.strip_suffix('.').unwrap_or(value)),
        Observable::Url => normal_url(without_query(value)),
        Observable::Hash | Observable::UserName | Observable::Email => lower(value),
        Observable::Ip | Observable::FileName => Cow::Borrowed(value),
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) { text.to_ascii_lowercase().into() } else { text.into() }
}

/// Scheme and host in lower case; the path as it is.
fn normal_url(url: &str) -> Cow<'_, str> {
    let after_scheme = url.find("://").map_or(0, |place| place + 3);
    let end = url.get(after_scheme..).and_then(|rest| rest.find('/')).map_or(url.len(), |slash| after_scheme + slash);
    match url.split_at_checked(end) {
        Some((head, path)) if head.bytes().any(|byte| byte.is_ascii_uppercase()) => (head.to_ascii_lowercase() + path).into(),
        _ => url.into(),
    }
}

/// The hash of an observable. Its lower half is the key in filters.
pub(crate) fn key(kind: Observable, value: &str) -> u128 {
    xxh3_128_with_seed(value.as_bytes(), kind.type_id() as u64)
}

/// A sighting as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SightingRow<'a> {
    pub type_id: i32,
    pub value: Cow<'a, str>,
    pub user: Cow<'a, str>,
    pub device: Cow<'a, str>,
    pub src_ip: Cow<'a, str>,
    pub gates: i32,
    pub count: i64,
    pub blocked: i64,
    pub first: i64,
    pub last: i64,
}

impl SightingRow<'_> {
    /// The order of files, and what makes two rows one.
    pub fn order(&self) -> (i32, &str, &str, &str, &str) {
        (self.type_id, &self.value, &self.user, &self.device, &self.src_ip)
    }

    pub fn absorb(&mut self, other: &SightingRow<'_>) {
        self.gates |= other.gates;
        self.count += other.count;
        self.blocked += other.blocked;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

pub(crate) fn kind_of(type_id: i32) -> Option<Observable> {
    Observable::ALL.iter().copied().find(|kind| kind.type_id() == type_id)
}

pub(crate) fn gates_of(bits: i32) -> Vec<Gate> {
    Gate::ALL.iter().copied().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, gate)| gate).collect()
}

fn gate_bit(gate: Gate) -> u8 {
    Gate::ALL.iter().position(|other| *other == gate).map_or(0, |place| 1 << place)
}

/// Hashes that are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64 ^ (value >> 64) as u64;
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type HashedMap<K> = HashMap<K, u32, BuildHasherDefault<Hashed>>;

struct Row {
    key: u64,
    type_id: u8,
    gates: u8,
    day: i32,
    who: u32,
    /// The next row of the same value, or `END`.
    next: u32,
    value_at: u32,
    value_bytes: u32,
    count: u32,
    blocked: u32,
    first: i64,
    last: i64,
}

const END: u32 = u32::MAX;

struct Who {
    user: Box<str>,
    device: Box<str>,
    src_ip: Box<str>,
}

/// The sightings of one segment.
#[derive(Default)]
pub(crate) struct SightingTable {
    values: String,
    rows: Vec<Row>,
    whos: Vec<Who>,
    who_places: HashedMap<u128>,
    /// Row of an observable, who and day.
    places: HashedMap<u128>,
    /// First row of an observable.
    heads: HashedMap<u64>,
}

/// Columns that hold observables.
static OBSERVED: LazyLock<Vec<(&'static str, Observable)>> = LazyLock::new(|| {
    let mut observed: Vec<(&'static str, Observable)> = Vec::new();
    for field in FIELDS.iter().filter(|field| !field.column.is_empty()) {
        if let Some(kind) = field.observable
            && !observed.contains(&(field.column, kind))
        {
            observed.push((field.column, kind));
        }
    }
    observed
});

/// What is the same for all observables of one event.
struct Meeting {
    who: u32,
    day: i32,
    gate: u8,
    is_blocked: bool,
    time: i64,
}

impl SightingTable {
    /// Adds the events of a batch.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = Rows::new(batch)?;
        let observed = OBSERVED.iter().filter_map(|(name, kind)| rows.cells(name).map(|cells| (*kind, cells)));
        let observed = observed.collect::<Vec<_>>();
        let who = ["user_name", "device_name", "device_uid", "src_ip"].map(|name| rows.cells(name));
        let (action, disposition) = (rows.cells("action_id"), rows.cells("disposition_id"));
        let mut seen = Vec::with_capacity(16);
        for row in 0..batch.num_rows() {
            let [user, device, device_uid, src_ip] = who.map(|cells| cells.and_then(|cells| cells.text(row)).unwrap_or_default());
            let device = if device.is_empty() { device_uid } else { device };
            let time = rows.times.value(row);
            let meeting = Meeting {
                who: self.who(&lower(user), device, src_ip),
                day: i32::try_from(Day::of(Timestamp(time)).0).unwrap_or_default(),
                gate: gate_bit(rows.gate(row)),
                is_blocked: is_blocked(int(action, row), int(disposition, row)),
                time,
            };
            seen.clear();
            for (kind, cells) in &observed {
                self.meet_cell(*kind, cells, row, &meeting, &mut seen);
            }
        }
        Ok(())
    }

    fn meet_cell(&mut self, kind: Observable, cells: &Cells<'_>, row: usize, meeting: &Meeting, seen: &mut Vec<u128>) {
        match cells {
            Cells::Text(_) | Cells::Ip(_) => {
                if let Some(value) = cells.text(row) {
                    self.meet(kind, value, meeting, seen);
                }
            }
            Cells::Texts(lists) | Cells::Ips(lists) if lists.is_valid(row) => {
                let inner = lists.value(row);
                let texts = inner.as_any().downcast_ref::<StringArray>();
                for value in texts.into_iter().flatten().flatten() {
                    self.meet(kind, value, meeting, seen);
                }
            }
            _ => {}
        }
    }

    /// Counts one observable of one event. The same observable in two columns of an event counts once.
    fn meet(&mut self, kind: Observable, value: &str, meeting: &Meeting, seen: &mut Vec<u128>) {
        let value = normal(kind, value);
        let key = key(kind, &value);
        if value.is_empty() || seen.contains(&key) {
            return;
        }
        seen.push(key);
        // Spreads who and day over both halves; an odd factor keeps distinct pairs distinct.
        let pair = (u128::from(meeting.who) << 32 | u128::from(meeting.day as u32)) + 1;
        let place_key = key ^ pair.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let place = match self.places.get(&place_key) {
            Some(place) => *place,
            None => self.insert(kind, &value, key as u64, place_key, meeting),
        };
        if let Some(row) = self.rows.get_mut(place as usize) {
            row.count = row.count.saturating_add(1);
            row.blocked = row.blocked.saturating_add(u32::from(meeting.is_blocked));
            row.gates |= meeting.gate;
            row.first = row.first.min(meeting.time);
            row.last = row.last.max(meeting.time);
        }
    }

    fn insert(&mut self, kind: Observable, value: &str, key: u64, place_key: u128, meeting: &Meeting) -> u32 {
        let place = self.rows.len() as u32;
        let next = self.heads.insert(key, place).unwrap_or(END);
        let shared = self.rows.get(next as usize).map(|row| (row.value_at, row.value_bytes));
        let (value_at, value_bytes) = shared.unwrap_or_else(|| {
            let at = self.values.len() as u32;
            self.values.push_str(value);
            (at, value.len() as u32)
        });
        let (who, day, first, last) = (meeting.who, meeting.day, meeting.time, meeting.time);
        let type_id = kind.type_id() as u8;
        self.rows.push(Row { key, type_id, gates: 0, day, who, next, value_at, value_bytes, count: 0, blocked: 0, first, last });
        self.places.insert(place_key, place);
        place
    }

    fn who(&mut self, user: &str, device: &str, src_ip: &str) -> u32 {
        let hash = [user, device, src_ip]
            .iter()
            .fold(0_u128, |hash, text| hash.rotate_left(41) ^ xxh3_128_with_seed(text.as_bytes(), text.len() as u64));
        let next = self.whos.len() as u32;
        let place = *self.who_places.entry(hash).or_insert(next);
        if place == next {
            self.whos.push(Who { user: user.into(), device: device.into(), src_ip: src_ip.into() });
        }
        place
    }

    /// The rows of one observable.
    pub fn find<'t>(&'t self, kind: Observable, value: &str) -> impl Iterator<Item = SightingRow<'t>> {
        let key = key(kind, value) as u64;
        let mut place = self.heads.get(&key).copied().unwrap_or(END);
        std::iter::from_fn(move || {
            let row = self.rows.get(place as usize)?;
            place = row.next;
            Some(self.row(row))
        })
    }

    fn row<'t>(&'t self, row: &Row) -> SightingRow<'t> {
        let who = self.whos.get(row.who as usize);
        let text = |text: fn(&Who) -> &str| Cow::Borrowed(who.map(text).unwrap_or_default());
        SightingRow {
            type_id: i32::from(row.type_id),
            value: Cow::Borrowed(self.value(row)),
            user: text(|who| &who.user),
            device: text(|who| &who.device),
            src_ip: text(|who| &who.src_ip),
            gates: i32::from(row.gates),
            count: i64::from(row.count),
            blocked: i64::from(row.blocked),
            first: row.first,
            last: row.last,
        }
    }

    fn value(&self, row: &Row) -> &str {
        let at = row.value_at as usize;
        self.values.get(at..at + row.value_bytes as usize).unwrap_or_default()
    }

    pub fn days(&self) -> Vec<Day> {
        let mut days = self.rows.iter().map(|row| row.day).collect::<Vec<_>>();
        days.sort_unstable();
        days.dedup();
        days.into_iter().map(|day| Day(i64::from(day))).collect()
    }

    /// The rows of a day in the order of files.
    pub fn sorted(&self, day: Day) -> Vec<SightingRow<'_>> {
        // Most comparisons end at the type and the first bytes of the value.
        let mut order = self.rows.iter().filter(|row| i64::from(row.day) == day.0).map(|row| {
            let mut head = [0_u8; 8];
            let value = self.value(row).as_bytes();
            let taken = value.len().min(8);
            head[..taken].copy_from_slice(&value[..taken]);
            (row.type_id, u64::from_be_bytes(head), row)
        });
        let mut order = order.by_ref().collect::<Vec<_>>();
        order.sort_unstable_by(|(a_type, a_head, a), (b_type, b_head, b)| {
            let heads = (a_type, a_head).cmp(&(b_type, b_head));
            heads.then_with(|| self.row(a).order().cmp(&self.row(b).order()))
        });
        order.into_iter().map(|(_, _, row)| self.row(row)).collect()
    }

    pub fn keys(&self, day: Day) -> Vec<u64> {
        self.rows.iter().filter(|row| i64::from(row.day) == day.0).map(|row| row.key).collect()
    }
}

fn int(cells: Option<&Cells<'_>>, row: usize) -> Option<i64> {
    match cells {
        Some(Cells::Int(array)) => array.is_valid(row).then(|| array.value(row)),
        _ => None,
    }
}

/// OCSF action 2 is denied; dispositions 2, 3 and 6 are blocked, quarantined and dropped.
fn is_blocked(action: Option<i64>, disposition: Option<i64>) -> bool {
    action == Some(2) || matches!(disposition, Some(2 | 3 | 6))
}

static ARROW: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name, ty| ArrowField::new(name, ty, false);
    Arc::new(Schema::new(vec![
        field("type_id", DataType::Int32),
        field("value", DataType::Utf8),
        field("user_name", DataType::Utf8),
        field("device_name", DataType::Utf8),
        field("src_ip", DataType::Utf8),
        field("gates", DataType::Int32),
        field("count", DataType::Int64),
        field("blocked", DataType::Int64),
        field("first_seen", schema::time_type()),
        field("last_seen", schema::time_type()),
    ]))
});

pub(crate) fn arrow_schema() -> SchemaRef {
    Arc::clone(&ARROW)
}

/// Rows on their way into a batch.
#[derive(Default)]
pub(crate) struct SightingBuilder {
    type_ids: Int32Builder,
    texts: [StringBuilder; 4],
    gates: Int32Builder,
    counts: [Int64Builder; 2],
    times: [TimestampMicrosecondBuilder; 2],
}

impl SightingBuilder {
    pub fn push(&mut self, row: &SightingRow<'_>) {
        self.type_ids.append_value(row.type_id);
        let texts = [&row.value, &row.user, &row.device, &row.src_ip];
        self.texts.iter_mut().zip(texts).for_each(|(builder, text)| builder.append_value(text));
        self.gates.append_value(row.gates);
        self.counts.iter_mut().zip([row.count, row.blocked]).for_each(|(builder, count)| builder.append_value(count));
        self.times.iter_mut().zip([row.first, row.last]).for_each(|(builder, time)| builder.append_value(time));
    }

    pub fn rows(&self) -> usize {
        use arrow::array::ArrayBuilder;
        self.type_ids.len()
    }

    pub fn finish(&mut self) -> Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.type_ids.finish())];
        arrays.extend(self.texts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        arrays.push(Arc::new(self.gates.finish()));
        arrays.extend(self.counts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        arrays.extend(self.times.iter_mut().map(|builder| Arc::new(builder.finish().with_timezone("UTC")) as ArrayRef));
        RecordBatch::try_new(arrow_schema(), arrays).map_err(Error::arrow("form a batch of sightings"))
    }
}

/// A batch of stored sightings.
pub(crate) struct SightingRows<'a> {
    pub type_ids: &'a Int32Array,
    pub texts: [&'a StringArray; 4],
    gates: &'a Int32Array,
    counts: [&'a Int64Array; 2],
    times: [&'a TimestampMicrosecondArray; 2],
}

impl<'a> SightingRows<'a> {
    pub fn new(batch: &'a RecordBatch) -> Result<SightingRows<'a>> {
        Ok(SightingRows {
            type_ids: typed(batch, "type_id")?,
            texts: [typed(batch, "value")?, typed(batch, "user_name")?, typed(batch, "device_name")?, typed(batch, "src_ip")?],
            gates: typed(batch, "gates")?,
            counts: [typed(batch, "count")?, typed(batch, "blocked")?],
            times: [typed(batch, "first_seen")?, typed(batch, "last_seen")?],
        })
    }

    pub fn row(&self, row: usize) -> SightingRow<'a> {
        let [value, user, device, src_ip] = self.texts.map(|texts| Cow::Borrowed(texts.value(row)));
        let [count, blocked] = self.counts.map(|counts| counts.value(row));
        let [first, last] = self.times.map(|times| times.value(row));
        let (type_id, gates) = (self.type_ids.value(row), self.gates.value(row));
        SightingRow { type_id, value, user, device, src_ip, gates, count, blocked, first, last }
    }
}
