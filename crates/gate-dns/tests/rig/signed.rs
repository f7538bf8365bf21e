//! A small signed world: a root, a domain below it and zones in every state, served as a resolver that does not validate
//! would. Names whose first label is a fault's word are served with that fault.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_proto::dnssec::crypto::Ed25519SigningKey;
use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, NSEC, NSEC3, RRSIG};
use hickory_proto::dnssec::{DigestType, DnssecSigner, Nsec3HashAlgorithm, SigningKey};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, NULL, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordSet, RecordType};
use rustls_pki_types::PrivatePkcs8KeyDer;
use time::{Duration, OffsetDateTime};
use tokio::net::UdpSocket;

use super::name;

const TTL: u32 = 300;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Denial {
    /// The zone is not signed.
    Unsigned,
    Nsec,
    Nsec3 {
        opt_out: bool,
        iterations: u16,
    },
}

struct Zone {
    name: Name,
    key: Vec<u8>,
    denial: Denial,
    records: Vec<Record>,
}

pub struct World(Vec<Zone>);

/// What a name's first label asks for.
fn fault(owner: &Name) -> String {
    owner.iter().next().map(|label| String::from_utf8_lossy(label).into_owned()).unwrap_or_default()
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), TTL, data)
}

fn address(owner: &str) -> Record {
    record(owner, RData::A(A::new(192, 0, 2, 1)))
}

fn delegation(owner: &str) -> Record {
    record(owner, RData::NS(NS(name("ns.test"))))
}

fn dname(owner: &str, target: &str) -> Record {
    let mut wire = Vec::new();
    for label in name(target).iter() {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend_from_slice(label);
    }
    wire.push(0);
    record(owner, RData::Unknown { code: RecordType::DNAME, rdata: NULL::with(wire) })
}

impl Zone {
    fn new(zone: &str, denial: Denial, records: Vec<Record>) -> Zone {
        let key = Ed25519SigningKey::generate_pkcs8().unwrap().secret_pkcs8_der().to_vec();
        let mut zone = Zone { name: name(zone), key, denial, records };
        let authority = SOA::new(name("ns.test"), name("host.test"), 1, 1, 1, 1, 30);
        zone.records.push(Record::from_rdata(zone.name.clone(), TTL, RData::SOA(authority)));
        zone.records.push(Record::from_rdata(zone.name.clone(), TTL, RData::NS(NS(name("ns.test")))));
        if denial != Denial::Unsigned {
            let key = RData::DNSSEC(DNSSECRData::DNSKEY(zone.dnskey()));
            zone.records.push(Record::from_rdata(zone.name.clone(), TTL, key));
        }
        zone
    }

    fn signing_key(&self) -> Ed25519SigningKey {
        Ed25519SigningKey::from_pkcs8(&PrivatePkcs8KeyDer::from(self.key.clone())).unwrap()
    }

    fn dnskey(&self) -> DNSKEY {
        DNSKEY::from_key(&self.signing_key().to_public_key().unwrap())
    }

    fn ds(&self) -> Record {
        let ds = DS::from_key(&self.signing_key().to_public_key().unwrap(), &self.name, DigestType::SHA256).unwrap();
        Record::from_rdata(self.name.clone(), TTL, RData::DNSSEC(DNSSECRData::DS(ds)))
    }

    fn set(&self, owner: &Name, kind: RecordType) -> Vec<Record> {
        self.records.iter().filter(|record| record.name == *owner && record.record_type() == kind).cloned().collect()
    }

    fn exists(&self, owner: &Name) -> bool {
        self.records.iter().any(|record| owner.zone_of(&record.name))
    }

