//! What an upstream is told of where a client is, so that it gives a near address: the client subnet option (RFC 7871).
//! It goes out only where a location says so, never for a client that declines it, and never with a whole address.

use std::net::IpAddr;

use checkpoint::Ecs;
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use ipnet::IpNet;

use super::guard::is_private;

/// The most that is told of a client's own address (RFC 7871 section 11.1).
const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 56;

/// A subnet that stands in a question, and so in the key of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subnet(IpNet);

impl Subnet {
    /// None where there is nothing to tell: the setting is off, or the client's address is not a public one.
    pub(crate) fn of(ecs: Ecs, client: IpAddr) -> Option<Subnet> {
        let client = client.to_canonical();
        match ecs {
            Ecs::Off => None,
            Ecs::Fixed(subnet) => Some(Subnet(subnet)),
            Ecs::Client if is_private(client) => None,
            Ecs::Client => {
                let prefix = if client.is_ipv4() { PREFIX_V4 } else { PREFIX_V6 };
                IpNet::new(client, prefix).ok().map(|subnet| Subnet(subnet.trunc()))
            }
        }
    }

    /// The scope is the upstream's to say, and zero in a question (RFC 7871 section 6).
    pub(super) fn option(self) -> EdnsOption {
        EdnsOption::Subnet(ClientSubnet::new(self.0.network(), self.0.prefix_len(), 0))
    }
}

/// Whether an answer is for the subnet that was sent; one without the option is for all. Another subnet is somebody's
/// guess (RFC 7871 section 7.3).
pub(super) fn agrees(sent: Option<Subnet>, received: &Message) -> bool {
    match received.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet)) {
        None => true,
        Some(EdnsOption::Subnet(told)) => {
            sent.is_some_and(|Subnet(subnet)| told.addr() == subnet.network() && told.source_prefix() == subnet.prefix_len())
        }
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Edns;

    use super::*;

    fn told(ecs: &str, client: &str) -> Option<String> {
        Subnet::of(ecs.to_owned().try_into().unwrap(), client.parse().unwrap()).map(|Subnet(subnet)| subnet.to_string())
    }

    /// ON-01 `ecs_support`; RFC 7871 sections 11.1 and 10 (private addresses are never sent).
    #[test]
    fn a_client_is_told_of_by_its_subnet_only_and_only_where_it_is_public() {
        assert_eq!(told("off", "198.51.100.77"), None);
        assert_eq!(told("client", "198.51.100.77").as_deref(), Some("198.51.100.0/24"));
        assert_eq!(told("client", "::ffff:198.51.100.77").as_deref(), Some("198.51.100.0/24"));
        assert_eq!(told("client", "2001:db8:1:2345::1").as_deref(), Some("2001:db8:1:2300::/56"));
        for private in ["10.1.2.3", "127.0.0.1", "192.168.1.1", "fd00::1", "::1", "100.64.0.1"] {
            assert_eq!(told("client", private), None, "{private}");
        }
        assert_eq!(told("203.0.113.9/24", "10.1.2.3").as_deref(), Some("203.0.113.0/24"));
    }

    #[test]
    fn an_answer_for_another_subnet_is_not_taken() {
        let answer = |address: &str, prefix, scope| {
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(address.parse().unwrap(), prefix, scope)));
            let mut message = Message::query();
            message.set_edns(edns);
            message
        };
        let sent = Subnet::of(Ecs::Client, "198.51.100.77".parse().unwrap());
        assert!(agrees(sent, &Message::query()));
        assert!(agrees(None, &Message::query()));
        assert!(agrees(sent, &answer("198.51.100.0", 24, 20)));
        assert!(!agrees(sent, &answer("198.51.101.0", 24, 24)));
        assert!(!agrees(sent, &answer("198.51.100.0", 23, 24)));
        assert!(!agrees(None, &answer("198.51.100.0", 24, 24)));
    }
}
