//! The program in the kernel: loaded, attached to interfaces, its tables kept as they are to be, its counts and samples read.
//! It is attached by the interface's driver where that can run it, else in the kernel's generic path, and says which. It
//! goes with this process: when the descriptors close, nothing is dropped any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, RingBuf};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;

use super::model::Reason;
use super::tables::{
    ALLOWED_MAX, DENIED_24_WORDS, DENIED_MAX, PROTECTED_MAX, RULE_WORDS, Tables, denied_key, mapped_length, rule_words, words,
};
use crate::Prefixes;
use crate::admission::Source;
use crate::detect::detector::RULES_MAX;

/// The compiled program; `bpf/build.sh` makes it, and a test makes it again.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../bpf/shield.bpf.o"));
const PROGRAM: &str = "shield";
/// Bytes of a sample before the frame: its length and its reason.
const SAMPLE_HEADER_BYTES: usize = 8;
const SAMPLE_FRAME_BYTES: usize = 128;
/// Frames that are made at once for measuring.
const LIVE_FRAMES: u32 = 64;
/// Samples that one look takes, so that it ends under any flood.
const SAMPLES_MAX: usize = 65_536;

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// By the driver, before a socket buffer is made.
    Native,
    /// In the kernel's generic path, at about half the speed.
    Generic,
}

impl Attached {
    pub const fn as_str(self) -> &'static str {
        match self {
            Attached::Native => "native",
            Attached::Generic => "generic",
        }
    }
}

/// Why the packet path is not there, or not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the packet program cannot be loaded (it needs Linux 5.18, CAP_BPF and CAP_NET_ADMIN)")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the packet program cannot be attached to {interface}, neither by its driver nor in the generic path")]
    Attach { interface: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the table `{table}` of the packet program cannot be read or written")]
    Table { table: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cannot listen on {address} for sFlow")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("the table `{table}` holds at most {most}")]
    Full { table: &'static str, most: usize },
}

/// One sampled packet: as much of its frame as was kept.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Bytes of the whole frame.
    pub length: u32,
    pub reason: Reason,
    pub frame: &'a [u8],
}

/// The loaded program.
pub struct PacketPath {
    ebpf: Ebpf,
    samples: RingBuf<MapData>,
    /// What its tables hold.
    written: Written,
}

#[derive(Debug, Default)]
struct Written {
    denied_24: BTreeMap<u32, u64>,
    denied: BTreeSet<Source>,
    allowed: BTreeSet<IpNet>,
    protected: BTreeSet<IpNet>,
    vectors: BTreeMap<u32, u64>,
}

fn table_error<E: std::error::Error + Send + Sync + 'static>(table: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Table { table, source: Box::new(source) }
}

impl fmt::Debug for PacketPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PacketPath").field("written", &self.written).finish_non_exhaustive()
    }
}

