//! Events that follow patterns, in few bytes each: what is an event's own, the number of its pattern and that of its client.
//! Patterns and clients are numbered within a segment of the log, and each is written once in it. A reader unfolds them into
//! the same columns as any event; nothing of an event is left out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, StringArray, StringBuilder, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use model::{Event, EventId, Pattern, Repeat, Timestamp, TransactionId};

use crate::config::Redaction;
use crate::{Error, Result, batch, schema, seal, wal};

/// Patterns and clients of one segment; one that has more is sealed.
pub(crate) const NUMBERED_MAX: usize = 65_536;

/// The columns that are an event's own, beside its time and its id.
pub(crate) const SRC_IP: &str = "src_ip";
pub(crate) const SRC_PORT: &str = "src_port";
pub(crate) const REFERENCE: &str = "reference";

/// Stands for the client of an event that tells of none.
const NO_CLIENT: u32 = u32::MAX;

/// What the body of such a frame begins with. An Arrow stream begins with four bytes of ones.
const MAGIC: &[u8; 4] = b"rep1";

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub time: i64,
    pub reference: u64,
    pub pattern: u32,
    client: u32,
    port: u16,
}

/// The events of one commit, and the patterns and clients that none before in the segment had.
#[derive(Debug, PartialEq)]
pub(crate) struct Repeats {
    pub first_id: i64,
    pub rows: Vec<Row>,
    patterns_before: u32,
    patterns: Option<RecordBatch>,
    clients_before: u32,
    clients: Vec<IpAddr>,
}

/// The numbers of a segment that is being written.
#[derive(Default)]
pub(crate) struct Numbers {
    /// By the address of a pattern that is held.
    patterns: HashMap<usize, u32>,
    held: Vec<Arc<Pattern>>,
    clients: HashMap<IpAddr, u32>,
}

/// What the numbers of a segment stand for.
#[derive(Default)]
pub(crate) struct Book {
    chunks: Vec<RecordBatch>,
    patterns: u32,
    clients: Vec<IpAddr>,
}

/// Whether events may be folded: what must not be written down is not known to rows.
pub(crate) fn may_fold(redaction: &Redaction) -> bool {
    !redaction.columns.iter().any(|column| [SRC_IP, SRC_PORT, REFERENCE].contains(&column.as_str()))
}

impl Numbers {
    pub fn are_many(&self) -> bool {
        self.held.len().max(self.clients.len()) >= NUMBERED_MAX
    }

    /// Folds the events of one commit.
    pub fn fold(&mut self, repeats: &[Repeat], first_id: i64, redaction: &Redaction) -> Result<Repeats> {
        let (patterns_before, clients_before) = (self.held.len(), self.clients.len() as u32);
        let (mut clients, mut rows) = (Vec::new(), Vec::with_capacity(repeats.len()));
        for repeat in repeats {
            let tells_client = repeat.pattern.tells_client;
            rows.push(Row {
                time: repeat.time.0,
                reference: repeat.reference.0,
                pattern: self.pattern(&repeat.pattern),
                client: if tells_client { self.client(repeat.client.ip().to_canonical(), &mut clients) } else { NO_CLIENT },
                port: if tells_client { repeat.client.port() } else { 0 },
            });
        }
        let fresh = self.held.get(patterns_before..).unwrap_or_default().iter().map(|pattern| Event {
            id: EventId(0),
            time: Timestamp(0),
            class: pattern.class,
            facts: pattern.facts.clone(),
        });
        let fresh = fresh.collect::<Vec<_>>();
        let patterns = (!fresh.is_empty()).then(|| batch::encode(&fresh, 0, redaction)).transpose()?;
        Ok(Repeats { first_id, rows, patterns_before: patterns_before as u32, patterns, clients_before, clients })
    }

    fn pattern(&mut self, pattern: &Arc<Pattern>) -> u32 {
        let next = self.held.len() as u32;
        match self.patterns.entry(Arc::as_ptr(pattern) as usize) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                // Held, so that its address stays its own.
                self.held.push(Arc::clone(pattern));
                *free.insert(next)
            }
        }
    }

    fn client(&mut self, client: IpAddr, fresh: &mut Vec<IpAddr>) -> u32 {
        let next = self.clients.len() as u32;
        *self.clients.entry(client).or_insert_with(|| {
            fresh.push(client);
            next
        })
    }
}

