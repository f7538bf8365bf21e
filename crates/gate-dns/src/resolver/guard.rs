//! What is taken out of every answer before it is kept: private addresses of public names, by which a web page reaches
//! into the network of its reader (DNS rebinding), and hints by which a client would pass the web gate unseen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::dnssec::rdata::DNSSECRData;
use hickory_proto::rr::rdata::svcb::{Alpn, IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, SVCB};
use hickory_proto::rr::{RData, Record, RecordType};

use model::name::is_within;

use crate::reply::Reply;

/// Names that are private by their definition, and so may have private addresses: RFC 6761, RFC 6762, RFC 8375 and
/// ICANN's reservation of `internal`.
pub(super) const PRIVATE_DOMAINS: &[&str] = &["localhost", "local", "home.arpa", "internal", "test"];

/// Whether a name may have private addresses: it is private itself, has one label, or the operator allows it.
pub(super) fn may_be_private(host: &str, allowed: &[String]) -> bool {
    !host.contains('.')
        || PRIVATE_DOMAINS.iter().any(|domain| is_within(host, domain))
        || allowed.iter().any(|domain| is_within(host, domain))
}

/// Takes private addresses out, also out of the hints of service records. True where there were any.
pub(super) fn drop_private(reply: &mut Reply) -> bool {
    let before = reply.answers.len();
    reply.answers.retain(|record| record.data.ip_addr().is_none_or(|address| !is_private(address)));
    let mut dropped = reply.answers.len() < before;
    for service in reply.answers.iter_mut().filter_map(service) {
        for (_, value) in &mut service.svc_params {
            dropped |= drop_private_hints(value);
        }
        service.svc_params.retain(|(_, value)| !is_empty(value));
    }
    dropped
}

/// Takes HTTP/3 and ECH out of HTTPS records, with the signatures that no longer fit (RFC 9460 section 7, RFC 9848).
pub(super) fn strip_hints(reply: &mut Reply) {
    let mut stripped = false;
    for service in reply.answers.iter_mut().filter_map(service) {
        let before = service.svc_params.len();
        service.svc_params.retain(|(key, _)| *key != SvcParamKey::EchConfigList);
        stripped |= service.svc_params.len() < before;
        for (_, value) in &mut service.svc_params {
            if let SvcParamValue::Alpn(Alpn(protocols)) = value {
                let before = protocols.len();
                protocols.retain(|protocol| !protocol.starts_with("h3"));
                stripped |= protocols.len() < before;
            }
        }
        drop_orphans(service);
    }
    if stripped {
        reply.authentic = false;
        reply.answers.retain(|record| !signs_service(record));
    }
}

/// An empty list of protocols is not allowed on the wire, and `no-default-alpn` means nothing without one.
fn drop_orphans(service: &mut SVCB) {
    service.svc_params.retain(|(_, value)| !is_empty(value));
    let lists = service.svc_params.iter().any(|(key, _)| *key == SvcParamKey::Alpn);
    if !lists {
        service.svc_params.retain(|(key, _)| *key != SvcParamKey::NoDefaultAlpn);
    }
    let present: Vec<SvcParamKey> = service.svc_params.iter().map(|(key, _)| *key).collect();
    for (_, value) in &mut service.svc_params {
        if let SvcParamValue::Mandatory(mandatory) = value {
            mandatory.0.retain(|key| present.contains(key));
        }
    }
    service.svc_params.retain(|(_, value)| !is_empty(value));
}

fn service(record: &mut Record) -> Option<&mut SVCB> {
    match &mut record.data {
        RData::HTTPS(https) => Some(&mut https.0),
        RData::SVCB(svcb) => Some(svcb),
        _ => None,
    }
}

fn is_empty(value: &SvcParamValue) -> bool {
    match value {
        SvcParamValue::Alpn(alpn) => alpn.0.is_empty(),
        SvcParamValue::Ipv4Hint(hint) => hint.0.is_empty(),
        SvcParamValue::Ipv6Hint(hint) => hint.0.is_empty(),
        SvcParamValue::Mandatory(mandatory) => mandatory.0.is_empty(),
        _ => false,
    }
}

fn drop_private_hints(value: &mut SvcParamValue) -> bool {
    match value {
        SvcParamValue::Ipv4Hint(IpHint(hints)) => {
            let before = hints.len();
            hints.retain(|A(address)| !is_private(IpAddr::V4(*address)));
            hints.len() < before
        }
        SvcParamValue::Ipv6Hint(IpHint(hints)) => {
            let before = hints.len();
            hints.retain(|AAAA(address)| !is_private(IpAddr::V6(*address)));
            hints.len() < before
        }
        _ => false,
    }
}

