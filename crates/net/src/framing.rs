//! HTTP/1 framing, stricter than the engine behind it (RFC 9112, sections 2, 3, 6 and 7). hyper normalises some requests
//! that two servers can read differently, for example one with both a content length and chunks; here such a request is
//! refused before hyper sees a byte of it. Nothing is rewritten: bytes pass unchanged or not at all.

mod fields;
mod head;
mod scanner;
mod stream;

pub use fields::{authorities_agree, check_parts, strip_hop_by_hop};
pub(crate) use scanner::Scanner;
pub use stream::{CheckedStream, FramingHandle};

/// Largest request head, RFC 9112 section 3 asks for at least 8000 bytes for the first line; browsers stay below 32 KiB
/// with many cookies, larger heads appear in attacks.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// hyper's own default limit; more is refused in both.
pub const HEADER_LINES_MAX: usize = 100;
/// A chunk's size line with its extension; extensions are all but unknown outside attacks.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Trailers are a few digests or gRPC status lines.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// The reason that a request was refused for its framing; the spelling is used in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FramingProblem {
    HeadTooLarge,
    TooManyHeaders,
    EmptyLines,
    BareLineFeed,
    BareCarriageReturn,
    ControlCharacter,
    RequestLine,
    RequestTarget,
    HttpVersion,
    HeaderName,
    ObsoleteFold,
    HostAbsent,
    HostRepeated,
    HostMalformed,
    AuthorityMismatch,
    LengthAndEncoding,
    LengthRepeated,
    LengthMalformed,
    EncodingRepeated,
    EncodingUnknown,
    EncodingInHttp10,
    ConnectWithBody,
    ChunkSize,
    ChunkEnd,
    Trailer,
}

impl FramingProblem {
    pub const fn as_str(self) -> &'static str {
        match self {
            FramingProblem::HeadTooLarge => "head_too_large",
            FramingProblem::TooManyHeaders => "too_many_headers",
            FramingProblem::EmptyLines => "empty_lines",
            FramingProblem::BareLineFeed => "bare_line_feed",
            FramingProblem::BareCarriageReturn => "bare_carriage_return",
            FramingProblem::ControlCharacter => "control_character",
            FramingProblem::RequestLine => "request_line",
            FramingProblem::RequestTarget => "request_target",
            FramingProblem::HttpVersion => "http_version",
            FramingProblem::HeaderName => "header_name",
            FramingProblem::ObsoleteFold => "obsolete_fold",
            FramingProblem::HostAbsent => "host_absent",
            FramingProblem::HostRepeated => "host_repeated",
            FramingProblem::HostMalformed => "host_malformed",
            FramingProblem::AuthorityMismatch => "authority_mismatch",
            FramingProblem::LengthAndEncoding => "length_and_encoding",
            FramingProblem::LengthRepeated => "length_repeated",
            FramingProblem::LengthMalformed => "length_malformed",
            FramingProblem::EncodingRepeated => "encoding_repeated",
            FramingProblem::EncodingUnknown => "encoding_unknown",
            FramingProblem::EncodingInHttp10 => "encoding_in_http10",
            FramingProblem::ConnectWithBody => "connect_with_body",
            FramingProblem::ChunkSize => "chunk_size",
            FramingProblem::ChunkEnd => "chunk_end",
            FramingProblem::Trailer => "trailer",
        }
    }
}

impl std::fmt::Display for FramingProblem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::error::Error for FramingProblem {}

#[cfg(test)]
mod probes;
