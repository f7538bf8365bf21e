//! Raw probes against hyper behind the checked stream: what may not pass is never seen by the handler.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{CheckedStream, FramingProblem};

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Requests whose body the handler has read to its end.
    seen: Vec<String>,
    statuses: Vec<u16>,
    problem: Option<FramingProblem>,
}

/// Sends the bytes, closes the sending side, and reports what both ends saw.
async fn probe(wire: &[u8]) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (stream, handle) = CheckedStream::new(stream);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let (seen, handle) = (Arc::clone(&seen), handle.clone());
        async move {
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (seen, handle) = (Arc::clone(&seen), handle.clone());
                async move {
                    let line = format!("{} {}", request.method(), request.uri());
                    handle.resume_requests();
                    if request.into_body().collect().await.is_ok() {
                        seen.lock().unwrap().push(line);
                    }
                    Ok::<_, Infallible>(hyper::Response::new(Empty::<bytes::Bytes>::new()))
                }
            });
            let _ =
                hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service).await;
        }
    };
    let peer = async {
        client.write_all(wire).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is an outcome too.
        let _ = client.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let both = async { tokio::join!(server, peer).1 };
    let answer = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    let statuses = answer.split("HTTP/1.").skip(1).filter_map(|part| part.get(2..5)?.parse().ok()).collect();
    let seen = seen.lock().unwrap().clone();
    Outcome { seen, statuses, problem: handle.problem() }
}

