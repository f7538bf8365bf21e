#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use tokio::io::AsyncReadExt;

use super::*;

const CHROME_CIPHERS: [u16; 16] = [
    0x5a5a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f,
    0x0035,
];
const CHROME_SIGNATURES: [u16; 8] = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];

fn short_list(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn message(ciphers: &[u16], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let extensions: Vec<u8> =
        extensions.iter().flat_map(|(kind, content)| [kind.to_be_bytes().to_vec(), counted(content)].concat()).collect();
    let body = [[3, 3].as_slice(), &[7; 32], &[0], &counted(&short_list(ciphers)), &[1, 0], &counted(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [[1].as_slice(), &length[1..], &body].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [[22, 3, 1].as_slice(), &counted(part)].concat()).collect()
}

fn chrome_extensions() -> Vec<(u16, Vec<u8>)> {
    let name = b"www.Example.COM.";
    let mut extensions: Vec<(u16, Vec<u8>)> = vec![
        (0x1a1a, vec![]),
        (0x0000, counted(&[[0].as_slice(), &counted(name)].concat())),
        (0x000d, counted(&short_list(&CHROME_SIGNATURES))),
        (0x0010, counted(b"\x02h2\x08http/1.1")),
        (0x002b, [[6].as_slice(), &short_list(&[0x2a2a, 0x0304, 0x0303])].concat()),
    ];
    let plain = [0x0005, 0x000a, 0x000b, 0x0012, 0x0015, 0x0017, 0x001b, 0x0023, 0x002d, 0x0033, 0x4469, 0xff01];
    extensions.extend(plain.map(|kind| (kind, vec![0])));
    extensions
}

fn complete(bytes: &[u8]) -> ClientHello {
    match decode(bytes) {
        Ok(Decoded::Complete(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ja4_of_the_published_chrome_example() {
    let hello = complete(&records(&message(&CHROME_CIPHERS, &chrome_extensions()), 4096));
    assert_eq!(hello.ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
    assert_eq!(hello.server_name.as_deref(), Some("www.example.com"));
    assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!((hello.version, hello.has_encrypted_hello), (0x0304, false));
}

#[test]
fn ja4_does_not_change_with_the_order_of_extensions() {
    let mut shuffled = chrome_extensions();
    shuffled.reverse();
    let hello = complete(&records(&message(&CHROME_CIPHERS, &shuffled), 4096));
    assert_eq!(hello.ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
}

#[test]
fn ja4_of_a_bare_hello() {
    let hello = complete(&records(&message(&[], &[]), 4096));
    assert_eq!(hello.ja4, "t12i000000_000000000000_000000000000");
    let odd = complete(&records(&message(&[], &[(16, counted(b"\x02\xab\xcd"))]), 4096));
    assert!(odd.ja4.starts_with("t12i0001ad_"), "{}", odd.ja4);
}

#[test]
fn every_part_is_partial_and_records_may_cut_anywhere() {
    let message = message(&CHROME_CIPHERS, &chrome_extensions());
    let whole = records(&message, 4096);
    for end in 0..whole.len() {
        assert_eq!(decode(whole.get(..end).unwrap()), Ok(Decoded::Partial), "{end}");
    }
    assert_eq!(complete(&records(&message, 50)), complete(&whole));
    assert_eq!(decode(&records(&message, 1)), Err(HelloProblem::Malformed));
}

#[test]
fn any_changed_byte_gives_a_value_or_a_problem() {
    let whole = records(&message(&CHROME_CIPHERS, &chrome_extensions()), 4096);
    for position in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = whole.clone();
            *changed.get_mut(position).unwrap() = value;
            let _ = decode(&changed);
        }
    }
}

#[test]
fn doubtful_hellos_are_refused() {
    let twice = vec![(16, counted(b"\x02h2")), (16, counted(b"\x02h3"))];
    assert_eq!(decode(&records(&message(&[1], &twice), 4096)), Err(HelloProblem::Malformed));
    let two_names = counted(&[[0].as_slice(), &counted(b"a"), &[0], &counted(b"b")].concat());
    assert_eq!(decode(&records(&message(&[1], &[(0, two_names)]), 4096)), Err(HelloProblem::Malformed));
    assert_eq!(decode(b"GET / HTTP/1.1\r\n"), Err(HelloProblem::NotTls));
    assert_eq!(decode(&[22, 3, 1, 0, 1, 2]), Err(HelloProblem::NotTls));
    assert_eq!(decode(&[22, 3, 1, 0, 0]), Err(HelloProblem::Malformed));
    assert_eq!(decode(&[22, 3, 1, 0, 4, 1, 1, 0, 0]), Err(HelloProblem::TooLarge));
    let bad_name = counted(&[[0].as_slice(), &counted(b"a/b")].concat());
    assert_eq!(complete(&records(&message(&[1], &[(0, bad_name)]), 4096)).server_name, None);
}

#[tokio::test]
async fn what_rustls_sends_is_read_and_replayed() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "origin.example".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    wire.extend(b"behind");
    let (hello, mut stream) = peek(wire.as_slice()).await.unwrap();
    let hello = hello.unwrap();
    assert_eq!(hello.server_name.as_deref(), Some("origin.example"));
    assert_eq!((hello.alpn, hello.version), (vec![b"h2".to_vec()], 0x0304));
    assert!(hello.ja4.starts_with("t13d"));
    let mut replayed = Vec::new();
    stream.read_to_end(&mut replayed).await.unwrap();
    assert_eq!(replayed, wire);
}

#[tokio::test]
async fn other_protocols_are_replayed_too() {
    let (hello, mut stream) = peek(b"SSH-2.0-x\r\n".as_slice()).await.unwrap();
    assert_eq!(hello, Err(HelloProblem::NotTls));
    assert_eq!(stream.first_bytes(), b"SSH-2.0-x\r\n");
    let mut replayed = Vec::new();
    stream.read_to_end(&mut replayed).await.unwrap();
    assert_eq!(replayed, b"SSH-2.0-x\r\n");
}
