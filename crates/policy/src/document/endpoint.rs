//! The ways into the gates, and what a location says of each (ON-01, ON-05): whether its clients may come by it, from which
//! networks, and whether they must show a token.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::Transport;
use serde::{Deserialize, Serialize};

/// One way in. The first four have the names of the reference service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// Plain DNS, over UDP or TCP, of clients with an IPv4 address.
    Ipv4,
    /// The same of clients with an IPv6 address.
    Ipv6,
    Dot,
    Doh,
    /// The explicit proxy, with and without TLS towards it.
    Proxy,
    Socks,
    /// Connections that were redirected on their way.
    Transparent,
}

/// What a location says of one way in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointSettings {
    pub enabled: bool,
    /// Networks that its clients may come from; none is any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// Whether a client must show a token that is known (ON-03).
    #[serde(skip_serializing_if = "super::is_no")]
    pub require_token: bool,
}

/// What a location says of all of them; one that is not named is open to everybody.
pub type Endpoints = BTreeMap<Endpoint, EndpointSettings>;

impl Default for EndpointSettings {
    fn default() -> EndpointSettings {
        EndpointSettings { enabled: true, networks: Vec::new(), require_token: false }
    }
}

impl Endpoint {
    pub const fn as_str(self) -> &'static str {
        match self {
            Endpoint::Ipv4 => "ipv4",
            Endpoint::Ipv6 => "ipv6",
            Endpoint::Dot => "dot",
            Endpoint::Doh => "doh",
            Endpoint::Proxy => "proxy",
            Endpoint::Socks => "socks",
            Endpoint::Transparent => "transparent",
        }
    }

    /// The way that a client came. None for one that no location has a say in.
    pub fn of(transport: Transport, client: IpAddr) -> Option<Endpoint> {
        match transport {
            Transport::Udp | Transport::Tcp if client.to_canonical().is_ipv4() => Some(Endpoint::Ipv4),
            Transport::Udp | Transport::Tcp => Some(Endpoint::Ipv6),
            Transport::Dot => Some(Endpoint::Dot),
            Transport::Doh => Some(Endpoint::Doh),
            Transport::Proxy => Some(Endpoint::Proxy),
            Transport::Socks => Some(Endpoint::Socks),
            Transport::Transparent => Some(Endpoint::Transparent),
        }
    }

    /// Whether a client can show a token by this way.
    pub fn carries_token(self) -> bool {
        matches!(self, Endpoint::Doh | Endpoint::Dot)
    }
}

impl EndpointSettings {
    /// Why a client from there is refused, as the record says it.
    pub fn refusal(&self, client: IpAddr, has_token: bool) -> Option<&'static str> {
        let client = client.to_canonical();
        let is_allowed = self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&client));
        match (self.enabled, is_allowed, has_token || !self.require_token) {
            (false, ..) => Some("endpoint_off"),
            (_, false, _) => Some("endpoint_network"),
            (.., false) => Some("token_required"),
            _ => None,
        }
    }
}
