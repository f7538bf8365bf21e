//! TCP services: stations, origins, endings and their events, with real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails should stop")]

mod rig;

use std::time::Duration;

use model::FieldId;
use rig::{app, echo, rig, say, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ALL: &str = "";

/// SP-50: one row at the end, with every column that a plain flow has.
#[tokio::test]
async fn sp_50_a_flow_leaves_one_row() {
    let origin = echo(b"").await;
    let rig = rig(ALL, &format!("site = \"tokyo\"\n{}", app(origin, ""))).await;
    let heard = say(rig.connect().await, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(heard, b"GET / HTTP/1.1\r\n\r\n");
    let event = rig.event().await;
    for (field, expected) in [
        (FieldId::L4App, "svc"),
        (FieldId::SourceIp, "127.0.0.1"),
        (FieldId::Protocol, "tcp"),
        (FieldId::L4EdgePort, &rig.address.port().to_string()),
        (FieldId::DestinationIp, "127.0.0.1"),
        (FieldId::DestinationPort, &origin.port().to_string()),
        (FieldId::L4OriginProtocol, "tcp"),
        (FieldId::L4ProxyProtocol, "off"),
        (FieldId::OriginTlsMode, "off"),
        (FieldId::ClientTlsStatus, "UNKNOWN"),
        (FieldId::DetectedProtocol, "http"),
        (FieldId::L4Event, "disconnect"),
        (FieldId::L4Status, "200"),
        (FieldId::L4IpFirewall, "true"),
        (FieldId::L4MatchedIpFirewall, "UNKNOWN"),
        (FieldId::BytesOut, "18"),
        (FieldId::BytesIn, "18"),
        (FieldId::VerdictOutcome, "allowed"),
        (FieldId::Site, "tokyo"),
    ] {
        assert_eq!(text(&event, field), expected, "{field:?}");
    }
    assert!(event.facts.get(FieldId::SourcePort).is_some() && event.facts.get(FieldId::EndTime).is_some());
    assert!(rig.board.is_empty());
}

/// Station `connect`: a refused client is reset, and the origin never hears of it.
#[tokio::test]
async fn a_refused_client_reaches_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let policy = "[[rule]]\nname = \"no loopback\"\ngate = \"l4\"\naction = \"block\"\nwhen = 'net.src.ip in {127.0.0.0/8}'\n";
    let rig = rig(policy, &app(listener.local_addr().unwrap(), "")).await;
    let heard = say(rig.connect().await, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(heard.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    let event = rig.event().await;
    for (field, expected) in [
        (FieldId::L4Event, "clientFiltered"),
        (FieldId::L4Status, "403"),
        (FieldId::L4MatchedIpFirewall, "BLOCK_IP"),
        (FieldId::VerdictRule, "no loopback"),
        (FieldId::VerdictOutcome, "blocked"),
        (FieldId::BytesOut, "0"),
    ] {
        assert_eq!(text(&event, field), expected);
    }
    let nobody = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(nobody.is_err(), "the origin was opened");
}

/// NW-06: what the client speaks is a fact, and a port is no way in for another protocol.
#[tokio::test]
async fn nw_06_a_wrong_protocol_is_refused_before_the_origin_hears_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = rig(ALL, &app(listener.local_addr().unwrap(), "expects = [\"http\", \"tls\"]")).await;
    assert!(say(rig.connect().await, b"SSH-2.0-OpenSSH_9.2\r\n").await.is_err());
    let event = rig.event().await;
    assert_eq!(text(&event, FieldId::DetectedProtocol), "ssh");
    assert_eq!(text(&event, FieldId::VerdictRuleId), "builtin.protocol");
    assert_eq!(text(&event, FieldId::L4Status), "403");
    assert!(tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_err());
}

/// A rule on the first bytes: the connection waits for them, and is judged by them.
#[tokio::test]
async fn a_rule_reads_the_first_bytes() {
    let origin = echo(b"").await;
    let policy = "[[rule]]\nname = \"no ssh\"\ngate = \"l4\"\naction = \"block\"\nwhen = 'net.protocol.detection == \"ssh\"'\n";
    let rig = rig(policy, &app(origin, "")).await;
    assert!(say(rig.connect().await, b"SSH-2.0-x\r\n").await.is_err());
    assert_eq!(say(rig.connect().await, b"hello\r\n").await.unwrap(), b"hello\r\n");
    let events = rig.events(2).await;
    assert_eq!(text(&events[0], FieldId::VerdictRule), "no ssh");
    assert_eq!(text(&events[1], FieldId::DetectedProtocol), "unknown");
}

/// A server that speaks first is heard, and what the client then says is judged before it passes on.
#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_the_answer_judged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let policy = "[[rule]]\nname = \"no smtp\"\ngate = \"l4\"\naction = \"block\"\nwhen = 'net.protocol.detection == \"smtp\"'\n";
    let rig = rig(policy, &app(address, "")).await;
    let mut client = rig.connect().await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
    let mut greeting = [0; 24];
    client.read_exact(&mut greeting).await.unwrap();
    client.write_all(b"EHLO me\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = server.read_to_end(&mut heard).await;
    assert_eq!(heard, b"", "the refused words reached the origin");
    assert_eq!(text(&rig.event().await, FieldId::VerdictRule), "no smtp");
}

#[tokio::test]
async fn a_greeting_tells_the_protocol_of_a_silent_kind_of_client() {
    let origin = echo(b"220 ProFTPD\r\n").await;
    let rig = rig(ALL, &app(origin, "expects = [\"ftp\"]")).await;
    let mut client = rig.connect().await;
    let mut greeting = [0; 13];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(say(client, b"FEAT\r\n").await.unwrap(), b"FEAT\r\n");
    let event = rig.event().await;
    assert_eq!((text(&event, FieldId::DetectedProtocol), text(&event, FieldId::L4Status)), ("ftp".into(), "200".into()));
}

/// SP-03: an origin in the middle of the list fails, and the next is taken.
#[tokio::test]
async fn sp_03_a_dead_origin_is_passed_over() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let origin = echo(b"").await;
    let more = format!("balance = \"failover\"\n[[app.origin]]\nurl = \"tcp://{origin}\"");
    let rig = rig(ALL, &app(dead, &more)).await;
    for _ in 0..3 {
        assert_eq!(say(rig.connect().await, b"x").await.unwrap(), b"x");
    }
    let events = rig.events(3).await;
    assert!(events.iter().all(|event| text(event, FieldId::DestinationPort) == origin.port().to_string()));
    let origins = &rig.board.apps()[0].origins;
    assert_eq!((origins[0].healthy, origins[1].healthy), (false, true));
}

/// SP-51: 521 where nobody listens, 444 where the origin resets, 499 where the client does.
#[tokio::test]
async fn sp_51_statuses_say_who_failed() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let rig_dead = rig(ALL, &app(dead, "")).await;
    assert!(say(rig_dead.connect().await, b"x").await.is_err());
    assert_eq!(text(&rig_dead.event().await, FieldId::L4Status), "521");
    assert_eq!(text(&rig_dead.event().await, FieldId::L4Event), "originError");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = rig(ALL, &app(listener.local_addr().unwrap(), "")).await;
    let mut client = rig.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.read_exact(&mut [0; 18]).await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    assert!(client.read(&mut [0]).await.is_err(), "a reset is passed on");
    assert_eq!(text(&rig.event().await, FieldId::L4Status), "444");

    let mut client = rig.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut heard = [0; 18];
    server.read_exact(&mut heard).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    assert!(server.read(&mut [0]).await.is_err(), "a reset is passed on");
    assert_eq!(text(&rig.events(2).await[1], FieldId::L4Status), "499");
}

