//! HTTP/2 frame by frame, for what no decent client sends.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use sensormesh_mesh::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::server::world::World;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A gRPC message with its prefix.
pub fn message(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("a small message"));
    message.encode(&mut bytes).expect("room for it");
    bytes.freeze()
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&u32::try_from(payload.len()).expect("a small frame").to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header as HPACK has it without any table: literal, not indexed, not compressed.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "a length of one byte");
        bytes.push(u8::try_from(text.len()).expect("short"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The headers of a call.
pub fn call() -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", "/sensormesh.devices.v1.DevicesService/GetDevice"),
        header(":authority", "devices"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

/// A served service that anybody may speak to: what happens before the first call is looked at.
pub async fn open_world() -> World {
    World::with(|config| {
        config.transport = Transport::Plaintext;
        config.dev = true;
        config.limits.pending_accept_reset_streams = 20;
        config.limits.local_error_reset_streams = 1024;
        config.limits.empty_frames = 100;
    })
    .await
}

/// What came back.
#[derive(Debug, Default)]
pub struct Heard {
    /// Frames by kind.
    pub frames: [usize; 16],
    /// The reason of GOAWAY.
    pub goaway: Option<u32>,
    /// Closed, or reset.
    pub closed: bool,
}

/// One side of a connection that says what it likes.
pub struct Raw {
    pub write: OwnedWriteHalf,
    read: OwnedReadHalf,
}

impl Raw {
    /// Connects and says the preface and empty settings.
    pub async fn connect(world: &World) -> Self {
        let stream = TcpStream::connect(world.address()).await.expect("connected");
        let (read, mut write) = stream.into_split();
        let start = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
        write.write_all(&start).await.expect("sent");
        Self { write, read }
    }

    /// Sends what `next` makes for 0, 1, 2, … while it listens, until the other side closes or `most` were sent. Says how
    /// many were, and what came back.
    pub async fn flood(self, most: u32, next: impl Fn(u32) -> Vec<u8>) -> (u32, Heard) {
        let Self { mut write, read } = self;
        let mut listening = tokio::spawn(listen(read, None));
        let mut sent = 0;
        while sent < most && !listening.is_finished() {
            // not one by one, as a flood does not come so
            let many: Vec<u8> = (sent..most.min(sent + 50)).flat_map(&next).collect();
            match timeout(Duration::from_secs(10), write.write_all(&many)).await {
                Ok(Ok(())) => sent = most.min(sent + 50),
                _ => break,
            }
        }
        // what is on its way is answered, or cut; then it is over
        let heard = match timeout(Duration::from_millis(500), &mut listening).await {
            Ok(heard) => heard,
            Err(_) => {
                drop(write);
                timeout(Duration::from_secs(10), listening).await.expect("it ends")
            }
        };
        let heard = heard.expect("heard");
        (sent, heard)
    }

    /// Sends this and listens until a frame of the kind comes back, or the end.
    pub async fn ask(mut self, bytes: &[u8], kind: u8) -> Heard {
        self.write.write_all(bytes).await.expect("sent");
        timeout(Duration::from_secs(10), listen(self.read, Some(kind))).await.expect("an answer in time")
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

/// Listens until the other side closes, or a frame of this kind has come.
async fn listen(mut read: OwnedReadHalf, until: Option<u8>) -> Heard {
    let mut heard = Heard::default();
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).expect("small");
        let mut payload = vec![0; length];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        heard.frames[usize::from(head[3] & 15)] += 1;
        if head[3] == GOAWAY && length >= 8 {
            let code = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
            // the last one counts: a polite one may come before
            heard.goaway = Some(code);
        }
        if until == Some(head[3]) {
            return heard;
        }
    }
    heard.closed = true;
    heard
}
