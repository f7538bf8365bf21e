//! Permits and refusals: what a gate holds in its hand after it has asked. A permit is consumed by value by the one act
//! that it allows; it can be neither made outside this crate, copied, nor used twice.
//!
//! ```compile_fail,E0451
//! // Forging: the fields are private.
//! let permit = policy::Permit { destination: model::Destination::Client, obligations: vec![], station: model::Station::Request };
//! ```
//! ```compile_fail,E0599
//! // Copying: a permit has no `clone`.
//! fn twice(permit: policy::Permit) { let second = permit.clone(); }
//! ```
//! ```compile_fail,E0382
//! // Using one twice: the first use has consumed it.
//! fn twice(permit: policy::Permit) { permit.into_parts(); permit.into_parts(); }
//! ```
//! ```compile_fail,E0624
//! // Minting without a decision: the constructor is this crate's own.
//! let permit = policy::Permit::mint(model::Destination::Client, vec![], model::Station::Request);
//! ```

use std::sync::Arc;

use model::{Action, Destination, Obligation, RuleName, Station};

/// Leave to do one act at one station: open an upstream, answer a name, release a body.
#[must_use = "a permit that is not used lets nothing pass"]
#[derive(Debug)]
pub struct Permit {
    destination: Destination,
    obligations: Vec<Obligation>,
    station: Station,
}

/// The answer no. It says which rule, what the peer may be told, and how it is to be shown.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub action: Action,
    pub rule: Option<RuleName>,
    /// One line for the person who was refused; from the rule, or the default's own.
    pub reason: Arc<str>,
    /// Target of a redirect, where the rule has one.
    pub location: Option<Arc<str>>,
    /// Whether a DNS refusal is answered with the block page's address (GW-022).
    pub shows_page: bool,
    /// What the redirect's target is told of who asked for what.
    pub context: Context,
}

/// What the target of a redirect is told (GW-152, GW-156).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Context {
    #[default]
    None,
    /// A token that only this installation can open.
    Sealed,
    /// Names, addresses and the URL, readable by the target and by everyone who sees its logs.
    DangerPlain,
}

impl Permit {
    pub(crate) fn mint(destination: Destination, obligations: Vec<Obligation>, station: Station) -> Permit {
        Permit { destination, obligations, station }
    }

    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    pub fn obligations(&self) -> &[Obligation] {
        &self.obligations
    }

    pub fn station(&self) -> Station {
        self.station
    }

    /// Uses the permit up.
    pub fn into_parts(self) -> (Destination, Vec<Obligation>) {
        (self.destination, self.obligations)
    }
}
