//! A connection whose peer sends what carries nothing is cut, also where the peer reads every answer.
//!
//! PING, SETTINGS and their like cost the sender next to nothing, and HTTP/2 sets them no limit (RFC 9113, section 10.5).
//! So the header of each frame that comes is looked at, nine bytes, and payloads are passed over. A frame that carries
//! nothing takes one from an allowance. Requests and what is answered give to it, because a decent peer resets streams it
//! asked for, grants windows for what it gets and measures the way there; the rest of it comes back with time.
//!
//! What carries something is not free either: a few bytes of headers begin a request, and five kilobytes of them may stand for
//! megabytes. So a connection that always has more to read lets others have their turn after some such.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sensormesh_observability::metrics::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What a connection may send at once, in seconds of its allowance.
const AT_ONCE: u32 = 10;
/// What a request gives: its reset, its priority, the windows of a short answer.
const FOR_REQUEST: i64 = 4;
/// One is given for so many bytes of answers. The answer to a PING has 17, so that no flood pays for itself.
const FOR_BYTES: u64 = 64;
/// DATA that is shorter than the prefix of a gRPC message carries nothing, unless it is the last, bytes.
const PREFIX: u32 = 5;
/// What is read of a connection before others have their turn, bytes.
const TURN: usize = 32 << 10;
/// What a request counts as, bytes: there is more to do for it than to read it.
const REQUEST: usize = 1 << 10;
/// The start of every HTTP/2 connection, bytes. It is no frame.
const PREFACE: u32 = 24;
/// The header of a frame, bytes.
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// What frames carry, found in a sequence of bytes that comes in any pieces.
struct Frames {
    /// Bytes to pass over before the next header.
    payload: u32,
    header: [u8; HEADER],
    known: usize,
}

impl Frames {
    fn new() -> Self {
        Self { payload: PREFACE, header: [0; HEADER], known: 0 }
    }

    /// What each frame that begins in `bytes` gives to the allowance: less than 0 where it carries nothing.
    fn worth(&mut self, mut bytes: &[u8], mut each: impl FnMut(i64)) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let passed = bytes.len().min(self.payload as usize);
                bytes = &bytes[passed..];
                self.payload -= u32::try_from(passed).unwrap_or(self.payload);
                continue;
            }
            let taken = bytes.len().min(HEADER - self.known);
            self.header[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            self.known += taken;
            bytes = &bytes[taken..];
            if self.known == HEADER {
                self.known = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.payload = u32::from_be_bytes([0, a, b, c]);
                each(match kind {
                    HEADERS => FOR_REQUEST,
                    DATA if self.payload >= PREFIX || flags & END_STREAM != 0 => 0,
                    CONTINUATION => 0, // bounded by the size of headers
                    _ => -1,
                });
            }
        }
    }
}

/// How many frames that carry nothing a connection may still send.
struct Allowance {
    per_second: u32,
    left: i64,
    /// Bytes of answers that have not given anything yet.
    answered: u64,
    /// Up to when time has given what it gives.
    since: Instant,
}

impl Allowance {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, left: most(per_second), answered: 0, since: now }
    }

    fn give(&mut self, more: i64) {
        self.left = self.left.saturating_add(more).min(most(self.per_second));
    }

    fn answer(&mut self, bytes: usize) {
        self.answered += bytes as u64;
        if self.answered >= FOR_BYTES {
            self.give(i64::try_from(self.answered / FOR_BYTES).unwrap_or(i64::MAX));
            self.answered %= FOR_BYTES;
        }
    }

    /// Whether it is used up. The clock is read only where there seems to be nothing left.
    fn is_spent(&mut self, clock: impl FnOnce() -> Instant) -> bool {
        if self.left >= 0 {
            return false;
        }
        let now = clock();
        let seconds = now.saturating_duration_since(self.since).min(Duration::from_secs(AT_ONCE.into()));
        self.since = now;
        self.give((seconds.as_secs_f64() * f64::from(self.per_second)).round() as i64);
        self.left < 0
    }
}

fn most(per_second: u32) -> i64 {
    i64::from(per_second) * i64::from(AT_ONCE)
}

/// An HTTP/2 connection, seen from the server, that breaks when its peer's allowance is used up.
pub(super) struct Guarded<T> {
    inner: T,
    frames: Frames,
    allowance: Allowance,
    /// What was read in this turn.
    read: usize,
    cut: Counter,
}

