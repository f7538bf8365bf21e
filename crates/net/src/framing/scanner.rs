//! Where one message ends and the next begins. A pure state machine over bytes: it is shown what arrived and says how
//! much of it may pass; what it holds back it wants to see again, with more behind it.

use super::head::{self, Follows};
use super::{CHUNK_LINE_BYTES_MAX, FramingProblem, HEAD_BYTES_MAX, TRAILER_BYTES_MAX};

/// RFC 9112 section 2.2 asks to ignore an empty line before a request; old clients send one after a body.
const EMPTY_LINES_MAX: usize = 2;
/// Fifteen hexadecimal digits stay below 2^60, so that no reader overflows.
const CHUNK_SIZE_DIGITS_MAX: usize = 15;

#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    /// How much of the held bytes has been searched for the end, so that a slow sender costs no more than a fast one.
    searched: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Sized(u64),
    ChunkLine,
    ChunkBytes(u64),
    ChunkEnd,
    Trailers,
    AwaitingAnswer,
    Tunnel,
}

/// How many of the bytes shown may pass, and the problem that stands behind them, if any.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) approved: usize,
    pub(crate) problem: Option<FramingProblem>,
}

impl Scanner {
    pub(crate) fn new() -> Scanner {
        Scanner { state: State::Head, searched: 0 }
    }

    pub(crate) fn is_awaiting_answer(&self) -> bool {
        self.state == State::AwaitingAnswer
    }

    /// Whether a refusal can still be answered with a status: the engine is waiting for a head.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.state == State::Head
    }

    pub(crate) fn open_tunnel(&mut self) {
        self.state = State::Tunnel;
    }

    pub(crate) fn resume_requests(&mut self) {
        if self.state == State::AwaitingAnswer {
            self.state = State::Head;
        }
    }

    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Progress {
        let mut approved = 0;
        loop {
            let rest = bytes.get(approved..).unwrap_or_default();
            match self.step(rest) {
                Ok(0) => return Progress { approved, problem: None },
                Ok(taken) => {
                    approved += taken;
                    self.searched = 0;
                }
                Err(problem) => return Progress { approved, problem: Some(problem) },
            }
        }
    }

    /// Takes one element from the front; zero when more bytes are needed.
    fn step(&mut self, rest: &[u8]) -> Result<usize, FramingProblem> {
        match self.state {
            _ if rest.is_empty() => Ok(0),
            State::Head => self.head(rest),
            State::Sized(left) => Ok(self.counted(rest, left, State::Sized, State::Head)),
            State::ChunkLine => self.chunk_line(rest),
            State::ChunkBytes(left) => Ok(self.counted(rest, left, State::ChunkBytes, State::ChunkEnd)),
            State::ChunkEnd => self.chunk_end(rest),
            State::Trailers => self.trailers(rest),
            State::AwaitingAnswer => Ok(0),
            State::Tunnel => Ok(rest.len()),
        }
    }

    fn head(&mut self, rest: &[u8]) -> Result<usize, FramingProblem> {
        let start = leading_empty_lines(rest)?;
        let text = rest.get(start..).unwrap_or_default();
        let Some(end) = self.find_end(text, HEAD_BYTES_MAX, FramingProblem::HeadTooLarge)? else { return Ok(0) };
        let follows = head::check(text.get(..end).unwrap_or_default())?;
        self.state = match follows {
            Follows::NextHead => State::Head,
            Follows::Sized(length) => State::Sized(length),
            Follows::Chunks => State::ChunkLine,
            Follows::TunnelOrHead => State::AwaitingAnswer,
        };
        Ok(start + end)
    }

    /// The position behind the first empty line. A line feed without its carriage return ends the search at once.
    fn find_end(&mut self, text: &[u8], bytes_max: usize, too_large: FramingProblem) -> Result<Option<usize>, FramingProblem> {
        // A line end may lie across two reads.
        let from = self.searched.saturating_sub(3);
        for (offset, byte) in text.iter().enumerate().skip(from) {
            if offset >= bytes_max {
                return Err(too_large);
            }
            if *byte == b'\n' {
                let seen = text.get(..=offset).unwrap_or_default();
                if !seen.ends_with(b"\r\n") {
                    return Err(FramingProblem::BareLineFeed);
                }
                if seen.ends_with(b"\r\n\r\n") {
                    return Ok(Some(offset + 1));
                }
            }
        }
        self.searched = text.len();
        Ok(None)
    }

    fn counted(&mut self, rest: &[u8], left: u64, same: fn(u64) -> State, next: State) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left - taken as u64;
        self.state = if left == 0 { next } else { same(left) };
        taken
    }

    fn chunk_line(&mut self, rest: &[u8]) -> Result<usize, FramingProblem> {
        let window = rest.get(..CHUNK_LINE_BYTES_MAX).unwrap_or(rest);
        let Some(feed) = window.iter().position(|byte| *byte == b'\n') else {
            return if rest.len() >= CHUNK_LINE_BYTES_MAX { Err(FramingProblem::ChunkSize) } else { Ok(0) };
        };
        let line = window.get(..feed).and_then(|line| line.strip_suffix(b"\r")).ok_or(FramingProblem::BareLineFeed)?;
        let size = chunk_size(line)?;
        self.state = if size == 0 { State::Trailers } else { State::ChunkBytes(size) };
        Ok(feed + 1)
    }

    fn chunk_end(&mut self, rest: &[u8]) -> Result<usize, FramingProblem> {
        match rest {
            [b'\r', b'\n', ..] => {
                self.state = State::ChunkLine;
                Ok(2)
            }
            [b'\r'] => Ok(0),
            _ => Err(FramingProblem::ChunkEnd),
        }
    }

    fn trailers(&mut self, rest: &[u8]) -> Result<usize, FramingProblem> {
        if rest.starts_with(b"\r\n") {
            self.state = State::Head;
            return Ok(2);
        }
        let Some(end) = self.find_end(rest, TRAILER_BYTES_MAX, FramingProblem::Trailer)? else { return Ok(0) };
        head::check_trailers(rest.get(..end.saturating_sub(4)).unwrap_or_default())?;
        self.state = State::Head;
        Ok(end)
    }
}

