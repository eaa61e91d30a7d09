//! What RFC 9113 asks of a server, case by case, as h2spec does.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

/// The reasons of RFC 9113, section 7, that are asked for here.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
/// What is shown of a PING, so that its answer is known.
const MARK: [u8; 8] = *b"mark it!";
/// How long a right answer may take. It is there at once; a wrong one is waited for so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// What must come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// The connection ends, with GOAWAY for one of these reasons where there is one.
    ConnectionError(&'static [u32]),
    /// The stream is reset for one of these reasons, or the connection ends.
    StreamError(&'static [u32]),
    /// The request is answered.
    Answer,
    /// A PING behind it is answered: it was overlooked, or taken in.
    GoesOn,
    /// SETTINGS are acknowledged.
    Acknowledged,
}

impl Right {
    fn has_come(self, heard: &Heard) -> bool {
        let ended = |codes: &[u32]| heard.closed && heard.goaway.is_none_or(|code| codes.contains(&code));
        match self {
            Right::ConnectionError(codes) => ended(codes),
            Right::StreamError(codes) => heard.reset.is_some_and(|code| codes.contains(&code)) || ended(codes),
            Right::Answer => heard.count(HEADERS) > 0,
            Right::GoesOn => heard.pong == Some(MARK),
            // the other side's own, and two acknowledgements: of the beginning and of these
            Right::Acknowledged => heard.count(SETTINGS) >= 3,
        }
    }
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The section of RFC 9113.
    pub section: &'static str,
    /// What is sent.
    pub what: &'static str,
    /// Its bytes, behind the preface and empty SETTINGS unless it is `whole`.
    bytes: Vec<u8>,
    whole: bool,
    /// What must come back.
    pub right: Right,
    /// What the h2 library makes of it instead.
    pub otherwise: Option<Right>,
}

impl Case {
    /// Plays the case on a new connection; says what came back, and whether it was right.
    pub async fn play(&self, stream: impl AsyncRead + AsyncWrite + Send + 'static) -> std::io::Result<(bool, Heard)> {
        let raw = if self.whole { Raw::silent(stream) } else { Raw::begin(stream).await? };
        let (right, otherwise) = (self.right, self.otherwise);
        let good = |heard: &Heard| right.has_come(heard) || otherwise.is_some_and(|right| right.has_come(heard));
        let heard = raw.ask(&self.bytes, PATIENCE, good).await;
        Ok((good(&heard), heard))
    }
}

fn case(section: &'static str, what: &'static str, bytes: &[Vec<u8>], right: Right) -> Case {
    Case { section, what, bytes: bytes.concat(), whole: false, right, otherwise: None }
}

/// A case in which h2 ends the connection for a less exact reason, PROTOCOL_ERROR.
fn inexact(section: &'static str, what: &'static str, bytes: &[Vec<u8>], right: Right) -> Case {
    Case { otherwise: Some(Right::ConnectionError(&[PROTOCOL_ERROR])), ..case(section, what, bytes, right) }
}

/// A whole request that every server here answers, with these headers more.
fn request(more: &[(&str, &str)]) -> Vec<u8> {
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/health"), (":authority", "localhost")];
    headers(&[&head, more].concat())
}

fn headers(all: &[(&str, &str)]) -> Vec<u8> {
    all.iter().flat_map(|(name, value)| header(name, value)).collect()
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &MARK)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn number(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

const CLOSE: u8 = END_HEADERS | END_STREAM;

/// All of them.
pub fn all() -> Vec<Case> {
    [connection(), streams(), frames(), settings(), control(), messages()].concat()
}

/// Sections 3.4 to 4.3: the beginning, frames and their sizes, compressed headers.
fn connection() -> Vec<Case> {
    use Right::{Answer, ConnectionError, GoesOn, StreamError};
    let ask = request(&[]);
    let post = headers(&[(":method", "POST"), (":scheme", "http"), (":path", "/health"), (":authority", "localhost")]);
    let size = &[FRAME_SIZE_ERROR];
    let open = frame(HEADERS, END_HEADERS, 1, &post);
    vec![
        Case {
            whole: true,
            ..case(
                "3.4",
                "a preface that is none",
                &[b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()],
                ConnectionError(&[PROTOCOL_ERROR]),
            )
        },
        case("3.4", "a request behind the preface", &[frame(HEADERS, CLOSE, 1, &ask)], Answer),
        case("4.1", "a frame of an unknown kind", &[frame(0x16, 0xff, 0, &[0; 8]), ping()], GoesOn),
        case("4.1", "flags that mean nothing", &[frame(PING, 0xfe, 0, &MARK)], GoesOn),
        case("4.1", "the reserved bit of a stream's number", &[frame(PING, 0, 1 << 31, &MARK)], GoesOn),
        case("4.2", "DATA of the greatest size", &[open.clone(), frame(DATA, END_STREAM, 1, &[0; 16_384])], Answer),
        case("4.2", "DATA that is too long", &[open, frame(DATA, END_STREAM, 1, &[0; 16_385])], StreamError(size)),
        case("4.2", "HEADERS that are too long", &[frame(HEADERS, CLOSE, 1, &[0; 16_385])], ConnectionError(size)),
        inexact(
            "4.3",
            "a reference to no header",
            &[frame(HEADERS, CLOSE, 1, &[0x80])],
            ConnectionError(&[COMPRESSION_ERROR]),
        ),
        inexact(
            "4.3",
            "a table that is larger than allowed",
            &[frame(HEADERS, CLOSE, 1, &[&[0x3f, 0xff, 0xff, 0x03][..], &ask].concat())],
            ConnectionError(&[COMPRESSION_ERROR]),
        ),
        case(
            "4.3",
            "PRIORITY among headers",
            &[frame(HEADERS, END_STREAM, 1, &ask), frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])],
            ConnectionError(&[PROTOCOL_ERROR]),
        ),
        case(
            "4.3",
            "HEADERS of another stream among headers",
            &[frame(HEADERS, END_STREAM, 1, &ask), frame(HEADERS, CLOSE, 3, &ask)],
            ConnectionError(&[PROTOCOL_ERROR]),
        ),
        case(
            "5.5",
            "a frame of an unknown kind among headers",
            &[frame(HEADERS, END_STREAM, 1, &ask), frame(0x16, 0, 0, &[])],
            ConnectionError(&[PROTOCOL_ERROR]),
        ),
    ]
}

