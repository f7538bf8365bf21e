//! Detection: what of sampled traffic is an attack, and the narrowest rule that drops it. All of it is mind: packets,
//! counts and the time go in, findings come out; nothing here waits, draws numbers or talks to anyone.
//!
//! A window's rate of a protected network is held against its own past and a floor ([`baseline`]). What is over is held
//! against samples of ordinary traffic, and a set of header values that tells the two apart becomes a rule with an end
//! ([`synthesis`], [`detector`]). A crowd of ordinary clients looks like ordinary traffic, so that no rule comes of it.

pub mod baseline;
pub mod detector;
pub mod fingerprint;
pub mod heavy;
pub mod packet;
pub mod synthesis;

#[cfg(test)]
mod mixes;
#[cfg(test)]
mod tests;
