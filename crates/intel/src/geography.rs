//! Where addresses are, by MaxMind DB files (format specification 2.0) that the operator brings; none ships. Country is
//! ISO 3166-1 alpha-2, continent two letters, as the GeoIP2 Country and City layouts have them; the number of the
//! autonomous system is that of the GeoLite2 ASN layout, which is a file of its own. Without a file, and for an
//! address that the file does not hold, nothing is known and nothing is guessed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use maxminddb::Reader;
use serde::Deserialize;

use crate::Error;

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Geography {
    places: Option<Arc<Reader<Vec<u8>>>>,
    systems: Option<Arc<Reader<Vec<u8>>>>,
}

/// Where an address is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    pub country: Option<&'a str>,
    pub continent: Option<&'a str>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    country: Option<Country<'a>>,
    #[serde(borrow)]
    registered_country: Option<Country<'a>>,
    #[serde(borrow)]
    continent: Option<Continent<'a>>,
}

#[derive(Deserialize)]
struct System {
    autonomous_system_number: Option<u32>,
}

#[derive(Deserialize)]
struct Country<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Continent<'a> {
    code: Option<&'a str>,
}

impl Geography {
    /// Takes the bytes of a file, and refuses one whose inside does not hold together.
    pub fn open(file: Vec<u8>) -> Result<Geography, Error> {
        Ok(Geography { places: Some(reader(file)?), systems: None })
    }

    /// The same with a file of autonomous systems beside it.
    pub fn with_systems(self, file: Vec<u8>) -> Result<Geography, Error> {
        Ok(Geography { systems: Some(reader(file)?), ..self })
    }

    /// The autonomous system that announces an address.
    pub fn system(&self, ip: IpAddr) -> Option<u32> {
        let found = self.systems.as_ref()?.lookup(ip).ok()?;
        found.decode::<System>().ok().flatten()?.autonomous_system_number
    }

    /// Whether there is a file.
    pub fn is_open(&self) -> bool {
        self.places.is_some()
    }

    /// Allocates nothing.
    pub fn place(&self, ip: IpAddr) -> Place<'_> {
        let record = self
            .places
            .as_ref()
            .and_then(|reader| reader.lookup(ip).ok())
            .and_then(|found| found.decode::<Record<'_>>().ok().flatten());
        let Some(record) = record else {
            return Place::default();
        };
        let country = record.country.or(record.registered_country).and_then(|country| country.iso_code);
        let continent = record.continent.and_then(|continent| continent.code);
        Place { country: country.filter(|code| is_code(code)), continent: continent.filter(|code| is_code(code)) }
    }

    /// What the file says it is, for the record: its type and the day it was built.
    pub fn description(&self) -> Option<String> {
        let metadata = self.places.as_ref()?.metadata();
        Some(format!("{} of {}", metadata.database_type, metadata.build_epoch))
    }
}

impl fmt::Debug for Geography {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Geography").field(&self.description()).finish()
    }
}

fn reader(file: Vec<u8>) -> Result<Arc<Reader<Vec<u8>>>, Error> {
    let reader = Reader::from_source(file).map_err(Error::Geography)?;
    reader.verify().map_err(Error::Geography)?;
    Ok(Arc::new(reader))
}

fn is_code(code: &str) -> bool {
    code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One short value: its type in the high bits, its length in the low ones (section "Data Section").
    fn value(kind: u8, bytes: &[u8]) -> Vec<u8> {
        let head = if kind < 8 { vec![kind << 5 | bytes.len() as u8] } else { vec![bytes.len() as u8, kind - 7] };
        [head, bytes.to_vec()].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        value(2, text.as_bytes())
    }

    fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let body = pairs.iter().flat_map(|(key, value)| [text(key), value.clone()].concat());
        [7 << 5 | pairs.len() as u8].into_iter().chain(body).collect()
    }

    /// A file that knows 192.0.2.0/24: one node for each bit of the prefix.
    fn file() -> Vec<u8> {
        file_with(&[("continent", map(&[("code", text("AS"))])), ("country", map(&[("iso_code", text("JP"))]))])
    }

    fn file_with(record: &[(&str, Vec<u8>)]) -> Vec<u8> {
        const NODES: u32 = 24;
        let prefix = u32::from_be_bytes([192, 0, 2, 0]);
        let mut file = Vec::new();
        for bit in 0..NODES {
            let next = if bit + 1 == NODES { NODES + 16 } else { bit + 1 };
            let is_one = prefix >> (31 - bit) & 1 == 1;
            let records = if is_one { [NODES, next] } else { [next, NODES] };
            file.extend(records.iter().flat_map(|record| record.to_be_bytes()[1..].to_vec()));
        }
        file.extend([0; 16]);
        file.extend(map(record));
        file.extend(b"\xab\xcd\xefMaxMind.com");
        file.extend(map(&[
            ("binary_format_major_version", value(5, &[2])),
            ("binary_format_minor_version", value(5, &[])),
            ("build_epoch", value(9, &[1])),
            ("database_type", text("Test-Country")),
            ("description", map(&[("en", text("test"))])),
            ("ip_version", value(5, &[4])),
            ("languages", vec![0, 4]),
            ("node_count", value(6, &[NODES as u8])),
            ("record_size", value(5, &[24])),
        ]));
        file
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert!(Geography::open(Vec::new()).is_err());
        assert!(Geography::open(b"\xab\xcd\xefMaxMind.com".to_vec()).is_err());
        let whole = file();
        for length in 0..whole.len() {
            // A cut file is refused or knows less; it never panics.
            if let Ok(geography) = Geography::open(whole[..length].to_vec()) {
                geography.place("192.0.2.1".parse().expect("an address"));
            }
        }
    }

    #[test]
    fn an_address_belongs_to_the_system_of_the_second_file() {
        let systems = file_with(&[("autonomous_system_number", value(6, &[0xfd, 0xe8]))]);
        let geography = Geography::open(file()).and_then(|geography| geography.with_systems(systems)).expect("the files");
        let system = |ip: &str| geography.system(ip.parse().expect("an address"));
        assert_eq!((system("192.0.2.9"), system("192.0.3.9")), (Some(65_000), None));
        assert_eq!(geography.place("192.0.2.9".parse().expect("an address")).country, Some("JP"));
        assert_eq!(Geography::open(file()).expect("the file").system("192.0.2.9".parse().expect("an address")), None);
    }

    #[test]
    fn an_address_is_where_the_file_says() {
        let place = |geography: &Geography, ip: &str| {
            let place = geography.place(ip.parse().expect("an address"));
            (place.country.map(str::to_owned), place.continent.map(str::to_owned))
        };
        let geography = Geography::open(file()).expect("the file");
        assert_eq!(place(&geography, "192.0.2.200"), (Some("JP".to_owned()), Some("AS".to_owned())));
        assert_eq!(place(&geography, "192.0.3.1"), (None, None));
        assert_eq!(place(&geography, "2001:db8::1"), (None, None));
        assert_eq!(place(&Geography::default(), "192.0.2.200"), (None, None));
        assert_eq!(geography.description().as_deref(), Some("Test-Country of 1"));
    }
}
