//! The sightings of one segment in memory: a row for each observable, user, device, source address and day. It grows with
//! each commit, answers look-ups of what is not sealed yet, and gives its rows sorted when the segment is sealed.

use std::borrow::Cow;
use std::sync::LazyLock;

use arrow::array::{Array, StringArray};
use arrow::record_batch::RecordBatch;
use model::{FIELDS, Gate, Observable, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::{Cells, Rows};
use crate::day::Day;
use crate::places::Places;
use crate::sighting::{SightingRow, key, lower, normal};
use crate::wanted::Wanted;
use crate::{Result, order};

/// One row without the lower half of its key, which stands in a list of its own: look-ups go through all of that list.
struct Row {
    key_high: u64,
    first: i64,
    last: i64,
    day: i32,
    who: u32,
    value_at: u32,
    value_bytes: u32,
    count: u32,
    blocked: u32,
    type_id: u8,
    gates: u8,
}

struct Who {
    user: Box<str>,
    device: Box<str>,
    src_ip: Box<str>,
    /// The rows of their own name and address, which are in each of their events.
    own: [Option<OwnRow>; 2],
}

#[derive(Clone, Copy)]
struct OwnRow {
    day: i32,
    key: u128,
    place: u32,
}

/// The sightings of one segment.
#[derive(Default)]
pub(crate) struct SightingTable {
    values: String,
    /// Lower half of the key of each row.
    keys: Vec<u64>,
    rows: Vec<Row>,
    whos: Vec<Who>,
    /// By user, device and address.
    who_places: Places,
    /// By observable, who and day.
    places: Places,
    days: Vec<i32>,
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

/// How often something was met, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    count: u32,
    first: i64,
    last: i64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { count: 0, first: i64::MAX, last: i64::MIN }
    }
}

impl Tally {
    pub fn add(&mut self, time: i64) {
        self.count = self.count.saturating_add(1);
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }
}

/// What is the same for all observables of one event, or of several that are alike on one day.
struct Meeting {
    who: u32,
    day: i32,
    gate: u8,
    is_blocked: bool,
    tally: Tally,
}

/// The columns of which a [`Who`] remembers the rows.
const OWN_COLUMNS: [(&str, Observable); 2] = [("user_name", Observable::UserName), ("src_ip", Observable::Ip)];