impl PacketPath {
    /// Loads the program. It decides about nothing before it is attached and its tables are written.
    pub fn load() -> Result<PacketPath, Error> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(|source| Error::Load(Box::new(source)))?;
        program(&mut ebpf)?.load().map_err(|source| Error::Load(Box::new(source)))?;
        let table = "samples";
        let samples = ebpf.take_map(table).ok_or_else(|| Error::Table { table, source: "the object does not have it".into() })?;
        let samples = RingBuf::try_from(samples).map_err(table_error(table))?;
        Ok(PacketPath { ebpf, samples, written: Written::default() })
    }

    /// Attaches it to an interface, by the driver where that can.
    pub fn attach(&mut self, interface: &str) -> Result<Attached, Error> {
        let failed = |source| Error::Attach { interface: interface.to_owned(), source };
        if interface.is_empty() || interface.contains('\0') {
            return Err(failed("not a name of an interface".into()));
        }
        let program = program(&mut self.ebpf)?;
        if program.attach(interface, XdpMode::Driver).is_ok() {
            return Ok(Attached::Native);
        }
        program.attach(interface, XdpMode::Skb).map(|_| Attached::Generic).map_err(|source| failed(Box::new(source)))
    }

    /// Makes the tables what they are to be: what is new is written, what is gone is removed, the settings come last.
    pub fn write(&mut self, tables: &Tables) -> Result<(), Error> {
        self.write_networks("allowed", &tables.allowed, ALLOWED_MAX)?;
        self.write_networks("protected", &tables.protected, PROTECTED_MAX)?;
        let denied_24 = bits(tables.denied_24.iter().map(|network| (network >> 6, network & 63)));
        let earlier = std::mem::replace(&mut self.written.denied_24, denied_24.clone());
        self.write_bits("denied_24", &earlier, &denied_24, DENIED_24_WORDS as u32)?;
        let vectors = bits(tables.vectors.iter().map(|port| (u32::from(*port) >> 6, u32::from(*port) & 63)));
        let earlier = std::mem::replace(&mut self.written.vectors, vectors.clone());
        self.write_bits("vectors", &earlier, &vectors, 1_024)?;
        self.write_denied(&tables.denied)?;
        let mut rules: Array<_, [u32; RULE_WORDS]> = Array::try_from(self.map("rules")?).map_err(table_error("rules"))?;
        if tables.rules.len() > RULES_MAX {
            return Err(Error::Full { table: "rules", most: RULES_MAX });
        }
        for (place, rule) in (0..).zip(&tables.rules) {
            rules.set(place, rule_words(rule), 0).map_err(table_error("rules"))?;
        }
        let mut settings: Array<_, u64> = Array::try_from(self.map("settings")?).map_err(table_error("settings"))?;
        for (place, value) in (0..).zip(tables.settings()) {
            settings.set(place, value, 0).map_err(table_error("settings"))?;
        }
        Ok(())
    }

    /// Packets by what became of them, since it was loaded.
    pub fn counts(&self) -> Result<[u64; Reason::ALL.len()], Error> {
        let mut out = [0; Reason::ALL.len()];
        self.sums("counters", &mut out)?;
        Ok(out)
    }

    /// Hits of each rule by its place, since it was loaded.
    pub fn rule_hits(&self) -> Result<[u64; RULES_MAX], Error> {
        let mut out = [0; RULES_MAX];
        self.sums("rule_hits", &mut out)?;
        Ok(out)
    }

    /// Hands over the samples that have come; says how many there were.
    pub fn samples(&mut self, mut take: impl FnMut(Sample<'_>)) -> usize {
        let mut count = 0;
        while count < SAMPLES_MAX
            && let Some(item) = self.samples.next()
        {
            count += 1;
            if let Some(sample) = sample_of(&item) {
                take(sample);
            }
        }
        count
    }

    /// Lets the kernel make so many frames like this one and hand them to the program as if they had come by the interface;
    /// what passes goes on into the network stack. For measuring (BPF_PROG_TEST_RUN with live frames, Linux 5.18).
    #[doc(hidden)]
    pub fn inject(&mut self, frame: &[u8], interface_index: u32, repeat: u32) -> Result<(), Error> {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> = [0, length, 0, interface_index, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(LIVE_FRAMES),
            ..TestRunOptions::default()
        };
        program(&mut self.ebpf)?.test_run(options).map(|_| ()).map_err(table_error("program"))
    }

    #[cfg(test)]
    pub(crate) fn program(&mut self) -> Result<&mut Xdp, Error> {
        program(&mut self.ebpf)
    }

    fn map(&mut self, table: &'static str) -> Result<&mut aya::maps::Map, Error> {
        self.ebpf.map_mut(table).ok_or_else(|| Error::Table { table, source: "the object does not have it".into() })
    }

    fn sums(&self, table: &'static str, out: &mut [u64]) -> Result<(), Error> {
        let map = self.ebpf.map(table).ok_or_else(|| Error::Table { table, source: "the object does not have it".into() })?;
        let counts: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map).map_err(table_error(table))?;
        for (place, sum) in (0..).zip(out) {
            *sum = counts.get(&place, 0).map_err(table_error(table))?.iter().sum();
        }
        Ok(())
    }

    fn write_networks(&mut self, table: &'static str, networks: &Prefixes<()>, most: usize) -> Result<(), Error> {
        if networks.len() > most {
            return Err(Error::Full { table, most });
        }
        let wanted: BTreeSet<IpNet> = networks.iter().map(|(network, ())| *network).collect();
        let held = if table == "allowed" { &mut self.written.allowed } else { &mut self.written.protected };
        let earlier = std::mem::replace(held, wanted.clone());
        let mut trie: LpmTrie<_, [u32; 4], u8> = LpmTrie::try_from(self.map(table)?).map_err(table_error(table))?;
        let key = |network: &IpNet| Key::new(mapped_length(*network), words(network.network()));
        for network in earlier.difference(&wanted) {
            trie.remove(&key(network)).map_err(table_error(table))?;
        }
        for network in wanted.difference(&earlier) {
            trie.insert(&key(network), 1, 0).map_err(table_error(table))?;
        }
        Ok(())
    }

    fn write_denied(&mut self, wanted: &BTreeSet<Source>) -> Result<(), Error> {
        let table = "denied";
        if wanted.len() > DENIED_MAX {
            return Err(Error::Full { table, most: DENIED_MAX });
        }
        let earlier = std::mem::replace(&mut self.written.denied, wanted.clone());
        let mut map: HashMap<_, u64, u8> = HashMap::try_from(self.map(table)?).map_err(table_error(table))?;
        for source in earlier.difference(wanted) {
            map.remove(&denied_key(*source)).map_err(table_error(table))?;
        }
        for source in wanted.difference(&earlier) {
            map.insert(denied_key(*source), 1, 0).map_err(table_error(table))?;
        }
        Ok(())
    }

    fn write_bits(
        &mut self,
        table: &'static str,
        earlier: &BTreeMap<u32, u64>,
        wanted: &BTreeMap<u32, u64>,
        words: u32,
    ) -> Result<(), Error> {
        let mut map: Array<_, u64> = Array::try_from(self.map(table)?).map_err(table_error(table))?;
        let gone = earlier.keys().filter(|place| !wanted.contains_key(place)).map(|place| (*place, 0));
        let changed = wanted.iter().filter(|(place, bits)| earlier.get(place) != Some(bits)).map(|(place, bits)| (*place, *bits));
        for (place, bits) in gone.chain(changed).filter(|(place, _)| *place < words) {
            map.set(place, bits, 0).map_err(table_error(table))?;
        }
        Ok(())
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let program = ebpf.program_mut(PROGRAM).ok_or_else(|| Error::Load("the object holds no program".into()))?;
    program.try_into().map_err(|source: aya::programs::ProgramError| Error::Load(Box::new(source)))
}

/// Words with bits set, by their place.
fn bits(set: impl Iterator<Item = (u32, u32)>) -> BTreeMap<u32, u64> {
    let mut words = BTreeMap::<u32, u64>::new();
    for (place, bit) in set {
        *words.entry(place).or_default() |= 1 << bit;
    }
    words
}

fn sample_of(item: &[u8]) -> Option<Sample<'_>> {
    let number = |at: usize| Some(u32::from_ne_bytes(item.get(at..at + 4)?.try_into().ok()?));
    let (length, reason) = (number(0)?, number(4)?);
    let kept = (length as usize).min(SAMPLE_FRAME_BYTES);
    let frame = item.get(SAMPLE_HEADER_BYTES..SAMPLE_HEADER_BYTES + kept)?;
    Some(Sample { length, reason: *Reason::ALL.get(reason as usize)?, frame })
}
