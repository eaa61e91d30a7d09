//! HTTP/2 frame by frame, for what no decent client sends.

pub mod cases;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// What every connection begins with.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a request or an answer.
pub const DATA: u8 = 0;
/// The headers of a stream, or their beginning.
pub const HEADERS: u8 = 1;
/// What nobody heeds any more.
pub const PRIORITY: u8 = 2;
/// The end of a stream that is not its proper one.
pub const RST_STREAM: u8 = 3;
/// What a peer may do.
pub const SETTINGS: u8 = 4;
/// What no client may send.
pub const PUSH_PROMISE: u8 = 5;
/// A question that has to be answered.
pub const PING: u8 = 6;
/// The end of a connection.
pub const GOAWAY: u8 = 7;
/// More may be sent.
pub const WINDOW_UPDATE: u8 = 8;
/// More headers.
pub const CONTINUATION: u8 = 9;

/// It answers another SETTINGS or PING.
pub const ACK: u8 = 1;
/// The last of its stream.
pub const END_STREAM: u8 = 1;
/// The last of its headers.
pub const END_HEADERS: u8 = 4;
/// A byte in front says how many behind are padding.
pub const PADDED: u8 = 8;

/// A frame. A payload of 16 MiB or more is none.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or_default().to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header as HPACK has it without any table: literal, not indexed, not compressed. For less than 127 bytes each.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap_or_default() & 127);
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Frames by kind.
    pub frames: [usize; 16],
    /// The reason of the last GOAWAY: a polite one may come before.
    pub goaway: Option<u32>,
    /// The reason of the first RST_STREAM.
    pub reset: Option<u32>,
    /// The last answer to a PING.
    pub pong: Option<[u8; 8]>,
    /// Closed, or reset.
    pub closed: bool,
}

impl Heard {
    /// How many frames of a kind came.
    pub fn count(&self, kind: u8) -> usize {
        self.frames[usize::from(kind & 15)]
    }
}

/// One side of a connection that says what it likes.
pub struct Raw {
    /// What it says.
    pub write: Box<dyn AsyncWrite + Send + Unpin>,
    read: Box<dyn AsyncRead + Send + Unpin>,
}

impl Raw {
    /// A connection on which nothing was said yet.
    pub fn silent(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self { write: Box::new(Box::pin(write)), read: Box::new(Box::pin(read)) }
    }

    /// A connection that began with the preface and empty settings.
    pub async fn begin(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> std::io::Result<Self> {
        let mut raw = Self::silent(stream);
        raw.write.write_all(&[PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat()).await?;
        raw.write.flush().await?;
        Ok(raw)
    }

    /// Sends what `next` makes for 0, 1, 2, … while it listens, until the other side closes or `most` were sent. Says how
    /// many were, and what came back.
    pub async fn flood(self, most: u32, next: impl Fn(u32) -> Vec<u8>) -> (u32, Heard) {
        let Self { mut write, read } = self;
        let mut listening = tokio::spawn(listen(read, |_| false));
        let mut sent = 0;
        while sent < most && !listening.is_finished() {
            // not one by one, as a flood does not come so
            let many = (sent..most.min(sent + 50)).map(&next).collect::<Vec<_>>().concat();
            match timeout(Duration::from_secs(10), write.write_all(&many)).await {
                Ok(Ok(())) => sent = most.min(sent + 50),
                _ => break,
            }
        }
        let _ = write.flush().await;
        // what is on its way is answered, or cut; then it is over
        let heard = match timeout(Duration::from_millis(500), &mut listening).await {
            Ok(heard) => heard,
            Err(_) => {
                let _ = write.shutdown().await;
                drop(write);
                let heard = timeout(Duration::from_secs(10), &mut listening).await;
                listening.abort();
                heard.unwrap_or_else(|_| Ok(Heard::default()))
            }
        };
        (sent, heard.unwrap_or_default())
    }

    /// Sends this and listens until what came back is enough, or the end, or so long.
    pub async fn ask(mut self, bytes: &[u8], patience: Duration, enough: impl Fn(&Heard) -> bool) -> Heard {
        // who is cut meanwhile is told so by what it hears
        let _ = self.write.write_all(bytes).await;
        let _ = self.write.flush().await;
        let mut heard = Heard::default();
        let listening = listen_into(&mut heard, self.read, enough);
        let _ = timeout(patience, listening).await;
        heard
    }

    /// Sends so much without ever listening; says how many bytes were taken until nothing more was, or it was cut.
    pub async fn flood_deaf(mut self, most: usize, frame: &[u8]) -> usize {
        let many = frame.repeat(1000);
        let mut taken = 0;
        while taken < most {
            match timeout(Duration::from_secs(2), self.write.write(&many)).await {
                // a frame that was cut in two is completed
                Ok(Ok(count)) => {
                    taken += count;
                    let rest = count % frame.len();
                    if rest > 0 && timeout(Duration::from_secs(2), self.write.write_all(&frame[rest..])).await.is_err()
                    {
                        return taken;
                    }
                }
                _ => return taken,
            }
        }
        taken
    }
}

/// Listens until the other side closes, or what came is enough.
async fn listen(read: Box<dyn AsyncRead + Send + Unpin>, enough: impl Fn(&Heard) -> bool) -> Heard {
    let mut heard = Heard::default();
    listen_into(&mut heard, read, enough).await;
    heard
}

async fn listen_into(heard: &mut Heard, mut read: Box<dyn AsyncRead + Send + Unpin>, enough: impl Fn(&Heard) -> bool) {
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap_or_default();
        let mut payload = vec![0; length];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        heard.frames[usize::from(head[3] & 15)] += 1;
        let code = |at: usize| payload.get(at..at + 4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]));
        match head[3] {
            GOAWAY => heard.goaway = code(4),
            RST_STREAM if heard.reset.is_none() => heard.reset = code(0),
            PING if head[4] & ACK != 0 => heard.pong = payload.try_into().ok(),
            _ => {}
        }
        if enough(heard) {
            return;
        }
    }
    heard.closed = true;
}
