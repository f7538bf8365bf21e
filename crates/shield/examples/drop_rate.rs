//! One row of `bench/shield.py`: attaches the packet path to an interface, has the kernel make frames as if they had come by
//! it, and says how long they took. With `drop` a rule matches them; with `pass` they go on into the network stack, where
//! whatever the caller has set up meets them.
//!
//!     drop_rate INTERFACE DESTINATION_MAC drop|pass FRAMES

use std::net::Ipv4Addr;
use std::time::Instant;

use shield::detect::fingerprint::Fingerprint;
use shield::detect::packet::Attribute;
use shield::xdp::{PacketPath, PacketRule, Reason, Tables};

/// Different sources, so that no table sees one flow alone.
const SOURCES: u32 = 1_024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, interface, mac, verdict, frames] = &arguments[..] else {
        return Err("drop_rate INTERFACE DESTINATION_MAC drop|pass FRAMES".into());
    };
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    let index: u32 = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?.trim().parse()?;
    let each = frames.parse::<u32>()? / SOURCES;
    let network = "203.0.113.0/24".parse()?;
    let attribute = Fingerprint::of(network).with(Attribute::Protocol, 17).with(Attribute::Length, 46);
    let rule = PacketRule { fingerprint: attribute, is_enforced: verdict == "drop" };
    let mut path = PacketPath::load()?;
    path.write(&Tables {
        is_enforced: true,
        drop_bogus: true,
        sample_every: Some(128),
        protected: [(network, ())].into_iter().collect(),
        vectors: [11_211].into(),
        rules: vec![rule],
        ..Tables::default()
    })?;
    let how = path.attach(interface)?;
    let frames: Vec<Vec<u8>> = (0..SOURCES).map(|source| frame(&mac, source)).collect();
    path.inject(&frames[0], index, 10_000)?;
    let before = path.counts()?;
    let start = Instant::now();
    for frame in &frames {
        path.inject(frame, index, each)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let counts: Vec<u64> = path.counts()?.iter().zip(before).map(|(now, before)| now - before).collect();
    let (dropped, passed) = (counts[Reason::Rule as usize], counts[Reason::Passed as usize]);
    println!("{{\"mode\":\"{}\",\"seconds\":{seconds},\"dropped\":{dropped},\"passed\":{passed}}}", how.as_str());
    Ok(())
}

/// A datagram of 60 bytes on the wire, its IP checksum right.
fn frame(mac: &[u8], source: u32) -> Vec<u8> {
    let mut frame = mac.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let mut header = vec![0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0];
    // Neighbours of the interface, so that no route is missing.
    header.extend(Ipv4Addr::from(0xcb00_7180 + source % 64).octets());
    header.extend([203, 0, 113, 1]);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&folded.to_be_bytes());
    frame.extend(header);
    // The port differs with the source, so that each is a flow; no checksum (RFC 768).
    frame.extend((10_000 + source as u16).to_be_bytes());
    frame.extend([0x0f, 0xa0, 0, 26, 0, 0]);
    frame.extend([0; 18]);
    frame
}
