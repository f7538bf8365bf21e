//! What can be wrong with what an operator asks of the shield.

/// Each message names the setting or the request, and what it may be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("shield.{name}: {reason}")]
    Setting { name: &'static str, reason: &'static str },
    #[error("{0} bans are in force, which is the most; lift some with `sekisho shield unban`")]
    TooManyBans(usize),
    #[error("a ban of {0} would shut out half of all addresses or more; name a network of at least /2")]
    BanTooWide(ipnet::IpNet),
}