impl SightingTable {
    /// Adds the events of a batch.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.add_many(batch, &[])
    }

    /// The same where each row stands for as many events of its day as its tally says; for one where there is none.
    pub fn add_many(&mut self, batch: &RecordBatch, tallies: &[Tally]) -> Result<()> {
        let rows = Rows::new(batch)?;
        let own = |name: &str, kind: Observable| OWN_COLUMNS.iter().position(|own| *own == (name, kind));
        let observed = OBSERVED.iter().filter_map(|(name, kind)| Some((*kind, rows.cells(name)?, own(name, *kind))));
        let observed = observed.collect::<Vec<_>>();
        let who = ["user_name", "device_name", "device_uid", "src_ip"].map(|name| rows.cells(name));
        let (action, disposition) = (rows.cells("action_id"), rows.cells("disposition_id"));
        let (mut seen, mut last_who) = (Vec::with_capacity(16), None);
        for row in 0..batch.num_rows() {
            let [user, device, device_uid, src_ip] = who.map(|cells| cells.and_then(|cells| cells.text(row)).unwrap_or_default());
            let device = if device.is_empty() { device_uid } else { device };
            let who = self.who(&lower(user), device, src_ip, last_who);
            last_who = Some(who);
            let time = rows.times.value(row);
            let tally = tallies.get(row).copied().unwrap_or(Tally { count: 1, first: time, last: time });
            let meeting = Meeting {
                who,
                day: i32::try_from(Day::of(Timestamp(time)).0).unwrap_or_default(),
                gate: gate_bit(rows.gate(row)),
                is_blocked: is_blocked(int(action, row), int(disposition, row)),
                tally,
            };
            seen.clear();
            for (kind, cells, own) in &observed {
                match own {
                    Some(own) => self.meet_own(*own, *kind, cells.text(row).unwrap_or_default(), &meeting, &mut seen),
                    None => self.meet_cell(*kind, cells, row, &meeting, &mut seen),
                }
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
                let Some(texts) = lists.values().as_any().downcast_ref::<StringArray>() else { return };
                let offsets = lists.value_offsets();
                let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
                for place in (from..to).filter(|place| texts.is_valid(*place)) {
                    self.meet(kind, texts.value(place), meeting, seen);
                }
            }
            _ => {}
        }
    }

    /// Counts the user or the address of the one who met; their rows are known after the first time in a day.
    fn meet_own(&mut self, own: usize, kind: Observable, value: &str, meeting: &Meeting, seen: &mut Vec<u128>) {
        let known = self.whos.get(meeting.who as usize).and_then(|who| *who.own.get(own)?);
        if let Some(known) = known.filter(|known| known.day == meeting.day) {
            if !seen.contains(&known.key) {
                seen.push(known.key);
                self.count(known.place, meeting);
            }
        } else if let Some((key, place)) = self.meet(kind, value, meeting, seen)
            && let Some(slot) = self.whos.get_mut(meeting.who as usize).and_then(|who| who.own.get_mut(own))
        {
            *slot = Some(OwnRow { day: meeting.day, key, place });
        }
    }

    /// Counts one observable of one event. The same observable in two columns of an event counts once.
    fn meet(&mut self, kind: Observable, value: &str, meeting: &Meeting, seen: &mut Vec<u128>) -> Option<(u128, u32)> {
        let value = normal(kind, value);
        let key = key(kind, &value);
        if value.is_empty() || seen.contains(&key) {
            return None;
        }
        seen.push(key);
        let (low, high) = (key as u64, (key >> 64) as u64);
        // An odd factor of each keeps distinct pairs apart.
        let pair =
            u64::from(meeting.who).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (meeting.day as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        let hash = ((low ^ pair).wrapping_mul(0x9FB2_1C65_1E98_DF25) >> 32) as u32;
        let is_it = |place: u32| {
            self.rows.get(place as usize).is_some_and(|row| {
                row.key_high == high && row.who == meeting.who && row.day == meeting.day && row.type_id == kind.type_id() as u8
            })
        };
        let place = match self.places.find(hash, is_it) {
            Some(place) => place,
            None => self.insert(kind, &value, key, hash, meeting),
        };
        self.count(place, meeting);
        Some((key, place))
    }

    fn count(&mut self, place: u32, meeting: &Meeting) {
        if let Some(row) = self.rows.get_mut(place as usize) {
            row.count = row.count.saturating_add(meeting.tally.count);
            row.blocked = row.blocked.saturating_add(if meeting.is_blocked { meeting.tally.count } else { 0 });
            row.gates |= meeting.gate;
            row.first = row.first.min(meeting.tally.first);
            row.last = row.last.max(meeting.tally.last);
        }
    }

    fn insert(&mut self, kind: Observable, value: &str, key: u128, hash: u32, meeting: &Meeting) -> u32 {
        let place = self.rows.len() as u32;
        let (value_at, value_bytes) = (self.values.len() as u32, value.len() as u32);
        self.values.push_str(value);
        self.keys.push(key as u64);
        self.rows.push(Row {
            key_high: (key >> 64) as u64,
            first: meeting.tally.first,
            last: meeting.tally.last,
            day: meeting.day,
            who: meeting.who,
            value_at,
            value_bytes,
            count: 0,
            blocked: 0,
            type_id: kind.type_id() as u8,
            gates: 0,
        });
        self.places.insert(hash, place);
        if !self.days.contains(&meeting.day) {
            self.days.push(meeting.day);
        }
        place
    }

    /// The place of one who; most often the one of the row before.
    fn who(&mut self, user: &str, device: &str, src_ip: &str, last: Option<u32>) -> u32 {
        let is_it = |place: u32| {
            let who = self.whos.get(place as usize);
            who.is_some_and(|who| *who.user == *user && *who.device == *device && *who.src_ip == *src_ip)
        };
        if let Some(last) = last.filter(|last| is_it(*last)) {
            return last;
        }
        let mixed = [user, device, src_ip].iter().fold(0_u64, |hash, text| hash.rotate_left(21) ^ xxh3_64(text.as_bytes()));
        let hash = (mixed >> 32) as u32;
        if let Some(place) = self.who_places.find(hash, is_it) {
            return place;
        }
        let place = self.whos.len() as u32;
        self.whos.push(Who { user: user.into(), device: device.into(), src_ip: src_ip.into(), own: [None; 2] });
        self.who_places.insert(hash, place);
        place
    }

    /// The rows of observables whose keys are among those that are looked for.
    pub fn find<'t>(&'t self, wanted: &'t Wanted) -> impl Iterator<Item = SightingRow<'t>> {
        let is_wanted = |(place, row): &(usize, &Row)| {
            let low = self.keys.get(*place).copied().unwrap_or_default();
            wanted.holds(u128::from(row.key_high) << 64 | u128::from(low))
        };
        wanted
            .places_in(&self.keys)
            .filter_map(|place| Some((place, self.rows.get(place)?)))
            .filter(is_wanted)
            .map(|(_, row)| self.row(row))
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
        let mut days = self.days.clone();
        days.sort_unstable();
        days.into_iter().map(|day| Day(i64::from(day))).collect()
    }

    /// The rows of a day in the order of files.
    pub fn sorted(&self, day: Day) -> impl Iterator<Item = SightingRow<'_>> {
        let ranks = self.who_ranks();
        let rank = |row: &Row| ranks.get(row.who as usize).copied().unwrap_or_default();
        let mut order = Vec::with_capacity(self.rows.len());
        order.extend(
            self.rows
                .iter()
                .filter(|row| i64::from(row.day) == day.0)
                .map(|row| (row.type_id, order::head(self.value(row)), row)),
        );
        order.sort_unstable_by(|(a_type, a_head, a), (b_type, b_head, b)| {
            (a_type, a_head)
                .cmp(&(b_type, b_head))
                .then_with(|| self.value(a).cmp(self.value(b)))
                .then_with(|| rank(a).cmp(&rank(b)))
        });
        order.into_iter().map(|(_, _, row)| self.row(row))
    }

    /// By who, the place in the order of user, device and address.
    fn who_ranks(&self) -> Vec<u32> {
        let mut order = (0..self.whos.len() as u32).collect::<Vec<_>>();
        order.sort_unstable_by_key(|place| self.whos.get(*place as usize).map(|who| (&who.user, &who.device, &who.src_ip)));
        let mut ranks = vec![0; order.len()];
        for (rank, place) in order.into_iter().enumerate() {
            if let Some(slot) = ranks.get_mut(place as usize) {
                *slot = rank as u32;
            }
        }
        ranks
    }
}

fn gate_bit(gate: Gate) -> u8 {
    Gate::ALL.iter().position(|other| *other == gate).map_or(0, |place| 1 << place)
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