/// Sections 5.1 to 5.1.2: states and numbers of streams.
fn streams() -> Vec<Case> {
    use Right::{ConnectionError, StreamError};
    let ask = request(&[]);
    let wrong = &[PROTOCOL_ERROR];
    let closed = &[STREAM_CLOSED];
    let get = |stream| frame(HEADERS, CLOSE, stream, &ask);
    let reset = || [frame(HEADERS, END_HEADERS, 1, &ask), frame(RST_STREAM, 0, 1, &number(8))].concat();
    // more than any of the ports allows, none of which ends
    let many = (0..300).map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &ask)).collect::<Vec<_>>();
    vec![
        case("5.1", "DATA on an idle stream", &[frame(DATA, END_STREAM, 1, b"x")], ConnectionError(wrong)),
        case("5.1", "RST_STREAM on an idle stream", &[frame(RST_STREAM, 0, 1, &number(8))], ConnectionError(wrong)),
        case(
            "5.1",
            "WINDOW_UPDATE on an idle stream",
            &[frame(WINDOW_UPDATE, 0, 1, &number(9))],
            ConnectionError(wrong),
        ),
        case(
            "5.1",
            "CONTINUATION on an idle stream",
            &[frame(CONTINUATION, END_HEADERS, 1, &ask)],
            ConnectionError(wrong),
        ),
        inexact(
            "5.1",
            "DATA behind the end of a request",
            &[get(1), frame(DATA, END_STREAM, 1, b"x")],
            StreamError(closed),
        ),
        inexact("5.1", "HEADERS behind the end of a request", &[get(1), get(1)], StreamError(closed)),
        case("5.1", "DATA behind RST_STREAM", &[reset(), frame(DATA, END_STREAM, 1, b"x")], StreamError(closed)),
        inexact("5.1", "HEADERS behind RST_STREAM", &[reset(), get(1)], StreamError(closed)),
        case("5.1.1", "a stream with an even number", &[get(2)], ConnectionError(wrong)),
        case("5.1.1", "a stream with a lower number", &[get(5), get(3)], ConnectionError(wrong)),
        case("5.1.2", "more streams than are allowed", &many, StreamError(&[PROTOCOL_ERROR, REFUSED_STREAM])),
    ]
}

