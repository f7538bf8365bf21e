//! MySQL: TLS begins behind the server's greeting, whose random bytes both ends sign, so the gate hands the greeting on and
//! changes one bit in it: whether TLS is spoken (MySQL internals, "Connection Phase"). The side with TLS has one packet more,
//! so numbers of packets are shifted until the server says that the login is over. A login that the plugin
//! `caching_sha2_password` does not know from its cache asks whether the channel is safe, of which the two sides have different
//! views: it fails, and the server's answer says so. Both sides with TLS are not offered.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Clear, Problem};

/// Packets of a login are small; the largest carry a certificate or a key.
const PACKET_BYTES_MAX: usize = 64 << 10;
/// Packets of one login: greeting, answer, a change of plugin and its exchange.
const PACKETS_MAX: usize = 16;
const HEADER_BYTES: usize = 4;
/// An SSLRequest is the answer's first 32 bytes.
const SSL_REQUEST_BYTES: usize = 32;
/// CLIENT_SSL, bit 11, in the second byte of the capabilities.
const CLIENT_SSL: u8 = 0x08;
/// Error 3159 of the server, with SQL state 08004.
const INSECURE: &[u8] = b"\xff\x57\x0c#08004Connections using insecure transport are prohibited";

/// One packet: its number and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    number: u8,
    payload: Vec<u8>,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let [low, middle, high, _] = (self.payload.len() as u32).to_le_bytes();
        [[low, middle, high, self.number].as_slice(), self.payload.as_slice()].concat()
    }

    fn shifted(mut self, by: i8) -> Packet {
        self.number = self.number.wrapping_add_signed(by);
        self
    }

    /// Sets or clears the bit in an answer or a request for TLS.
    fn with_tls(mut self, is_tls: bool) -> Option<Packet> {
        let byte = self.payload.get_mut(1)?;
        *byte = if is_tls { *byte | CLIENT_SSL } else { *byte & !CLIENT_SSL };
        Some(self)
    }

    fn asks_for_tls(&self) -> bool {
        self.number == 1 && self.payload.len() == SSL_REQUEST_BYTES && self.payload[1] & CLIENT_SSL != 0
    }
}

/// Where the lower half of a greeting's capabilities stands: behind the version's text, a number, eight random bytes and a zero.
fn capabilities(greeting: &[u8]) -> Option<usize> {
    let text = greeting.strip_prefix(&[10])?.iter().position(|byte| *byte == 0)?;
    let place = 1 + text + 1 + 4 + 8 + 1;
    (greeting.len() >= place + 2).then_some(place)
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Packet, Problem> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let [low, middle, high, number] = header;
    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
    if length > PACKET_BYTES_MAX {
        return Err(Problem::TooLarge);
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(Packet { number, payload })
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, packet: &Packet) -> Result<(), Problem> {
    stream.write_all(&packet.bytes()).await?;
    Ok(stream.flush().await?)
}

/// The origin's greeting. Whether it offers TLS is the second part.
pub(crate) async fn greeting<S: AsyncRead + Unpin>(origin: &mut S) -> Result<(Packet, bool), Problem> {
    let packet = read(origin).await?;
    let place = capabilities(&packet.payload).ok_or(Problem::Malformed)?;
    let offers = packet.payload[place + 1] & CLIENT_SSL != 0;
    Ok((packet, offers))
}

/// Towards a client with TLS, before an origin without: the greeting that offers TLS, and the client's request for it.
pub(crate) async fn serve<S>(client: S, mut greeting: Packet) -> Result<S, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let place = capabilities(&greeting.payload).ok_or(Problem::Malformed)?;
    greeting.payload[place + 1] |= CLIENT_SSL;
    let mut clear = Clear::new(client);
    clear.say(&greeting.bytes()).await?;
    let header = clear.exactly(HEADER_BYTES).await?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    let payload = match length <= super::LINE_BYTES_MAX {
        true => clear.exactly(length).await?,
        false => return Err(Problem::TooLarge),
    };
    if !(Packet { number: header[3], payload }).asks_for_tls() {
        clear.say(&Packet { number: header[3].wrapping_add(1), payload: INSECURE.to_vec() }.bytes()).await?;
        return Err(Problem::NoTls);
    }
    clear.into_tls()
}

/// A client in the clear, before an origin with TLS: the greeting that offers none, and the client's answer.
pub(crate) async fn serve_clear<S>(client: &mut S, mut greeting: Packet) -> Result<Packet, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let place = capabilities(&greeting.payload).ok_or(Problem::Malformed)?;
    greeting.payload[place + 1] &= !CLIENT_SSL;
    write(client, &greeting).await?;
    let answer = read(client).await?;
    match answer.number == 1 && answer.payload.len() >= SSL_REQUEST_BYTES && !answer.asks_for_tls() {
        true => Ok(answer),
        false => Err(Problem::Malformed),
    }
}

/// Asks the origin for TLS in the client's name.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(origin: &mut S, answer: &Packet) -> Result<(), Problem> {
    let payload = answer.payload.get(..SSL_REQUEST_BYTES).ok_or(Problem::Malformed)?.to_vec();
    let request = Packet { number: 1, payload }.with_tls(true).ok_or(Problem::Malformed)?;
    write(origin, &request).await
}

/// Which side has TLS, and so which numbers are one higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secure {
    Client,
    Origin,
}

/// Carries the rest of the login, with the client's answer if it was read already, until the server says how it ended.
pub(crate) async fn login<C, O>(client: &mut C, origin: &mut O, first: Option<Packet>, secure: Secure) -> Result<(), Problem>
where
    C: AsyncRead + AsyncWrite + Unpin,
    O: AsyncRead + AsyncWrite + Unpin,
{
    let (to_origin, to_client) = match secure {
        Secure::Client => (-1, 1),
        Secure::Origin => (1, -1),
    };
    let answer = match first {
        Some(answer) => answer,
        None => read(client).await?,
    };
    let answer = answer.with_tls(secure == Secure::Origin).ok_or(Problem::Malformed)?;
    write(origin, &answer.shifted(to_origin)).await?;
    for _ in 0..PACKETS_MAX {
        let packet = read(origin).await?;
        let kind = packet.payload.first().copied();
        // `1 3` says that the cached password was right; the end follows by itself.
        let goes_on = packet.payload.starts_with(&[1, 3]);
        write(client, &packet.shifted(to_client)).await?;
        if matches!(kind, Some(0 | 0xff)) {
            return Ok(());
        }
        if !goes_on {
            let packet = read(client).await?;
            write(origin, &packet.shifted(to_origin)).await?;
        }
    }
    Err(Problem::TooLarge)
}
