//! Public names that point into private networks. An attacker's page uses such an answer to reach machines behind the
//! checkpoint through the visitor's browser (DNS rebinding); a few products do it on purpose, so it is a finding and not
//! a verdict. Addresses that list look-ups answer with (`127.0.0.x` for a reversed address) are codes and not meant.

use std::net::IpAddr;

use intel::Snapshot;
use model::{Facts, FieldId, Finding, Severity, Value};

pub const NAME: &str = "answer.private";

pub fn inspect(facts: &Facts, _: &Snapshot) -> Vec<Finding> {
    let Some(Value::Ips(addresses)) = facts.get(FieldId::DnsResolvedIps) else {
        return Vec::new();
    };
    let Some(address) = addresses.iter().find(|address| is_private(**address)) else {
        return Vec::new();
    };
    match crate::text(facts, FieldId::DnsFqdn) {
        Some(host) if is_public(host) && !is_list_lookup(host) => {
            crate::finding(NAME, Severity::Medium, "a public name resolves to a private address", &address.to_string())
        }
        _ => Vec::new(),
    }
}

/// Whether the name's suffix is one that the public registers under.
fn is_public(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    intel::public_suffix(host).is_some() && !host.ends_with(".arpa")
}

/// Private, shared, link-local and loopback addresses (RFC 1918, 6598, 3927, 4193, 4291), also inside IPv6.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_private(IpAddr::V4(ip)),
            None => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        },
    }
}

/// Whether the name begins with a reversed IPv4 address.
fn is_list_lookup(host: &str) -> bool {
    let mut labels = host.split('.');
    labels.by_ref().take(4).filter(|label| label.parse::<u8>().is_ok()).count() == 4 && labels.next().is_some()
}

#[cfg(test)]
mod tests {
    use model::{Gate, Station};

    use super::*;

    fn found(host: &str, ip: &str) -> usize {
        let mut facts = Facts::new(Gate::Dns);
        facts.reach(Station::Answer);
        facts.set(FieldId::DnsFqdn, Value::text(host));
        facts.set(
            FieldId::DnsResolvedIps,
            Value::ips(["198.51.100.1".parse().expect("an address"), ip.parse().expect("an address")]),
        );
        inspect(&facts, &Snapshot::empty()).len()
    }

    #[test]
    fn private_names_and_public_addresses_are_left_alone() {
        for (host, ip) in [
            ("printer.lan-of-nobody", "10.0.0.1"),
            ("1.0.0.10.in-addr.arpa", "10.0.0.1"),
            ("www.example.com", "192.0.2.1"),
            ("www.example.com", "0.0.0.0"),
            ("2.0.0.127.zen.example.org", "127.0.0.2"),
            ("www.example.com", "2001:db8::1"),
        ] {
            assert_eq!(found(host, ip), 0, "{host} {ip}");
        }
    }

    #[test]
    fn private_addresses_of_public_names_are_found() {
        for ip in [
            "10.1.2.3",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(found("rebind.example.com", ip), 1, "{ip}");
        }
    }
}