/// Sections 6.1 to 6.4 and 6.6: frames of streams.
fn frames() -> Vec<Case> {
    use Right::{ConnectionError, StreamError};
    let ask = request(&[]);
    let (wrong, size) = (&[PROTOCOL_ERROR], &[FRAME_SIZE_ERROR]);
    let open = frame(HEADERS, END_HEADERS, 1, &ask);
    let padded = [&[255][..], &ask].concat();
    vec![
        case("6.1", "DATA of no stream", &[frame(DATA, 0, 0, b"x")], ConnectionError(wrong)),
        case(
            "6.1",
            "DATA with more padding than there is",
            &[open.clone(), frame(DATA, PADDED, 1, &[9, 0])],
            ConnectionError(wrong),
        ),
        case("6.2", "HEADERS of no stream", &[frame(HEADERS, CLOSE, 0, &ask)], ConnectionError(wrong)),
        case(
            "6.2",
            "HEADERS with more padding than there is",
            &[frame(HEADERS, CLOSE | PADDED, 1, &padded)],
            ConnectionError(wrong),
        ),
        case("6.3", "PRIORITY of no stream", &[frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 1])], ConnectionError(wrong)),
        inexact(
            "6.3",
            "PRIORITY that is too short",
            &[open.clone(), frame(PRIORITY, 0, 1, &[0; 4])],
            StreamError(size),
        ),
        case("6.4", "RST_STREAM of no stream", &[frame(RST_STREAM, 0, 0, &number(8))], ConnectionError(wrong)),
        inexact(
            "6.4",
            "RST_STREAM that is too short",
            &[open, frame(RST_STREAM, 0, 1, &[0; 3])],
            ConnectionError(size),
        ),
        case(
            "6.6",
            "PUSH_PROMISE of a client",
            &[frame(PUSH_PROMISE, END_HEADERS, 1, &[&number(2)[..], &ask].concat())],
            ConnectionError(wrong),
        ),
    ]
}

/// Section 6.5.
fn settings() -> Vec<Case> {
    use Right::{Acknowledged, ConnectionError, GoesOn};
    let (wrong, size) = (&[PROTOCOL_ERROR], &[FRAME_SIZE_ERROR]);
    vec![
        inexact("6.5", "an acknowledgement with a payload", &[frame(SETTINGS, ACK, 0, &[0; 6])], ConnectionError(size)),
        case("6.5", "SETTINGS of a stream", &[frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 100])], ConnectionError(wrong)),
        inexact("6.5", "SETTINGS of half a setting", &[frame(SETTINGS, 0, 0, &[0; 3])], ConnectionError(size)),
        case("6.5.2", "ENABLE_PUSH = 2", &[setting(2, 2)], ConnectionError(wrong)),
        inexact("6.5.2", "INITIAL_WINDOW_SIZE = 2^31", &[setting(4, 1 << 31)], ConnectionError(&[FLOW_CONTROL_ERROR])),
        case("6.5.2", "MAX_FRAME_SIZE = 16,383", &[setting(5, 16_383)], ConnectionError(wrong)),
        case("6.5.2", "MAX_FRAME_SIZE = 2^24", &[setting(5, 1 << 24)], ConnectionError(wrong)),
        case("6.5.2", "a setting nobody knows", &[setting(0xff, 1), ping()], GoesOn),
        case("6.5.3", "SETTINGS", &[setting(3, 100)], Acknowledged),
    ]
}