    /// The set with its signature, and with the fault of its name.
    fn signed(&self, set: Vec<Record>) -> Vec<Record> {
        let owner = set[0].name.clone();
        let fault = if set[0].record_type() == RecordType::A { fault(&owner) } else { String::new() };
        if self.denial == Denial::Unsigned || fault == "unsigned" {
            return set;
        }
        let kind = set[0].record_type();
        let mut records = RecordSet::with_ttl(owner.clone(), kind, TTL);
        records.set_records(set.clone());
        let (mut key, mut since) = (self.signing_key(), OffsetDateTime::now_utc() - Duration::HOUR);
        match fault.as_str() {
            "expired" => since -= Duration::DAY * 9,
            "early" => since += Duration::DAY * 9,
            "stranger" => key = Ed25519SigningKey::from_pkcs8(&Ed25519SigningKey::generate_pkcs8().unwrap()).unwrap(),
            _ => {}
        }
        let dnskey = DNSKEY::from_key(&key.to_public_key().unwrap());
        let signer = DnssecSigner::new(dnskey, Box::new(key), self.name.clone(), std::time::Duration::from_secs(86_400));
        let signature = RRSIG::from_rrset(&records, DNSClass::IN, since, &signer).unwrap();
        let mut set = set;
        if fault == "tampered" {
            set[0].data = RData::A(A::new(203, 0, 113, 66));
        }
        set.push(Record::from_rdata(owner, TTL, RData::DNSSEC(DNSSECRData::RRSIG(signature))));
        set
    }

    fn owners(&self) -> Vec<Name> {
        let mut owners: Vec<Name> = self.records.iter().map(|record| record.name.clone()).collect();
        owners.sort();
        owners.dedup();
        owners
    }

    fn kinds(&self, owner: &Name, denial: RecordType) -> Vec<RecordType> {
        let kinds = self.records.iter().filter(|record| record.name == *owner).map(Record::record_type);
        kinds.chain([RecordType::RRSIG, denial]).collect()
    }

    /// The denial at or before this name.
    fn nsec(&self, of: &Name) -> Vec<Record> {
        let owners = self.owners();
        let place = owners.iter().rposition(|owner| owner <= of).unwrap();
        let next = owners.get(place + 1).unwrap_or(&self.name);
        let data = NSEC::new(next.clone(), self.kinds(&owners[place], RecordType::NSEC));
        self.signed(vec![Record::from_rdata(owners[place].clone(), TTL, RData::DNSSEC(DNSSECRData::NSEC(data)))])
    }

    /// The same by hash; with opt-out, delegations without DS are not in the chain.
    fn nsec3(&self, of: &Name, opt_out: bool, iterations: u16) -> Vec<Record> {
        let hash = |name: &Name| Nsec3HashAlgorithm::SHA1.hash(b"salt", name, iterations).unwrap().as_ref().to_vec();
        let is_open = |owner: &Name| opt_out && *owner != self.name && self.set(owner, RecordType::NS).len() == 1;
        let mut hashes: Vec<(Vec<u8>, Name)> =
            self.owners().into_iter().filter(|owner| !is_open(owner)).map(|owner| (hash(&owner), owner)).collect();
        hashes.sort();
        let wanted = hash(of);
        let place = hashes.iter().rposition(|(hash, _)| *hash <= wanted).unwrap_or(hashes.len() - 1);
        let make = |next: &[u8], kinds| {
            NSEC3::new(Nsec3HashAlgorithm::SHA1, opt_out, iterations, b"salt".to_vec(), next.to_vec(), kinds)
        };
        let next = &hashes[(place + 1) % hashes.len()].0;
        // The library writes a hash as a label only for the next one.
        let label = make(&hashes[place].0, Vec::new()).next_hashed_owner_name_base32().unwrap().clone();
        let owner = self.name.prepend_label(label).unwrap();
        let kinds = self.kinds(&hashes[place].1, RecordType::RRSIG);
        self.signed(vec![Record::from_rdata(owner, TTL, RData::DNSSEC(DNSSECRData::NSEC3(make(next, kinds))))])
    }

    fn denial(&self, of: &Name) -> Vec<Record> {
        match self.denial {
            Denial::Unsigned => Vec::new(),
            Denial::Nsec => self.nsec(of),
            Denial::Nsec3 { opt_out, iterations } => self.nsec3(of, opt_out, iterations),
        }
    }

