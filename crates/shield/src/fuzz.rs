//! Strangers' bytes for this crate's parsers. `fuzz/` calls these functions, and so does the replay of its corpus; nothing in
//! the product does. Each states what must hold whatever the bytes are.

use crate::detect::packet::{Attribute, Packet};
use crate::sflow;
use crate::xdp::{Tables, model};

/// A datagram ends in an error or in packets that are smaller together than it is, and twice in the same.
pub fn sflow_datagram(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        let mut packets = Vec::new();
        let told = sflow::decode(bytes, |packet, weight| packets.push((packet, weight)));
        (packets, told)
    };
    let (packets, told) = read(bytes);
    // A header of its own and an IP header are what each packet costs.
    assert!(packets.len() <= bytes.len() / 40, "{} packets in {} bytes", packets.len(), bytes.len());
    assert!(packets.iter().all(|(_, weight)| *weight > 0), "a packet that stands for none");
    assert!(told.is_err() || told == Ok(packets.len()), "{told:?} of {}", packets.len());
    assert_eq!(read(bytes), (packets, told));
}

/// A frame is read or not; what is read of it fits its field, and it is decided about.
pub fn frame(bytes: &[u8]) {
    let tables = Tables {
        drop_bogus: true,
        protected: [("0.0.0.0/0", ()), ("::/0", ())].into_iter().filter_map(|(net, ())| Some((net.parse().ok()?, ()))).collect(),
        ..Tables::default()
    };
    let reason = model::judge(bytes, &tables);
    let Some(packet) = Packet::of_frame(bytes) else {
        return assert_eq!(reason, model::Reason::NotIp);
    };
    assert_eq!(Packet::of_tagged_frame(bytes), Some(packet), "a frame without a tag is read in one way");
    let fits = |attribute, most: u32| packet.get(attribute).is_none_or(|value| value <= most);
    assert!(fits(Attribute::Protocol, 255) && fits(Attribute::Ttl, 255) && fits(Attribute::Fragment, 2), "{packet:?}");
    assert!(fits(Attribute::SourcePort, 65_535) && fits(Attribute::DestinationPort, 65_535), "{packet:?}");
    assert!(packet.get(Attribute::Fragment) != Some(2) || packet.get(Attribute::SourcePort).is_none(), "{packet:?}");
    // A tag before the type changes nothing of what is read.
    let tagged = [&bytes[..12], &[0x81, 0, 0, 7], &bytes[12..]].concat();
    assert_eq!(Packet::of_tagged_frame(&tagged), Some(packet));
}
