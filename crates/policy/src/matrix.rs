//! Which action may rest on which facts, gate by gate, as data (features.md 1.4, and DN and HT notes of 1.3). A rule that
//! could decide only after its action can no longer be carried out is refused by naming the pair.

use model::{Action, Gate, Station};

/// An action at a gate, and the stations whose facts a rule with it may read.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub gate: Gate,
    pub action: Action,
    pub stations: &'static [Station],
    /// Why later facts are of no use.
    pub reason: &'static str,
}

const fn pair(gate: Gate, action: Action, stations: &'static [Station], reason: &'static str) -> Pair {
    Pair { gate, action, stations, reason }
}

const ANSWERED: &str = "the answer is replaced before anything is resolved";
const DECRYPTED: &str = "whether to decrypt is decided from the client's hello alone";
const LOADED: &str = "a page is isolated before it is requested from the origin";
const SCANNED: &str = "whether to scan a body is decided before its bytes arrive";
const SENT: &str = "a redirect takes the place of a response that has not begun";

use Station::{Answer, Connect, Deliver, Envelope, FirstBytes, Flow, Handshake, Message, Request, RequestBody, Response};

const TO_RESPONSE: &[Station] = &[Connect, Handshake, Request, RequestBody, Response];

/// Every pair that Sekisho carries out. An action that is not here for a gate is refused there.
pub const MATRIX: &[Pair] = &[
    pair(Gate::Dns, Action::Allow, &[Connect, Station::Question, Answer], ""),
    pair(Gate::Dns, Action::Block, &[Connect, Station::Question, Answer], ""),
    pair(Gate::Dns, Action::Override, &[Connect, Station::Question], ANSWERED),
    pair(Gate::Dns, Action::SafeSearch, &[Connect, Station::Question], ANSWERED),
    pair(Gate::Dns, Action::YoutubeRestricted, &[Connect, Station::Question], ANSWERED),
    pair(Gate::Dns, Action::Resolve, &[Connect, Station::Question], "the upstream is chosen before it is asked"),
    pair(Gate::Web, Action::Allow, Gate::Web.stations(), ""),
    pair(Gate::Web, Action::Block, Gate::Web.stations(), ""),
    pair(Gate::Web, Action::Redirect, &[Connect, Handshake, Request, Response], SENT),
    pair(Gate::Web, Action::Inspect, &[Connect, Handshake], DECRYPTED),
    pair(Gate::Web, Action::DoNotInspect, &[Connect, Handshake], DECRYPTED),
    // What happens anyway, since nothing is isolated.
    pair(Gate::Web, Action::DoNotIsolate, &[Connect, Handshake, Request], LOADED),
    pair(Gate::Web, Action::Scan, TO_RESPONSE, SCANNED),
    pair(Gate::Web, Action::DoNotScan, TO_RESPONSE, SCANNED),
    pair(Gate::L4, Action::Allow, &[Connect, FirstBytes, Flow], ""),
    pair(Gate::L4, Action::Block, &[Connect, FirstBytes, Flow], ""),
    pair(Gate::Mail, Action::Allow, &[Connect, Envelope, Message, Deliver], ""),
    pair(Gate::Mail, Action::Block, &[Connect, Envelope, Message, Deliver], ""),
    pair(Gate::Mail, Action::Scan, &[Connect, Envelope], SCANNED),
    pair(Gate::Mail, Action::DoNotScan, &[Connect, Envelope], SCANNED),
    pair(Gate::Api, Action::Allow, &[Connect, Request, Response], ""),
    pair(Gate::Api, Action::Block, &[Connect, Request, Response], ""),
];

/// Actions of the reference service that no gate carries out, and why: a rule that did nothing would let pass what it was to
/// keep apart.
pub const NOT_CARRIED_OUT: &[(Action, &str)] = &[
    (Action::Isolate, "there is no remote browser to open the page in"),
    // AC-18: the reference holds a file back while it is run and watched.
    (Action::Quarantine, "there is no sandbox that runs files; every file is scanned before it is released"),
];

/// Gates that exist and ask the policy. Rules of the others compile, so that a policy can be written before its gate is
/// there, and are warned of.
pub const SERVED: &[Gate] = &[Gate::Dns, Gate::Web, Gate::L4];

/// The row of an action at a gate.
pub(crate) fn row(gate: Gate, action: Action) -> Option<&'static Pair> {
    MATRIX.iter().find(|pair| pair.gate == gate && pair.action == action)
}

/// Why no gate carries this action out, where none does.
pub(crate) fn why_not(action: Action) -> Option<&'static str> {
    NOT_CARRIED_OUT.iter().find(|(refused, _)| *refused == action).map(|(_, why)| *why)
}

/// Whether a rule with this action may read facts of this station.
pub fn permits_station(gate: Gate, action: Action, station: Station) -> bool {
    row(gate, action).is_some_and(|pair| pair.stations.contains(&station))
}

/// The station at which a gate's bytes leave for the upstream: a rule that decides later lets them go meanwhile.
pub(crate) const fn departure(gate: Gate) -> Station {
    match gate {
        Gate::Dns => Station::Question,
        Gate::Web | Gate::Api => Station::Request,
        Gate::L4 => Station::Connect,
        Gate::Mail => Station::Deliver,
    }
}
