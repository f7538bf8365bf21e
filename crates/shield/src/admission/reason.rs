//! Why a connection was not let in, or not kept.

/// The word stands in records and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// The source, or the operator's network around it, is banned.
    Banned,
    /// New connections a second of one source.
    SourceRate,
    /// Open connections of one source.
    SourceOpen,
    /// New connections a second of the listener.
    ListenerRate,
    /// TLS handshakes a second of one source.
    Handshakes,
    /// The table of sources is full of busy ones, and newcomers share one bucket.
    Crowded,
    /// No byte came in time.
    FirstByte,
    /// The peer sends a body more slowly than allowed.
    SlowBody,
    /// The peer takes what it asked for more slowly than allowed.
    SlowRead,
    /// The listener is nearly full, and the source holds the largest share of it with silent connections.
    Pressure,
}

impl Reason {
    pub const ALL: [Reason; 10] = [
        Reason::Banned,
        Reason::SourceRate,
        Reason::SourceOpen,
        Reason::ListenerRate,
        Reason::Handshakes,
        Reason::Crowded,
        Reason::FirstByte,
        Reason::SlowBody,
        Reason::SlowRead,
        Reason::Pressure,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Banned => "banned",
            Reason::SourceRate => "source_rate",
            Reason::SourceOpen => "source_open",
            Reason::ListenerRate => "listener_rate",
            Reason::Handshakes => "handshakes",
            Reason::Crowded => "crowded",
            Reason::FirstByte => "first_byte",
            Reason::SlowBody => "slow_body",
            Reason::SlowRead => "slow_read",
            Reason::Pressure => "pressure",
        }
    }

    /// Whether it speaks against the source, so that enough of them lead to a ban. What the whole listener suffers from
    /// does not, and a ban does not feed itself.
    pub(super) const fn counts_towards_ban(self) -> bool {
        !matches!(self, Reason::Banned | Reason::ListenerRate | Reason::Crowded | Reason::Pressure)
    }
}