impl<T> Guarded<T> {
    /// `inner` begins with the preface; `per_second` frames that carry nothing are allowed beyond what is given for the
    /// rest; `cut` counts connections that sent more.
    pub(super) fn new(inner: T, per_second: u32, cut: Counter) -> Self {
        Self { inner, frames: Frames::new(), allowance: Allowance::new(per_second, Instant::now()), read: 0, cut }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read >= TURN {
            this.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(done) = Pin::new(&mut this.inner).poll_read(cx, buffer) else {
            this.read = 0;
            return Poll::Pending;
        };
        done?;
        this.read += buffer.filled().len() - before;
        this.frames.worth(&buffer.filled()[before..], |worth| {
            this.read += if worth == FOR_REQUEST { REQUEST } else { 0 };
            this.allowance.give(worth);
        });
        if this.allowance.is_spent(Instant::now) {
            this.cut.add(1);
            return Poll::Ready(Err(io::Error::other("the peer sent too many frames that carry nothing")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.allowance.answer(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, slices))?;
        self.allowance.answer(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).expect("small").to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let all = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, &[0; 12]),
            frame(HEADERS, 4, &[6; 300]),
            frame(DATA, 0, &[6; 70]),
            frame(DATA, 0, &[6; 4]),
            frame(DATA, END_STREAM, &[]),
            frame(6, 0, &[6; 8]),
            frame(CONTINUATION, 4, &[]),
            frame(0x42, 0, &[]),
        ]
        .concat();
        for size in [1, 2, 8, 9, 10, 33, all.len()] {
            let (mut frames, mut worths) = (Frames::new(), Vec::new());
            for piece in all.chunks(size) {
                frames.worth(piece, |worth| worths.push(worth));
            }
            assert_eq!(worths, [-1, FOR_REQUEST, 0, -1, 0, -1, 0, -1], "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn who_always_has_more_lets_others_have_their_turn() {
        use sensormesh_observability::metrics::shed;
        use tokio::io::AsyncReadExt as _;
        let mut connection = Guarded::new(tokio::io::repeat(b'0'), u32::MAX, shed("test", "flood"));
        let mut reading = std::pin::pin!(async move {
            let mut buffer = vec![0; TURN / 4];
            for _ in 0..9 {
                connection.read_exact(&mut buffer).await.expect("endless");
            }
        });
        assert_eq!(turns(reading.as_mut()).await, 3);

        // a request after the other, in pieces of eight
        let eight = frame(HEADERS, 5, &[6; 30]).repeat(8);
        let all = [vec![0; PREFACE as usize], eight.repeat(9)].concat();
        let mut connection = Guarded::new(all.as_slice(), u32::MAX, shed("test", "flood"));
        let mut reading = std::pin::pin!(async move {
            connection.read_exact(&mut [0; PREFACE as usize]).await.expect("the preface");
            for _ in 0..9 {
                connection.read_exact(&mut vec![0; eight.len()]).await.expect("eight requests");
            }
        });
        assert_eq!(turns(reading.as_mut()).await, 3, "after 32 of 72 requests each");
    }

    /// How often it is polled until it is done. What asks for no other turn is never done.
    async fn turns(mut reading: Pin<&mut impl Future<Output = ()>>) -> usize {
        let mut turns = 0;
        let read = std::future::poll_fn(|cx| {
            turns += 1;
            reading.as_mut().poll(cx)
        });
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("the next turn comes by itself");
        turns
    }

    #[test]
    fn what_carries_nothing_is_allowed_at_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(100, start);
        allowance.give(-1_000);
        assert!(!allowance.is_spent(|| unreachable!("there is some left")));
        allowance.give(-1);
        assert!(allowance.is_spent(|| start));
        allowance.give(-99);
        assert!(!allowance.is_spent(|| start + Duration::from_secs(1)), "a hundred a second");
        allowance.give(-1);
        assert!(allowance.is_spent(|| start + Duration::from_secs(1)), "and no more");
        allowance.give(-999);
        assert!(!allowance.is_spent(|| start + Duration::from_secs(3600)));
        allowance.give(-1);
        assert!(allowance.is_spent(|| start + Duration::from_secs(3600)), "an hour's pause gives ten seconds'");
    }

    #[test]
    fn who_asks_and_is_answered_may_send_more_and_a_flood_does_not_pay_for_itself() {
        let start = Instant::now();
        let mut allowance = Allowance::new(1, start);
        for _ in 0..1_000 {
            // a request that is given up, and one whose answer is taken in two windows
            allowance.give(FOR_REQUEST - 1);
            allowance.give(FOR_REQUEST - 2);
            allowance.answer(100);
            assert!(!allowance.is_spent(|| start));
        }
        let mut allowance = Allowance::new(1, start);
        let pings = (1..).find(|_| {
            allowance.give(-1);
            allowance.answer(17);
            allowance.is_spent(|| start)
        });
        assert_eq!(pings, Some(14), "one more than ten, and what their answers give");
    }
}