fn leading_empty_lines(rest: &[u8]) -> Result<usize, FramingProblem> {
    let lines = rest.chunks(2).take_while(|pair| *pair == b"\r\n").count();
    if lines > EMPTY_LINES_MAX { Err(FramingProblem::EmptyLines) } else { Ok(lines * 2) }
}

/// RFC 9112 section 7.1; whitespace around the size is refused, servers differ on it.
fn chunk_size(line: &[u8]) -> Result<u64, FramingProblem> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let (digits, extension) = line.split_at(end);
    let is_sound = (1..=CHUNK_SIZE_DIGITS_MAX).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_hexdigit)
        && extension.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_sound);
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(FramingProblem::ChunkSize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn whole(bytes: &[u8]) -> Progress {
        Scanner::new().advance(bytes)
    }

    #[test]
    fn a_message_passes_whole_and_the_next_begins_behind_it() {
        let sized = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nDigest: z\r\n\r\n";
        let wire = [sized.as_slice(), chunked, HEAD, b"\r\n", HEAD].concat();
        assert_eq!(whole(&wire), Progress { approved: wire.len(), problem: None });
    }

    #[test]
    fn nothing_of_a_head_passes_before_its_end() {
        for end in 0..HEAD.len() {
            let part = HEAD.get(..end).unwrap_or_default();
            assert_eq!(whole(part), Progress { approved: 0, problem: None });
        }
    }

    #[test]
    fn every_split_of_the_wire_comes_to_the_same_reading() {
        let wire = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        let expected = whole(wire);
        assert_eq!(expected.problem, Some(FramingProblem::HostRepeated));
        for size in 1..wire.len() {
            let (mut scanner, mut held, mut passed, mut problem) = (Scanner::new(), Vec::new(), 0, None);
            for part in wire.chunks(size) {
                held.extend_from_slice(part);
                let progress = scanner.advance(&held);
                held.drain(..progress.approved);
                passed += progress.approved;
                problem = problem.or(progress.problem);
            }
            assert_eq!((passed, problem), (expected.approved, expected.problem), "{size}");
        }
    }

    #[test]
    fn bytes_behind_a_connect_wait_for_its_answer() {
        let connect = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
        let wire = [connect.as_slice(), HEAD].concat();
        let mut scanner = Scanner::new();
        assert_eq!(scanner.advance(&wire).approved, connect.len());
        assert!(scanner.is_awaiting_answer());
        scanner.resume_requests();
        assert_eq!(scanner.advance(b"\0"), Progress { approved: 0, problem: None });
        assert_eq!(scanner.advance(b"\0\n").problem, Some(FramingProblem::BareLineFeed));
        scanner.open_tunnel();
        assert_eq!(scanner.advance(b"\0\n").approved, 2);
    }

    #[test]
    fn bounds_are_reached_without_an_end() {
        assert_eq!(whole(&vec![b'a'; HEAD_BYTES_MAX + 1]).problem, Some(FramingProblem::HeadTooLarge));
        assert_eq!(whole(b"\r\n\r\n\r\n").problem, Some(FramingProblem::EmptyLines));
        let many = "X: y\r\n".repeat(super::super::HEADER_LINES_MAX);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
        assert_eq!(whole(many.as_bytes()).problem, Some(FramingProblem::TooManyHeaders));
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let line = [chunked.clone(), vec![b'1'; CHUNK_LINE_BYTES_MAX]].concat();
        assert_eq!(whole(&line).problem, Some(FramingProblem::ChunkSize));
        let trailers = [chunked, b"0\r\n".to_vec(), vec![b'a'; TRAILER_BYTES_MAX + 1]].concat();
        assert_eq!(whole(&trailers).problem, Some(FramingProblem::Trailer));
    }
}