/// SP-04, SP-51: a name without an address is 530.
#[tokio::test]
async fn sp_04_an_origin_by_name() {
    let origin = echo(b"").await;
    let document = |name: &str| {
        format!(
            "[[app]]\nname = \"svc\"\nprotocol = \"tcp/7000\"\nedge_ips = [\"127.0.0.1\"]\norigin_port = \"{}\"\n\
             origin_dns = {{ name = \"{name}\", type = \"A\" }}\n",
            origin.port()
        )
    };
    let rig_bad = rig(ALL, &document("does-not-exist.invalid")).await;
    assert!(say(rig_bad.connect().await, b"x").await.is_err());
    assert_eq!(text(&rig_bad.event().await, FieldId::L4Status), "530");
    // A name that leads to this machine is refused: somebody else may hold the name (SP-51, 532).
    let rig_local = rig(ALL, &document("localhost")).await;
    assert!(say(rig_local.connect().await, b"x").await.is_err());
    assert_eq!(text(&rig_local.event().await, FieldId::L4Status), "532");
}

/// Station `flow`: a rule on bytes ends a flow that has begun.
#[tokio::test]
async fn a_rule_on_bytes_ends_a_flow() {
    let origin = echo(b"").await;
    let policy = "[[rule]]\nname = \"too much\"\ngate = \"l4\"\naction = \"block\"\nwhen = 'flow.bytes_out > 1000'\n";
    let rig = rig(policy, &app(origin, "")).await;
    let mut client = rig.connect().await;
    client.write_all(&[b'x'; 500]).await.unwrap();
    client.read_exact(&mut [0; 500]).await.unwrap();
    client.write_all(&[b'x'; 700]).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(rig::PATIENCE, client.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err(), "cut with a reset");
    let event = rig.event().await;
    assert_eq!((text(&event, FieldId::VerdictRule), text(&event, FieldId::L4Status)), ("too much".into(), "403".into()));
}