    /// The longest name above that exists, and the one just below it.
    fn encloser(&self, of: &Name) -> (Name, Name) {
        let mut next = of.clone();
        while !self.exists(&next.base_name()) {
            next = next.base_name();
        }
        (next.base_name(), next)
    }

    /// Authority that proves that the name, or the type at it, is not there.
    fn absence(&self, of: &Name) -> Vec<Record> {
        let mut records = self.signed(self.set(&self.name, RecordType::SOA));
        let (encloser, next) = self.encloser(of);
        let is_open = matches!(self.denial, Denial::Nsec3 { opt_out: true, .. }) && !self.set(of, RecordType::NS).is_empty();
        let proofs = match (self.exists(of), self.denial) {
            (true, Denial::Nsec3 { .. }) if is_open => vec![self.denial(&encloser), self.denial(&next)],
            (true, _) => vec![self.denial(of)],
            (false, Denial::Nsec3 { .. }) => {
                vec![self.denial(&encloser), self.denial(&next), self.denial(&encloser.prepend_label("*").unwrap())]
            }
            (false, _) => vec![self.denial(of), self.denial(&encloser.prepend_label("*").unwrap())],
        };
        for record in proofs.into_iter().flatten().filter(|_| fault(of) != "nodenial") {
            if !records.contains(&record) {
                records.push(record);
            }
        }
        records
    }
}

impl World {
    pub fn new() -> World {
        let nsec3 = |opt_out, iterations| Denial::Nsec3 { opt_out, iterations };
        let mut signed: Vec<Record> = ["www", "tampered", "expired", "early", "unsigned", "stranger", "*.wild", "www.new"]
            .iter()
            .map(|label| address(&format!("{label}.signed.example")))
            .collect();
        signed.extend([
            record("alias.signed.example", RData::CNAME(CNAME(name("www.plain.example")))),
            record("alias2.signed.example", RData::CNAME(CNAME(name("www.hashed.example")))),
            record("lost.signed.example", RData::CNAME(CNAME(name("missing.hashed.example")))),
            record("*.elsewhere.signed.example", RData::CNAME(CNAME(name("www.signed.example")))),
            dname("old.signed.example", "new.signed.example"),
        ]);
        let plain =
            vec![address("www.plain.example"), record("forged.plain.example", RData::CNAME(CNAME(name("www.signed.example"))))];
        let mut zones = vec![
            Zone::new("signed.example", Denial::Nsec, signed),
            Zone::new("hashed.example", nsec3(true, 0), vec![address("www.hashed.example"), delegation("open.hashed.example")]),
            Zone::new("closed.example", nsec3(false, 0), vec![address("www.closed.example"), address("*.closed.example")]),
            Zone::new("many.example", nsec3(false, 51), vec![address("www.many.example")]),
            Zone::new("excess.example", nsec3(false, 501), vec![address("www.excess.example")]),
            Zone::new("broken.example", Denial::Nsec, vec![address("www.broken.example")]),
            Zone::new("stripped.example", Denial::Unsigned, vec![address("www.stripped.example")]),
            Zone::new("plain.example", Denial::Unsigned, plain),
            Zone::new("open.hashed.example", Denial::Unsigned, vec![address("www.open.hashed.example")]),
        ];
        let below = ["signed", "hashed", "closed", "many", "excess", "broken", "stripped", "plain"];
        let mut example: Vec<Record> = below.iter().map(|label| delegation(&format!("{label}.example"))).collect();
        example.extend(zones[..5].iter().map(Zone::ds));
        // Two zones whose delegation names keys that they do not have.
        for broken in ["broken.example", "stripped.example"] {
            example.push(Zone::new(broken, Denial::Nsec, Vec::new()).ds());
        }
        zones.push(Zone::new("example", Denial::Nsec, example));
        let root = vec![zones.last().unwrap().ds(), delegation("example")];
        zones.push(Zone::new(".", Denial::Nsec, root));
        World(zones)
    }