impl Repeats {
    /// The events as the body of a frame, at the end of some bytes: patterns as an Arrow stream, clients as IPv6 addresses, and
    /// rows by column.
    pub fn body(&self, mut body: Vec<u8>) -> Result<Vec<u8>> {
        let patterns = self.patterns.as_ref().map(|patterns| wal::stream(Vec::new(), patterns)).transpose()?.unwrap_or_default();
        body.reserve(64 + patterns.len() + 16 * self.clients.len() + 26 * self.rows.len());
        body.extend_from_slice(MAGIC);
        let too_large = |_| Error::NotDurable("a commit is larger than a frame can be".to_owned());
        let lengths =
            [patterns.len(), self.clients.len(), self.rows.len()].map(|length| u32::try_from(length).map_err(too_large));
        let [pattern_bytes, clients, rows] = lengths;
        for number in [self.patterns_before, pattern_bytes?, self.clients_before, clients?, rows?] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&self.first_id.to_le_bytes());
        body.extend_from_slice(&patterns);
        for client in &self.clients {
            let v6 = match client {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => *v6,
            };
            body.extend_from_slice(&v6.octets());
        }
        self.rows.iter().for_each(|row| body.extend_from_slice(&row.time.to_le_bytes()));
        self.rows.iter().for_each(|row| body.extend_from_slice(&row.reference.to_le_bytes()));
        self.rows.iter().for_each(|row| body.extend_from_slice(&row.pattern.to_le_bytes()));
        self.rows.iter().for_each(|row| body.extend_from_slice(&row.client.to_le_bytes()));
        self.rows.iter().for_each(|row| body.extend_from_slice(&row.port.to_le_bytes()));
        Ok(body)
    }

    pub fn is_body(body: &[u8]) -> bool {
        body.starts_with(MAGIC)
    }

    /// None where the body does not hold together.
    pub fn parse(body: &[u8]) -> Option<Repeats> {
        let (numbers, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<20>()?;
        let number = |place: usize| numbers.as_chunks::<4>().0.get(place).map(|bytes| u32::from_le_bytes(*bytes));
        let (first_id, rest) = rest.split_first_chunk::<8>()?;
        let (patterns, rest) = rest.split_at_checked(number(1)? as usize)?;
        let patterns = if patterns.is_empty() { None } else { Some(wal::batches(patterns)?.into_iter().next()?) };
        let (clients, rest) = rest.split_at_checked((number(3)? as usize).checked_mul(16)?)?;
        let clients = clients.as_chunks::<16>().0.iter().map(|octets| IpAddr::from(*octets).to_canonical()).collect();
        let count = number(4)? as usize;
        let (times, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
        let (references, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
        let (patterns_of, rest) = rest.split_at_checked(count.checked_mul(4)?)?;
        let (clients_of, ports) = rest.split_at_checked(count.checked_mul(4)?)?;
        if ports.len() != count.checked_mul(2)? {
            return None;
        }
        let wide = |bytes: &[u8], place: usize| bytes.as_chunks::<8>().0.get(place).map(|bytes| u64::from_le_bytes(*bytes));
        let narrow = |bytes: &[u8], place: usize| bytes.as_chunks::<4>().0.get(place).map(|bytes| u32::from_le_bytes(*bytes));
        let row = |place: usize| {
            Some(Row {
                time: wide(times, place)? as i64,
                reference: wide(references, place)?,
                pattern: narrow(patterns_of, place)?,
                client: narrow(clients_of, place)?,
                port: ports.as_chunks::<2>().0.get(place).map(|bytes| u16::from_le_bytes(*bytes))?,
            })
        };
        let rows = (0..count).map(row).collect::<Option<Vec<_>>>()?;
        let (patterns_before, clients_before) = (number(0)?, number(2)?);
        let first_id = i64::from_le_bytes(*first_id);
        first_id.checked_add(i64::from(number(4)?))?;
        Some(Repeats { first_id, rows, patterns_before, patterns, clients_before, clients })
    }

    pub fn last_id(&self) -> i64 {
        self.first_id.saturating_add(self.rows.len() as i64).saturating_sub(1)
    }
}

impl Book {
    /// Enters what a commit brings. False, and nothing is entered, where it does not go on from here or names what is not there.
    pub fn enter(&mut self, repeats: &Repeats) -> bool {
        let more = repeats.patterns.as_ref().map_or(0, |patterns| patterns.num_rows() as u32);
        let Some(patterns) = self.patterns.checked_add(more) else { return false };
        let clients = self.clients.len() + repeats.clients.len();
        let is_known = |row: &Row| row.pattern < patterns && (row.client == NO_CLIENT || (row.client as usize) < clients);
        if repeats.patterns_before != self.patterns
            || repeats.clients_before as usize != self.clients.len()
            || !repeats.rows.iter().all(is_known)
        {
            return false;
        }
        self.chunks.extend(repeats.patterns.clone());
        self.patterns = patterns;
        self.clients.extend_from_slice(&repeats.clients);
        true
    }

    /// All patterns as one batch, by their numbers.
    pub fn patterns(&mut self) -> Result<RecordBatch> {
        if self.chunks.len() != 1 {
            let whole = seal::combine(&self.chunks.iter().collect::<Vec<_>>())?;
            let filled = (0..whole.num_columns()).filter(|place| {
                let column = whole.column(*place);
                *place < 3 || column.null_count() < column.len()
            });
            let whole = whole.project(&filled.collect::<Vec<_>>()).map_err(Error::arrow("join the patterns of a segment"))?;
            self.chunks = vec![whole];
        }
        self.chunks.first().cloned().ok_or(Error::Column(schema::TIME))
    }

    pub fn clients(&self) -> Clients {
        Clients(self.clients.iter().map(|client| client.to_string().into_boxed_str()).collect())
    }

    /// The rows with all of their columns.
    pub fn unfold(&mut self, rows: &[Row], first_id: i64) -> Result<RecordBatch> {
        let (patterns, clients) = (self.patterns()?, self.clients());
        let places = UInt32Array::from_iter_values(rows.iter().map(|row| row.pattern));
        let (mut fields, mut columns) = (Vec::new(), Vec::<ArrayRef>::new());
        let tells_client = rows.iter().any(|row| row.client != NO_CLIENT);
        for field in schema::arrow_schema().fields() {
            let column: ArrayRef = match field.name().as_str() {
                schema::TIME => Arc::new(times(rows.iter().map(|row| row.time))),
                schema::EVENT_ID => Arc::new(Int64Array::from_iter_values((first_id..).take(rows.len()))),
                SRC_IP if tells_client => Arc::new(rows.iter().map(|row| clients.text(row)).collect::<StringArray>()),
                SRC_PORT if tells_client => Arc::new(rows.iter().map(Row::port).collect::<Int64Array>()),
                REFERENCE => Arc::new(references(rows.iter().map(|row| row.reference))),
                name => match patterns.column_by_name(name) {
                    Some(column) => take(column, &places, None).map_err(Error::arrow("unfold events"))?,
                    None => continue,
                },
            };
            fields.push(Arc::clone(field));
            columns.push(column);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(Error::arrow("unfold events"))
    }
}

/// The clients of a segment in writing.
pub(crate) struct Clients(Vec<Box<str>>);

impl Clients {
    pub fn text(&self, row: &Row) -> Option<&str> {
        self.0.get(row.client as usize).map(|text| &**text)
    }
}

impl Row {
    pub fn port(&self) -> Option<i64> {
        (self.client != NO_CLIENT).then_some(i64::from(self.port))
    }

    /// Equal for events of one pattern by one client.
    pub fn kind(&self) -> (u32, u32) {
        (self.pattern, self.client)
    }
}

pub(crate) fn times(times: impl Iterator<Item = i64>) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")
}

fn references(numbers: impl ExactSizeIterator<Item = u64>) -> StringArray {
    let mut builder = StringBuilder::with_capacity(numbers.len(), numbers.len() * 16);
    numbers.for_each(|number| builder.append_value(TransactionId(number).text()));
    builder.finish()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::batch::Rows;
    use model::{Class, Facts, FieldId, Gate, Station, Value};

    fn pattern(host: &str, is_told: bool) -> Arc<Pattern> {
        let mut facts = Facts::new(Gate::Dns);
        facts.set(FieldId::GateName, Value::text("dns"));
        facts.set(FieldId::DnsFqdn, Value::text(host));
        facts.set(FieldId::DnsDomains, Value::Parents(host.into()));
        facts.set(FieldId::DnsResolvedIps, Value::ips(["192.0.2.1".parse().unwrap()]));
        facts.set(FieldId::BytesOut, Value::Int(host.len() as i64));
        if host.len() > 9 {
            facts.set(FieldId::DnsCached, Value::Bool(true));
        }
        facts.reach(Station::Record);
        Arc::new(Pattern { class: Class::DnsActivity, facts, tells_client: is_told })
    }

    fn commits() -> Vec<Vec<Repeat>> {
        let patterns = [pattern("a.example", true), pattern("long.example", true), pattern("c.example", false)];
        let clients: [SocketAddr; 2] = ["192.0.2.7:53".parse().unwrap(), "[2001:db8::7]:5".parse().unwrap()];
        let repeat = |number: usize| Repeat {
            time: Timestamp(1_700_000_000_000_000 + number as i64),
            client: clients[number % 2],
            reference: TransactionId(number as u64 * 0x0123_4567_89ab),
            pattern: Arc::clone(&patterns[number % 3 * usize::from(number > 3)]),
        };
        vec![(0..3).map(repeat).collect(), (3..20).map(repeat).collect(), (20..21).map(repeat).collect()]
    }

    #[test]
    fn folded_events_come_back_with_every_fact() {
        let (mut numbers, mut book, mut next) = (Numbers::default(), Book::default(), 100);
        for commit in commits() {
            let folded = numbers.fold(&commit, next, &Redaction::default()).unwrap();
            let read = Repeats::parse(&folded.body(Vec::new()).unwrap()).unwrap();
            assert_eq!(read, folded);
            assert!(book.enter(&read));
            let batch = book.unfold(&read.rows, read.first_id).unwrap();
            let whole = commit.iter().map(Repeat::event).collect::<Vec<_>>();
            let whole = batch::encode(&whole, next, &Redaction::default()).unwrap();
            let (mut rows, mut wanted) = (Rows::new(&batch).unwrap(), Rows::new(&whole).unwrap());
            for row in 0..commit.len() {
                let (event, wanted) = (rows.event(row), wanted.event(row));
                assert!(event.facts.iter().eq(wanted.facts.iter()), "{event:?} and {wanted:?}");
                assert_eq!((event.id, event.time, event.class), (wanted.id, wanted.time, wanted.class));
            }
            next += commit.len() as i64;
        }
        assert_eq!((numbers.held.len(), numbers.clients.len()), (3, 2), "each is numbered once");
    }

    #[test]
    fn a_body_that_does_not_hold_together_is_refused() {
        let mut numbers = Numbers::default();
        let commits = commits();
        let first = numbers.fold(&commits[0], 1, &Redaction::default()).unwrap();
        let body = first.body(Vec::new()).unwrap();
        for length in 0..body.len() {
            assert!(Repeats::parse(&body[..length]).is_none(), "{length}");
        }
        assert!(Repeats::parse(&[&body[..], &[0]].concat()).is_none());
        let second = numbers.fold(&commits[1], 4, &Redaction::default()).unwrap();
        let mut book = Book::default();
        assert!(!book.enter(&second), "its patterns come after others");
        assert!(book.enter(&first) && !book.enter(&first) && book.enter(&second));
        let mut odd = numbers.fold(&commits[2], 4, &Redaction::default()).unwrap();
        odd.rows[0].pattern = 3;
        assert!(!book.enter(&odd), "no such pattern");
    }

    #[test]
    fn what_must_not_be_written_is_not_folded() {
        let redaction = |column: &str| Redaction { columns: vec![column.to_owned()], ..Redaction::default() };
        assert!(may_fold(&redaction("host")));
        assert!([SRC_IP, SRC_PORT, REFERENCE].iter().all(|column| !may_fold(&redaction(column))));
        let folded = Numbers::default().fold(&[commits()[1][2].clone()], 1, &Redaction::default()).unwrap();
        assert_eq!((folded.clients.len(), folded.rows[0].port()), (0, None), "a client that the record does not tell of");
    }
}