#[tokio::test]
async fn a_flow_can_be_seen_and_cut() {
    let origin = echo(b"").await;
    let rig = rig(ALL, &app(origin, "")).await;
    let mut client = rig.connect().await;
    client.write_all(b"hello").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
    let flows = rig.board.flows(Some("svc"));
    assert_eq!((flows.len(), flows[0].bytes_out, flows[0].origin.clone()), (1, 5, Some(origin.to_string())));
    assert_eq!(rig.board.apps()[0].flows, 1);
    let id = u64::from_str_radix(&flows[0].id, 16).unwrap();
    assert!(!rig.board.cut(id + 1) && rig.board.cut(id));
    assert!(client.read(&mut [0]).await.is_err());
    let event = rig.event().await;
    assert_eq!((text(&event, FieldId::Failure), text(&event, FieldId::Reference)), ("cut".into(), flows[0].id.clone()));
}

/// Flows beyond the bound are reset at once; those that are open stay.
#[tokio::test]
async fn a_full_gate_refuses_new_flows_and_keeps_the_others() {
    let origin = echo(b"").await;
    let rig = rig(ALL, &format!("limits = {{ flows_max = 1 }}\n{}", app(origin, ""))).await;
    let mut first = rig.connect().await;
    first.write_all(b"1").await.unwrap();
    first.read_exact(&mut [0]).await.unwrap();
    assert!(say(rig.connect().await, b"2").await.is_err());
    assert_eq!(text(&rig.event().await, FieldId::Failure), "flows_full");
    first.write_all(b"3").await.unwrap();
    first.read_exact(&mut [0]).await.unwrap();
}

/// A reload ends the listeners, not the flows.
#[tokio::test]
async fn flows_outlive_their_gate_and_end_with_the_program() {
    let origin = echo(b"").await;
    let rig = rig(ALL, &format!("limits = {{ drain_seconds = 0 }}\n{}", app(origin, ""))).await;
    let mut client = rig.connect().await;
    client.write_all(b"1").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    rig.stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write_all(b"2").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
    rig.board.close();
    assert!(tokio::time::timeout(rig::PATIENCE, client.read(&mut [0])).await.unwrap().is_err());
    assert_eq!(text(&rig.event().await, FieldId::Failure), "cut");
}