const REFUSED_HEADS: &[(&str, &str, FramingProblem)] = &[
    (
        "CL then TE",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        FramingProblem::LengthAndEncoding,
    ),
    (
        "TE then CL",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        FramingProblem::LengthAndEncoding,
    ),
    (
        "differing lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        FramingProblem::LengthRepeated,
    ),
    (
        "equal lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        FramingProblem::LengthRepeated,
    ),
    ("length list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", FramingProblem::LengthMalformed),
    ("length with plus", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", FramingProblem::LengthMalformed),
    ("negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", FramingProblem::LengthMalformed),
    ("hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", FramingProblem::LengthMalformed),
    ("empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nabc", FramingProblem::LengthMalformed),
    (
        "length overflow",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551619\r\n\r\nabc",
        FramingProblem::LengthMalformed,
    ),
    ("xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", FramingProblem::EncodingUnknown),
    (
        "chunked, identity",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        FramingProblem::EncodingUnknown,
    ),
    (
        "gzip, chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        FramingProblem::EncodingUnknown,
    ),
    (
        "space before colon",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        FramingProblem::HeaderName,
    ),
    ("TE in 1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", FramingProblem::EncodingInHttp10),
    (
        "TE with vertical tab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        FramingProblem::ControlCharacter,
    ),
    (
        "TE twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        FramingProblem::EncodingRepeated,
    ),
    (
        "TE: chunked, chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        FramingProblem::EncodingUnknown,
    ),
    ("folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", FramingProblem::ObsoleteFold),
    ("folded first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", FramingProblem::ObsoleteFold),
    ("bare CR", "GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: w\r\n\r\n", FramingProblem::BareCarriageReturn),
    ("NUL", "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", FramingProblem::ControlCharacter),
    ("bare LF lines", "GET / HTTP/1.1\nHost: a\n\n", FramingProblem::BareLineFeed),
    ("one bare LF", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", FramingProblem::BareLineFeed),
    ("Host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", FramingProblem::HostRepeated),
    ("Host absent", "GET / HTTP/1.1\r\nX: y\r\n\r\n", FramingProblem::HostAbsent),
    ("Host empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", FramingProblem::HostMalformed),
    ("Host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", FramingProblem::HostMalformed),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", FramingProblem::HttpVersion),
    ("HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FramingProblem::RequestTarget),
    ("HTTP/0.9", "GET /\r\n\r\n", FramingProblem::RequestLine),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", FramingProblem::RequestLine),
    ("space in target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", FramingProblem::RequestLine),
    ("field without colon", "GET / HTTP/1.1\r\nHost: a\r\nrubbish\r\n\r\n", FramingProblem::HeaderName),
    (
        "CONNECT with a body",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 3\r\n\r\nabc",
        FramingProblem::ConnectWithBody,
    ),
    ("CONNECT with a path", "CONNECT a/b:443 HTTP/1.1\r\nHost: a\r\n\r\n", FramingProblem::RequestTarget),
];

const CHUNKED_HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

const REFUSED_CHUNKS: &[(&str, &str, FramingProblem)] = &[
    ("no digits", ";\r\n\r\n0\r\n\r\n", FramingProblem::ChunkSize),
    ("minus", "-1\r\na\r\n0\r\n\r\n", FramingProblem::ChunkSize),
    ("0x", "0x1\r\na\r\n0\r\n\r\n", FramingProblem::ChunkSize),
    ("space before size", " 1\r\na\r\n0\r\n\r\n", FramingProblem::ChunkSize),
    ("space after size", "1 \r\na\r\n0\r\n\r\n", FramingProblem::ChunkSize),
    ("overflow", "10000000000000001\r\na\r\n0\r\n\r\n", FramingProblem::ChunkSize),
    ("LF in extension", "1;x\ny\r\na\r\n0\r\n\r\n", FramingProblem::BareLineFeed),
    ("bare LF after size", "1\na\r\n0\r\n\r\n", FramingProblem::BareLineFeed),
    ("bare LF after data", "1\r\na\n0\r\n\r\n", FramingProblem::ChunkEnd),
    ("too much data", "1\r\nab\r\n0\r\n\r\n", FramingProblem::ChunkEnd),
    ("length in trailer", "0\r\nContent-Length: 5\r\n\r\n", FramingProblem::Trailer),
    ("bare LF trailer", "0\r\nX: y\n\r\n", FramingProblem::BareLineFeed),
];

#[tokio::test]
async fn doubtful_heads_get_400_and_are_never_seen() {
    for (name, wire, problem) in REFUSED_HEADS {
        let outcome = probe(wire.as_bytes()).await;
        assert_eq!(outcome, Outcome { seen: vec![], statuses: vec![400], problem: Some(*problem) }, "{name}");
    }
}

#[tokio::test]
async fn doubtful_chunks_never_complete_a_request() {
    for (name, body, problem) in REFUSED_CHUNKS {
        let outcome = probe(format!("{CHUNKED_HEAD}{body}").as_bytes()).await;
        assert_eq!((outcome.seen, outcome.problem), (vec![], Some(*problem)), "{name}");
    }
}

#[tokio::test]
async fn sound_requests_pass_and_keep_their_order() {
    let wire = format!(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n{}3\r\nabc\r\n0\r\n\r\nGET http://a/3 HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        CHUNKED_HEAD.replace("POST /", "POST /2")
    );
    let outcome = probe(wire.as_bytes()).await;
    assert_eq!(outcome.seen, ["GET /1", "POST /2", "GET http://a/3", "OPTIONS *"]);
    assert_eq!((outcome.statuses, outcome.problem), (vec![200; 4], None));
    let old = probe(b"GET /old HTTP/1.0\r\n\r\n").await;
    assert_eq!((old.seen, old.statuses), (vec!["GET /old".to_owned()], vec![200]));
}

#[tokio::test]
async fn a_smuggled_request_behind_a_good_one_is_answered_in_its_turn() {
    let wire = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let outcome = probe(wire).await;
    assert_eq!(outcome.seen, ["GET /1"]);
    assert_eq!(outcome.statuses, [200, 400]);
}

#[tokio::test]
async fn what_follows_an_upgrade_is_pipelining_unless_it_opens_a_tunnel() {
    let wire =
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    let outcome = probe(wire).await;
    assert_eq!(outcome.seen, ["GET /ws", "GET /next"]);
    let wire = b"GET /foo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let outcome = probe(wire).await;
    assert_eq!((outcome.seen, outcome.statuses), (vec!["GET /foo".to_owned()], vec![200, 400]));
}

#[tokio::test]
async fn a_tunnel_passes_everything_behind_its_head() {
    let (mut client, server) = tokio::io::duplex(1024);
    let (mut stream, handle) = CheckedStream::new(server);
    let head = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    client.write_all(&[head.as_slice(), b"\0early"].concat()).await.unwrap();
    let mut received = vec![0; head.len()];
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(received, head);
    let mut early = [0; 6];
    let waiting = tokio::time::timeout(Duration::from_millis(20), stream.read_exact(&mut early)).await;
    assert!(waiting.is_err());
    handle.open_tunnel();
    stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"\0early");
    assert_eq!(handle.problem(), None);
}

#[tokio::test]
async fn an_answer_to_an_earlier_request_does_not_count_for_a_later_connect() {
    let (mut client, server) = tokio::io::duplex(1024);
    let (mut stream, handle) = CheckedStream::new(server);
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let connect = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    client.write_all(get).await.unwrap();
    let mut received = vec![0; get.len()];
    stream.read_exact(&mut received).await.unwrap();
    handle.resume_requests();
    client.write_all(&[connect.as_slice(), b"\0"].concat()).await.unwrap();
    let mut received = vec![0; connect.len()];
    stream.read_exact(&mut received).await.unwrap();
    handle.open_tunnel();
    assert_eq!(stream.read_u8().await.unwrap(), 0);
}