/// Sections 6.7 to 6.10.
fn control() -> Vec<Case> {
    use Right::{Answer, ConnectionError, GoesOn, StreamError};
    let ask = request(&[]);
    let (wrong, size, flow) = (&[PROTOCOL_ERROR], &[FRAME_SIZE_ERROR], &[FLOW_CONTROL_ERROR]);
    let open = frame(HEADERS, END_HEADERS, 1, &ask);
    let most = number((1 << 31) - 1);
    let (first, last) = ask.split_at(20);
    let whole = [frame(HEADERS, CLOSE, 1, &ask), frame(CONTINUATION, END_HEADERS, 1, &ask)];
    let begun = frame(HEADERS, END_STREAM, 1, first);
    let parts = [begun.clone(), frame(CONTINUATION, 0, 1, &last[..7]), frame(CONTINUATION, END_HEADERS, 1, &last[7..])];
    vec![
        case("6.7", "a PING", &[ping()], GoesOn),
        case("6.7", "the answer to no PING", &[frame(PING, ACK, 0, &[0; 8]), ping()], GoesOn),
        case("6.7", "a PING of a stream", &[frame(PING, 0, 1, &MARK)], ConnectionError(wrong)),
        inexact("6.7", "a PING that is too short", &[frame(PING, 0, 0, &[0; 6])], ConnectionError(size)),
        case("6.8", "GOAWAY of a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], ConnectionError(wrong)),
        case("6.9", "WINDOW_UPDATE by nothing", &[frame(WINDOW_UPDATE, 0, 0, &number(0))], ConnectionError(wrong)),
        case(
            "6.9",
            "WINDOW_UPDATE of a stream by nothing",
            &[open.clone(), frame(WINDOW_UPDATE, 0, 1, &number(0))],
            StreamError(wrong),
        ),
        inexact(
            "6.9",
            "WINDOW_UPDATE that is too short",
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            ConnectionError(size),
        ),
        case("6.9.1", "a window of more than 2^31 - 1", &[frame(WINDOW_UPDATE, 0, 0, &most)], ConnectionError(flow)),
        case(
            "6.9.1",
            "a stream's window of more than 2^31 - 1",
            &[open, frame(WINDOW_UPDATE, 0, 1, &most)],
            StreamError(flow),
        ),
        case("6.10", "headers in three frames", &parts, Answer),
        case("6.10", "CONTINUATION behind the end of headers", &whole, ConnectionError(wrong)),
        case(
            "6.10",
            "CONTINUATION of no stream",
            &[begun.clone(), frame(CONTINUATION, END_HEADERS, 0, last)],
            ConnectionError(wrong),
        ),
        case("6.10", "DATA among headers", &[begun, frame(DATA, END_STREAM, 1, b"x")], ConnectionError(wrong)),
    ]
}

/// Sections 8.1 to 8.3: requests that are malformed.
fn messages() -> Vec<Case> {
    let (method, scheme, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/health"));
    let wrong = |section, what, list: &[(&str, &str)]| {
        case(section, what, &[frame(HEADERS, CLOSE, 1, &headers(list))], Right::StreamError(&[PROTOCOL_ERROR]))
    };
    let more =
        |section, what, list: &[(&str, &str)]| wrong(section, what, &[&[method, scheme, path][..], list].concat());
    let open = || frame(HEADERS, END_HEADERS, 1, &request(&[("content-length", "2")]));
    let malformed = Right::StreamError(&[PROTOCOL_ERROR]);
    vec![
        case(
            "8.1",
            "trailers that do not end the request",
            &[open(), frame(HEADERS, END_HEADERS, 1, &header("x", "y"))],
            malformed,
        ),
        case(
            "8.1",
            "a pseudo-header among trailers",
            &[open(), frame(HEADERS, CLOSE, 1, &header(":method", "GET"))],
            malformed,
        ),
        case("8.1.1", "less than `content-length` says", &[open(), frame(DATA, END_STREAM, 1, b"x")], malformed),
        case("8.1.1", "more than `content-length` says", &[open(), frame(DATA, END_STREAM, 1, b"xyz")], malformed),
        more("8.2.1", "a name in capitals", &[("X-Test", "y")]),
        more("8.2.2", "`connection`", &[("connection", "keep-alive")]),
        more("8.2.2", "`te` other than trailers", &[("te", "gzip")]),
        more("8.3", "a pseudo-header behind a header", &[("x", "y"), (":authority", "localhost")]),
        more("8.3", "a pseudo-header nobody knows", &[(":test", "y")]),
        more("8.3", "a pseudo-header of an answer", &[(":status", "200")]),
        more("8.3.1", "`:path` twice", &[path]),
        wrong("8.3.1", "an empty `:path`", &[method, scheme, (":path", "")]),
        wrong("8.3.1", "no `:method`", &[scheme, path]),
        wrong("8.3.1", "no `:scheme`", &[method, path]),
        // hyper takes it for a path that nobody has
        Case { otherwise: Some(Right::Answer), ..wrong("8.3.1", "no `:path`", &[method, scheme]) },
    ]
}
