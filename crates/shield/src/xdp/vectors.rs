//! UDP services that answer more than they are asked, by the port that their answers come from (DD-08; US-CERT alert
//! TA14-017A and its successors). A host that asks such a service across the protected line would lose the answers, so that
//! only those are dropped at once that nobody asks over the Internet; the others are for detection to find.

/// One amplifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    pub name: &'static str,
    pub port: u16,
    /// Whether answers from it are dropped unless the operator says otherwise.
    pub is_default: bool,
}

const fn vector(name: &'static str, port: u16, is_default: bool) -> Vector {
    Vector { name, port, is_default }
}

/// All that are known by name.
pub const VECTORS: &[Vector] = &[
    vector("qotd", 17, true),
    vector("chargen", 19, true),
    vector("dns", 53, false),
    vector("tftp", 69, true),
    vector("portmap", 111, true),
    vector("ntp", 123, false),
    vector("netbios", 137, true),
    vector("snmp", 161, true),
    vector("cldap", 389, true),
    vector("rip", 520, true),
    vector("mssql", 1434, true),
    vector("ssdp", 1900, true),
    vector("sip", 5060, false),
    vector("mdns", 5353, true),
    vector("teamspeak3", 9987, false),
    vector("ubiquiti", 10_001, true),
    vector("memcached", 11_211, true),
    vector("vxworks", 17_185, true),
    vector("lantronix", 30_718, true),
    vector("jenkins", 33_848, true),
];

/// The vector of this name.
pub fn named(name: &str) -> Option<Vector> {
    VECTORS.iter().copied().find(|vector| vector.name == name)
}

/// What is dropped unless the operator says otherwise.
pub fn defaults() -> impl Iterator<Item = Vector> {
    VECTORS.iter().copied().filter(|vector| vector.is_default)
}
