//! The packet path on real packets: two network namespaces with a veth pair, the program attached by the driver on one side,
//! ordinary traffic and a flood of a bounded number of packets from the other. It needs root, iproute2 and
//! SEKISHO_TEST_SYSTEM=1; all that it makes is in the namespaces and goes with them.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shield::admission::Moment;
use shield::guard::{Guard, News};
use shield::packets::{PacketsConfig, PacketsSpec};
use shield::xdp::{Attached, PacketPath, Reason, Tables};

/// Says to the test binary, started again inside a namespace, which side it is.
const ROLE: &str = "SEKISHO_TEST_SHIELD_ROLE";
const DEFENDER: &str = "203.0.113.1";
const SERVICE: u16 = 4_000;
/// Ordinary datagrams a second, and seconds of them before the flood.
const ORDINARY_RATE: u64 = 500;
const QUIET: Duration = Duration::from_secs(9);
const FLOOD_PACKETS: u64 = 150_000;
const FLOOD_TIME: Duration = Duration::from_secs(4);

/// Connections of each family, and what each carries both ways: many segments.
const CONNECTIONS: usize = 50;
const CONTENT_BYTES: usize = 100_000;

fn must(command: &str) {
    let parts: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(parts[0]).args(&parts[1..]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Net {
    defender: String,
    sender: String,
}

impl Net {
    fn new() -> Net {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let id = format!("{}n{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let net = Net { defender: format!("skd{id}"), sender: format!("sks{id}") };
        must(&format!("ip netns add {}", net.defender));
        must(&format!("ip netns add {}", net.sender));
        must(&format!("ip link add d0 netns {} type veth peer name s0 netns {}", net.defender, net.sender));
        for (space, link, address) in [(&net.defender, "d0", "203.0.113.1/24"), (&net.sender, "s0", "203.0.113.2/24")] {
            must(&format!("ip -n {space} address add {address} dev {link}"));
            must(&format!("ip -n {space} link set {link} up"));
            must(&format!("ip -n {space} link set lo up"));
        }
        net
    }

    fn start(&self, space: &str, role: &str) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", space]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", role, "--nocapture"]).env(ROLE, role);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in [&self.defender, &self.sender] {
            let _ = Command::new("ip").args(["netns", "del", space]).status();
        }
    }
}

#[test]
fn a_flood_is_dropped_by_the_driver_within_a_second_and_clients_are_served() {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        return println!("skipped: makes network namespaces and loads a program into the kernel; set SEKISHO_TEST_SYSTEM=1");
    }
    let net = Net::new();
    let defender = net.start(&net.defender, "defender");
    let sender = net.start(&net.sender, "sender");
    for child in [sender, defender] {
        let output = child.wait_with_output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{text}");
        assert!(output.status.success(), "{text}");
    }
}

/// With cookies on, every handshake is answered by the program, and the kernel takes the ACK (RFC 4987 section 3.6).
#[test]
fn dd_21_handshakes_answered_with_cookies_become_connections() {
    if std::env::var_os("SEKISHO_TEST_SYSTEM").is_none() {
        return println!("skipped: makes network namespaces and loads a program into the kernel; set SEKISHO_TEST_SYSTEM=1");
    }
    let net = Net::new();
    must(&format!("ip -n {} address add 2001:db8::1/64 dev d0 nodad", net.defender));
    must(&format!("ip -n {} address add 2001:db8::2/64 dev s0 nodad", net.sender));
    must(&format!("ip netns exec {} sysctl -qw net.ipv4.tcp_syncookies=2", net.defender));
    let server = net.start(&net.defender, "cookie_server");
    let client = net.start(&net.sender, "cookie_client");
    for child in [client, server] {
        let output = child.wait_with_output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{text}");
        assert!(output.status.success(), "{text}");
    }
}

#[test]
fn cookie_server() {
    if !is("cookie_server") {
        return;
    }
    let mut path = PacketPath::load().unwrap();
    let protected = ["203.0.113.0/24", "2001:db8::/64"].map(|network| (network.parse().unwrap(), ()));
    let tables = Tables { is_enforced: true, syn_cookies: true, protected: protected.into_iter().collect(), ..Tables::default() };
    path.write(&tables).unwrap();
    assert_eq!(path.attach("d0").unwrap(), Attached::Native);
    let listener = TcpListener::bind(("::", SERVICE)).unwrap();
    for _ in 0..2 * CONNECTIONS {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut content = vec![0; CONTENT_BYTES];
        stream.read_exact(&mut content).unwrap();
        stream.write_all(&content).unwrap();
    }
    let counts = path.counts().unwrap();
    println!("{:?}", Reason::ALL.iter().zip(counts).collect::<Vec<_>>());
    assert!(counts[Reason::Cookie as usize] >= 2 * CONNECTIONS as u64, "{counts:?}");
    // A SYN that nobody listens for is left to the kernel, which refuses it.
    assert_eq!(counts.iter().skip(Reason::Denied as usize).sum::<u64>(), counts[Reason::Cookie as usize]);
}