    /// The root's key as a trust anchor file.
    pub fn anchor(&self) -> String {
        format!(". 3600 IN DNSKEY {}\n", self.0.last().unwrap().dnskey())
    }

    fn zone(&self, of: &Name, kind: RecordType) -> &Zone {
        let is_above = |zone: &&Zone| zone.name.zone_of(of) && !(kind == RecordType::DS && zone.name == *of && !of.is_root());
        self.0.iter().filter(is_above).max_by_key(|zone| zone.name.num_labels()).unwrap()
    }

    fn resolve(&self, sent: &Message) -> Message {
        let asked = sent.queries[0].clone();
        let mut message = Message::new(sent.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_query(asked.clone());
        let (mut owner, kind) = (asked.name().to_lowercase(), asked.query_type());
        for _ in 0..8 {
            let zone = self.zone(&owner, kind);
            let found = zone.set(&owner, kind);
            if !found.is_empty() {
                message.add_answers(zone.signed(found));
                return message;
            }
            match self.step(zone, &owner, &mut message) {
                Some(next) => owner = next,
                None => {
                    let (encloser, _) = zone.encloser(&owner);
                    let wild = zone.set(&encloser.prepend_label("*").unwrap(), kind);
                    if !wild.is_empty() && !zone.exists(&owner) {
                        expand(zone, wild, &owner, &mut message);
                        return message;
                    }
                    if !zone.exists(&owner) && !zone.exists(&encloser.prepend_label("*").unwrap()) {
                        message.metadata.response_code = ResponseCode::NXDomain;
                    }
                    message.add_authorities(zone.absence(&owner));
                    return message;
                }
            }
        }
        message
    }

    /// Follows an alias of any kind.
    fn step(&self, zone: &Zone, owner: &Name, message: &mut Message) -> Option<Name> {
        let target = |set: &[Record]| match &set.first()?.data {
            RData::CNAME(target) => Some(target.0.clone()),
            _ => None,
        };
        let found = zone.set(owner, RecordType::CNAME);
        if let Some(next) = target(&found) {
            message.add_answers(zone.signed(found));
            return Some(next);
        }
        if zone.exists(owner) {
            return None;
        }
        let (encloser, _) = zone.encloser(owner);
        let substitute = zone.set(&encloser, RecordType::DNAME);
        if !substitute.is_empty() {
            message.add_answers(zone.signed(substitute));
            let prefix = Name::from_labels(owner.iter().take(1)).unwrap();
            let next = prefix.append_domain(&name("new.signed.example")).unwrap();
            message.add_answer(Record::from_rdata(owner.clone(), TTL, RData::CNAME(CNAME(next.clone()))));
            return Some(next);
        }
        let wild = zone.set(&encloser.prepend_label("*").ok()?, RecordType::CNAME);
        let next = target(&wild)?;
        expand(zone, wild, owner, message);
        Some(next)
    }

    pub async fn serve(self) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let notes = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((bytes, client)) = socket.recv_from(&mut buffer).await {
                let sent = Message::from_vec(&buffer[..bytes]).unwrap();
                let question = &sent.queries[0];
                notes.lock().unwrap().push(format!("{} {}", question.query_type(), question.name().to_lowercase()));
                let _ = socket.send_to(&self.resolve(&sent).to_vec().unwrap(), client).await;
            }
        });
        (address, asked)
    }
}

/// A wildcard's set under the name that it answers, with the proof that nothing closer exists.
fn expand(zone: &Zone, wild: Vec<Record>, owner: &Name, message: &mut Message) {
    for mut record in zone.signed(wild) {
        record.name = owner.clone();
        message.add_answer(record);
    }
    let (_, next) = zone.encloser(owner);
    if fault(owner) != "uncovered" {
        message.add_authorities(zone.denial(&next));
    }
}