fn signs_service(record: &Record) -> bool {
    let RData::DNSSEC(DNSSECRData::RRSIG(signature)) = &record.data else { return false };
    matches!(signature.input().type_covered, RecordType::HTTPS | RecordType::SVCB)
}

/// Addresses that mean this machine or a network behind it (RFC 6890).
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || first == 0
        || (first == 100 && second & 0xc0 == 64)
}

/// NAT64 (RFC 6052), 6to4 (RFC 3056) and the old compatible form carry an IPv4 address, which is what counts.
fn is_private_v6(address: Ipv6Addr) -> bool {
    let carried = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    };
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || carried.is_some_and(is_private_v4)
}

#[cfg(test)]
mod tests {
    use hickory_proto::dnssec::Algorithm;
    use hickory_proto::dnssec::rdata::{RRSIG, SigInput};
    use hickory_proto::rr::Name;
    use hickory_proto::rr::SerialNumber;
    use hickory_proto::rr::rdata::HTTPS;
    use hickory_proto::rr::rdata::svcb::EchConfigList;

    use super::*;

    fn record(data: RData) -> Record {
        Record::from_rdata(Name::from_ascii("www.example.").unwrap(), 60, data)
    }

    #[test]
    fn private_addresses_in_every_clothing_are_recognised() {
        for private in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:c0a8:1::1",
            "::127.0.0.1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["192.0.2.1", "100.128.0.1", "172.32.0.1", "2001:db8::1", "64:ff9b::c000:201", "::ffff:192.0.2.1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn private_names_are_those_defined_or_allowed() {
        let allowed = vec!["corp.example".to_owned()];
        for host in ["printer", "nas.local", "x.home.arpa", "localhost", "a.corp.example", "corp.example"] {
            assert!(may_be_private(host, &allowed), "{host}");
        }
        for host in ["example.com", "notcorp.example", "local.example.com", "evillocal.com"] {
            assert!(!may_be_private(host, &allowed), "{host}");
        }
    }

    #[test]
    fn private_addresses_and_hints_go_and_public_ones_stay() {
        let hints = |hints: &[[u8; 4]]| SvcParamValue::Ipv4Hint(IpHint(hints.iter().map(|hint| A((*hint).into())).collect()));
        let https = |params| RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)));
        let mixed = https(vec![(SvcParamKey::Ipv4Hint, hints(&[[10, 0, 0, 1], [192, 0, 2, 1]]))]);
        let only = https(vec![(SvcParamKey::Ipv4Hint, hints(&[[10, 0, 0, 1]]))]);
        let answers = [RData::A(A::new(10, 0, 0, 1)), RData::A(A::new(192, 0, 2, 1)), mixed, only];
        let mut reply = Reply::answering(answers.into_iter().map(record).collect());
        assert!(drop_private(&mut reply));
        let left: Vec<RData> = reply.answers.into_iter().map(|record| record.data).collect();
        let public = https(vec![(SvcParamKey::Ipv4Hint, hints(&[[192, 0, 2, 1]]))]);
        assert_eq!(left, [RData::A(A::new(192, 0, 2, 1)), public, https(Vec::new())]);
    }

    #[test]
    fn a_stripped_service_record_keeps_what_is_allowed_and_loses_its_signature() {
        let alpn = |protocols: &[&str]| SvcParamValue::Alpn(Alpn(protocols.iter().map(|p| (*p).to_owned()).collect()));
        let https = |params| RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)));
        let ech = (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2])));
        let full = https(vec![(SvcParamKey::Alpn, alpn(&["h3", "h3-29", "h2"])), ech]);
        let quic = https(vec![(SvcParamKey::Alpn, alpn(&["h3"])), (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn)]);
        let signature = |type_covered| {
            let input = SigInput {
                type_covered,
                algorithm: Algorithm::ED25519,
                num_labels: 2,
                original_ttl: 60,
                sig_expiration: SerialNumber::new(2),
                sig_inception: SerialNumber::new(1),
                key_tag: 1,
                signer_name: Name::root(),
            };
            RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![0; 64])))
        };
        let answers = [full, quic, signature(RecordType::HTTPS), signature(RecordType::A)].into_iter().map(record).collect();
        let mut reply = Reply { authentic: true, ..Reply::answering(answers) };
        strip_hints(&mut reply);
        let left: Vec<RData> = reply.answers.into_iter().map(|record| record.data).collect();
        assert_eq!(left, [https(vec![(SvcParamKey::Alpn, alpn(&["h2"]))]), https(Vec::new()), signature(RecordType::A)]);
        assert!(!reply.authentic);
    }
}