/// SP-20, SP-21: byte for byte what the origin gets first.
#[tokio::test]
async fn sp_20_and_21_the_origin_is_told_of_the_client() {
    for version in ["v1", "v2"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = rig(ALL, &app(listener.local_addr().unwrap(), &format!("proxy_protocol = \"{version}\""))).await;
        let client = rig.connect().await;
        let (from, to) = (client.local_addr().unwrap().port(), rig.address.port());
        let saying = tokio::spawn(say(client, b"hi"));
        let (mut server, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        let expected = match version {
            "v1" => format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n").into_bytes(),
            _ => {
                let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
                [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".as_slice(), &ports].concat()
            }
        };
        assert_eq!(heard, [expected.as_slice(), b"hi"].concat());
        drop(server);
        saying.await.unwrap().unwrap();
        assert_eq!(text(&rig.event().await, FieldId::L4ProxyProtocol), version);
    }
}

/// A header is believed from listed networks only, and then its client is the one whom the rules see.
#[tokio::test]
async fn a_trusted_balancer_names_the_client() {
    let origin = echo(b"").await;
    let header = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 22\r\nhello";
    let trusting = rig(ALL, &app(origin, "proxy_protocol_from = [\"127.0.0.0/8\"]")).await;
    assert_eq!(say(trusting.connect().await, header).await.unwrap(), b"hello");
    assert_eq!(text(&trusting.event().await, FieldId::SourceIp), "203.0.113.9");
    let other = rig(ALL, &app(origin, "proxy_protocol_from = [\"192.0.2.0/24\"]")).await;
    assert_eq!(say(other.connect().await, header).await.unwrap(), header, "from a stranger it is just bytes");
    assert_eq!(text(&other.event().await, FieldId::SourceIp), "127.0.0.1");
    let broken = rig(ALL, &app(origin, "proxy_protocol_from = [\"127.0.0.0/8\"]")).await;
    assert!(say(broken.connect().await, b"hello there, whoever you are\r\n").await.is_err());
    assert_eq!(text(&broken.event().await, FieldId::Failure), "proxy_header");
}

/// SP-01, SP-05: every port of a range, mapped by offset.
#[tokio::test]
async fn sp_05_a_range_maps_by_offset() {
    // Two neighbouring free ports.
    let (first, second) = loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if port < 65_535
            && let Ok(second) = TcpListener::bind(("127.0.0.1", port + 1)).await
        {
            break (first, second);
        }
    };
    let port = first.local_addr().unwrap().port();
    let document = format!(
        "[[app]]\nname = \"svc\"\nprotocol = \"tcp/7000-7001\"\nedge_ips = [\"127.0.0.1\"]\n\
         origin_direct = [\"tcp://127.0.0.1:{port}-{}\"]\n",
        port + 1
    );
    let rig = rig(ALL, &document).await;
    for (listener, (_, edge)) in [first, second].iter().zip(&rig.addresses) {
        let mut client = TcpStream::connect(edge).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let accepted = tokio::time::timeout(rig::PATIENCE, listener.accept()).await;
        assert!(accepted.is_ok(), "{edge} leads elsewhere");
    }
}

/// A loop is refused: an origin that is this gate's own listener.
#[tokio::test]
async fn an_app_that_leads_to_itself_is_refused() {
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = held.local_addr().unwrap().port();
    drop(held);
    let document = format!(
        "[[app]]\nname = \"svc\"\nprotocol = \"tcp/{port}\"\nedge_ips = [\"127.0.0.1\"]\norigin_direct = [\"tcp://127.0.0.1:{port}\"]\n"
    );
    let rig = rig::rig_on_its_ports(ALL, &document).await;
    assert!(say(rig.connect().await, b"x").await.is_err());
    assert_eq!(text(&rig.event().await, FieldId::L4Status), "532");
}

/// Bytes that tell no protocol yet are held for a rule that wants to know, and for nobody else.
#[tokio::test]
async fn undecided_bytes_wait_only_where_somebody_asks() {
    let reads = "[[rule]]\nname = \"no ssh\"\ngate = \"l4\"\naction = \"block\"\nwhen = 'net.protocol.detection == \"ssh\"'\n";
    for (policy, is_held) in [(ALL, false), (reads, true)] {
        let rig = rig(policy, &app(echo(b"").await, "first_bytes_seconds = 5")).await;
        let mut client = rig.connect().await;
        client.write_all(b"P").await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(2), client.read_exact(&mut [0])).await;
        assert_eq!(heard.is_err(), is_held, "{policy}");
    }
}