#[test]
fn cookie_client() {
    if !is("cookie_client") {
        return;
    }
    // What the other side sends from within its program arrives only where there is a program too.
    let mut path = PacketPath::load().unwrap();
    path.attach("s0").unwrap();
    let content: Vec<u8> = (0..CONTENT_BYTES as u64).map(|place| mixed(place) as u8).collect();
    for server in [format!("{DEFENDER}:{SERVICE}"), format!("[2001:db8::1]:{SERVICE}")] {
        let server: SocketAddr = server.parse().unwrap();
        let begin = Instant::now();
        for _ in 0..CONNECTIONS {
            let mut stream = loop {
                match TcpStream::connect_timeout(&server, Duration::from_secs(5)) {
                    Ok(stream) => break stream,
                    // The server is not up yet.
                    Err(error) => assert!(begin.elapsed() < Duration::from_secs(15), "{server}: {error}"),
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(&content).unwrap();
            let mut back = vec![0; CONTENT_BYTES];
            stream.read_exact(&mut back).unwrap();
            assert!(back == content, "the bytes came back otherwise");
        }
        if server.is_ipv4() {
            let refused = TcpStream::connect_timeout(&SocketAddr::new(server.ip(), 9), Duration::from_secs(5));
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        }
    }
}

fn is(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|given| given == role)
}

/// A number that differs from call to call, the same in every run.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// Ordinary datagrams all the time: any length, any content, to the service. Then the flood on top.
#[test]
fn sender() {
    if !is("sender") {
        return;
    }
    let done = Arc::new(AtomicBool::new(false));
    let clients = std::thread::spawn({
        let done = done.clone();
        move || {
            let sockets: Vec<UdpSocket> = (0..20).map(|_| UdpSocket::bind("203.0.113.2:0").unwrap()).collect();
            let (begin, mut sent) = (Instant::now(), 0_u64);
            while !done.load(Ordering::Relaxed) {
                while sent < begin.elapsed().as_millis() as u64 * ORDINARY_RATE / 1_000 {
                    let length = 20 + mixed(sent + 1) as usize % 1_200;
                    let content: Vec<u8> = (0..length).map(|place| (mixed(sent * 2_000 + place as u64 + 7)) as u8).collect();
                    let _ = sockets[sent as usize % sockets.len()].send_to(&content, (DEFENDER, SERVICE));
                    sent += 1;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            sent
        }
    });
    std::thread::sleep(QUIET);
    let bots: Vec<UdpSocket> = (0..50).map(|_| UdpSocket::bind("203.0.113.2:0").unwrap()).collect();
    let (begin, content) = (Instant::now(), [0xff; 300]);
    let mut flood = 0;
    while flood < FLOOD_PACKETS && begin.elapsed() < FLOOD_TIME {
        // Bounded to what one side of this machine can send and the other still work.
        if flood < begin.elapsed().as_micros() as u64 * FLOOD_PACKETS / FLOOD_TIME.as_micros() as u64 {
            let port = 1_024 + (mixed(flood) % 64_000) as u16;
            let _ = bots[flood as usize % bots.len()].send_to(&content, SocketAddr::from(([203, 0, 113, 1], port)));
            flood += 1;
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    done.store(true, Ordering::Relaxed);
    println!("flood {flood}, ordinary {}", clients.join().unwrap());
}

#[test]
fn defender() {
    if !is("defender") {
        return;
    }
    let spec = PacketsSpec {
        interfaces: vec!["d0".to_owned()],
        protect: vec!["203.0.113.0/24".parse().unwrap()],
        floor_packets_per_second: 5_000,
        sample_every: 4,
        ..PacketsSpec::default()
    };
    let mut guard = Guard::start(&PacketsConfig::resolve(&spec).unwrap().unwrap(), 1).unwrap();
    assert_eq!(guard.attached(), [("d0".to_owned(), Attached::Native)]);
    let served = Arc::new(AtomicU64::new(0));
    let service = UdpSocket::bind((DEFENDER, SERVICE)).unwrap();
    std::thread::spawn({
        let served = served.clone();
        move || {
            let mut buffer = [0; 2_048];
            while let Ok((length, _)) = service.recv_from(&mut buffer) {
                // The flood's datagrams that happen to come to this port are not ours.
                served.fetch_add(u64::from(buffer[..length.min(8)] != [0xff; 8][..length.min(8)]), Ordering::Relaxed);
            }
        }
    });
    let begin = Instant::now();
    let now = || Moment(begin.elapsed().as_nanos() as u64 + 1);
    let (mut begun, mut mitigated, mut before) = (None, None, (0, 0));
    while begin.elapsed() < QUIET + FLOOD_TIME + Duration::from_millis(1_500) {
        std::thread::sleep(Duration::from_millis(50));
        for news in guard.round(now(), 0).unwrap() {
            match news {
                News::Begun(_) => begun = begun.or(Some(Instant::now())),
                News::Mitigated(_) if mitigated.is_none() => {
                    mitigated = Some(Instant::now());
                    before = (guard.counts().unwrap()[Reason::Passed as usize], served.load(Ordering::Relaxed));
                }
                _ => {}
            }
        }
    }
    let counts = guard.counts().unwrap();
    println!("{:?}", guard.status(now()).unwrap());
    let took = mitigated.unwrap().duration_since(begun.unwrap());
    let (passed, answered) = (counts[Reason::Passed as usize] - before.0, served.load(Ordering::Relaxed) - before.1);
    let dropped = counts[Reason::Rule as usize];
    println!("noticed to rule {took:?}; after it {dropped} dropped, {passed} passed, {answered} of them served");
    assert!(took < Duration::from_secs(1));
    // A second of the flood is a quarter of it, and more than all ordinary traffic of the run.
    assert!(dropped > 3 * counts[Reason::Passed as usize], "{dropped} of {FLOOD_PACKETS}");
    // What passes after the rule is ordinary traffic, and it reaches the service. ARP is no IP.
    assert!(answered * 100 >= passed * 98 && answered > ORDINARY_RATE, "{answered} of {passed}");
}
