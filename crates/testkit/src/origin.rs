//! A small web origin (RFC 9112): HTTP/1.1, one thread a connection, bodies by content length or chunks, keep-alive. It
//! answers what the test's function says and keeps what it was asked. For well-behaved clients only; peers that break
//! the protocol are in [`crate::tcp`].

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const CONNECTIONS_MAX: usize = 10_000;
/// A body that a test uploads.
const BODY_BYTES_MAX: u64 = 64 << 20;
const LINE_BYTES_MAX: u64 = 64 << 10;
const WAIT: Duration = Duration::from_secs(10);

/// A request as it arrived. Header names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What the origin answers. The content length is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A listening origin; ends when it is dropped.
pub struct Origin {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Request {
    /// The first header of that name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

impl Response {
    pub fn ok(content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        Response { status: 200, headers: vec![("content-type".to_owned(), content_type.to_owned())], body: body.into() }
    }

    pub fn status(status: u16) -> Response {
        Response { status, ..Response::default() }
    }
}

impl Origin {
    pub fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> std::io::Result<Origin> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (requests, is_over) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicBool>::default());
        let answer: Arc<dyn Fn(&Request) -> Response + Send + Sync> = Arc::new(answer);
        let thread = {
            let (requests, is_over) = (Arc::clone(&requests), Arc::clone(&is_over));
            std::thread::spawn(move || {
                for stream in listener.incoming().take(CONNECTIONS_MAX) {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                    if let Ok(stream) = stream {
                        std::thread::spawn(move || serve(stream, answer.as_ref(), &requests));
                    }
                }
            })
        };
        Ok(Origin { address, requests, is_over, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:port` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees the flag.
        let _ = TcpStream::connect_timeout(&self.address, WAIT);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers until the client leaves, asks to close or sends something that is no request.
fn serve(stream: TcpStream, answer: &(dyn Fn(&Request) -> Response + Send + Sync), requests: &Mutex<Vec<Request>>) {
    let _ = stream.set_read_timeout(Some(WAIT));
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let response = answer(&request);
        let is_last = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if write_response(&mut writer, &request, &response).is_err() || is_last {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let first = read_line(reader)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { method, target, ..Request::default() };
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let is_chunked = request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let length = request.header("content-length").and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    request.body = if is_chunked { read_chunks(reader)? } else { read_exactly(reader, length)? };
    Some(request)
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.take(LINE_BYTES_MAX).read_line(&mut line).ok().filter(|length| *length > 0)?;
    Some(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_exactly(reader: &mut impl BufRead, length: u64) -> Option<Vec<u8>> {
    if length > BODY_BYTES_MAX {
        return None;
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).ok()?;
    (body.len() as u64 == length).then_some(body)
}

fn read_chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = read_line(reader)?;
        let size = u64::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if body.len() as u64 + size > BODY_BYTES_MAX {
            return None;
        }
        body.extend(read_exactly(reader, size)?);
        read_line(reader)?;
        if size == 0 {
            return Some(body);
        }
    }
}

fn write_response(writer: &mut TcpStream, request: &Request, response: &Response) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} \r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", response.body.len()));
    writer.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        writer.write_all(&response.body)?;
    }
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(origin: &Origin, bytes: &str) -> String {
        let mut stream = TcpStream::connect(origin.address()).expect("a connection");
        stream.write_all(bytes.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    #[test]
    fn requests_are_answered_and_kept() {
        let origin = Origin::start(|request| match request.target.as_str() {
            "/" => Response::ok("text/plain", "hello"),
            _ => Response::status(404),
        })
        .expect("an origin");
        let answer = exchange(
            &origin,
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        );
        assert!(
            answer.starts_with("HTTP/1.1 200 \r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 404 \r\n"),
            "{answer}"
        );
        let requests = origin.requests();
        assert_eq!((requests[0].method.as_str(), requests[0].header("host")), ("GET", Some("a")));
        assert_eq!(requests[1].body, b"abc");
        assert!(origin.url("/x").ends_with("/x"));
    }

    #[test]
    fn what_is_no_request_ends_the_connection() {
        let origin = Origin::start(|_| Response::status(200)).expect("an origin");
        for bytes in [
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/1.1\r\nnocolon\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
        ] {
            assert_eq!(exchange(&origin, bytes), "", "{bytes:?}");
        }
        assert!(origin.requests().is_empty());
    }
}
