//! REST: an HTTP request as a call, an answer as JSON.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use sensormesh_types::{Code, Error};
use tonic::Status;

use crate::contract::{self, Contract, Route};
use crate::failure::Failure;
use crate::frame::{self, Messages};
use crate::transcode::from_json;
use crate::transcode::path::{FieldPath, parameters};
use crate::transcode::shape::{Kind, MessageId};
use crate::transcode::to_json::{self, Defaults};
use crate::transcode::wire::{self, Record, Records, WireType, delimited};

/// How long a client may take to send a body.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a whole body of at most `limit` bytes.
pub async fn collect(headers: &HeaderMap, body: Body, limit: u64) -> Result<Bytes, Failure> {
    let too_large = || {
        let message = format!("the body is longer than {limit} bytes; send it in parts");
        Failure::http(StatusCode::PAYLOAD_TOO_LARGE, Error::new(Code::Exhausted, "BODY_TOO_LARGE", message))
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let read = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let broken = Error::new(Code::Invalid, "BODY_INCOMPLETE", "the body broke off");
            Err(broken.about("body").caused_by(error).into())
        }
        Err(_) => {
            let error = Error::new(Code::Timeout, "BODY_SLOW", "the body did not arrive within 30 s");
            Err(Failure::http(StatusCode::REQUEST_TIMEOUT, error))
        }
    }
}

/// What a request brings besides its body.
pub struct Asked<'a> {
    /// The texts of the template's variables.
    pub captured: &'a [String],
    /// The query as it stands in the request line.
    pub query: &'a str,
    /// The cursor that a stream goes on from, where it came in a header.
    pub resume: Option<&'a str>,
}

/// Appends what path, query and headers say to a request message, which begins in `out` at `from`. What the path says, nothing else
/// may say otherwise: INVALID, naming the field.
pub fn head(
    contract: &Contract,
    route: &Route,
    asked: &Asked<'_>,
    from: usize,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let (shapes, method) = (&contract.shapes, &contract.methods[route.method]);
    if !asked.query.is_empty() {
        let pairs = form_urlencoded::parse(asked.query.as_bytes()).filter(|(name, _)| name != "ticket");
        match &route.body {
            contract::Body::Whole if !method.is_stream() => {
                if let Some((name, _)) = pairs.into_iter().next() {
                    let description = "parameters of this method go in the body";
                    return Err(Error::invalid(name.into_owned(), description).into());
                }
            }
            contract::Body::Field(path) => {
                parameters(shapes, method.input, pairs, Some(path.outermost(shapes)), out)?;
            }
            _ => parameters(shapes, method.input, pairs, None, out)?,
        }
    }
    for (path, text) in route.captures.iter().zip(asked.captured) {
        let mut written = Vec::new();
        path.write(shapes, None, text, &mut written)?;
        let elsewhere = path.value(shapes, out.get(from..).unwrap_or_default()).map_err(Error::internal)?;
        if elsewhere.is_some() && elsewhere != path.value(shapes, &written).map_err(Error::internal)? {
            let description = format!("is {text:?} in the path, and something else in the body or the query");
            return Err(Error::invalid(&path.name, description).into());
        }
        out.extend_from_slice(&written);
    }
    if let (Some(cursor), Some(path)) = (asked.resume, &method.resumes_at) {
        path.write(shapes, None, cursor, out)?;
    }
    Ok(())
}

/// Appends what the body says to a request message.
pub fn body(
    contract: &Contract,
    route: &Route,
    headers: &HeaderMap,
    body: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let (shapes, input) = (&contract.shapes, contract.methods[route.method].input);
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !body.is_empty() {
        demand_plain(headers)?;
    }
    if contract.raw_body(route) {
        return raw(contract, route, content_type, body, out);
    }
    if body.is_empty() {
        return Ok(());
    }
    if route.body == contract::Body::None {
        let said: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        return match said.as_slice() {
            b"" | b"{}" => Ok(()),
            // what is left unread could be what a deletion was to be limited to
            _ => Err(Error::invalid("body", "this method takes none: its parameters go in the query").into()),
        };
    }
    match form(content_type, body)? {
        Form::Json => match &route.body {
            contract::Body::Whole => from_json::message(shapes, input, body, "", out)?,
            contract::Body::Field(path) => json_field(contract, path, body, out)?,
            contract::Body::None => {}
        },
        Form::UrlEncoded if route.body == contract::Body::Whole => {
            parameters(shapes, input, form_urlencoded::parse(body), None, out)?;
        }
        Form::UrlEncoded => return Err(unsupported(content_type)),
    }
    Ok(())
}

enum Form {
    Json,
    UrlEncoded,
}

fn form(content_type: &str, body: &[u8]) -> Result<Form, Failure> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/json" | "text/json" => Ok(Form::Json),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(Form::Json),
        // curl says so of everything that is given with -d
        "application/x-www-form-urlencoded" if body.trim_ascii_start().starts_with(b"{") => Ok(Form::Json),
        "application/x-www-form-urlencoded" => Ok(Form::UrlEncoded),
        _ => Err(unsupported(content_type)),
    }
}

fn unsupported(content_type: &str) -> Failure {
    let message = format!("a body of the type {content_type:?} is not taken here; send application/json");
    let error = Error::new(Code::Invalid, "CONTENT_TYPE", message).about("content-type");
    Failure::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, error)
}

/// Refuses a body that is compressed or encoded otherwise.
fn demand_plain(headers: &HeaderMap) -> Result<(), Failure> {
    let coded = |coding: &&HeaderValue| !coding.is_empty() && !coding.as_bytes().eq_ignore_ascii_case(b"identity");
    let Some(coding) = headers.get_all(CONTENT_ENCODING).iter().find(coded) else { return Ok(()) };
    let message =
        format!("a body with the encoding {coding:?} is not taken here; send it as it is, without compression");
    let error = Error::new(Code::Invalid, "CONTENT_ENCODING", message).about("content-encoding");
    Err(Failure::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, error).with(ACCEPT_ENCODING, "identity"))
}

fn json_field(contract: &Contract, path: &FieldPath, body: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
    if !path.is_outermost() {
        return Err(Error::invalid(&path.name, "a body goes to a field of the request itself").into());
    }
    from_json::field(&contract.shapes, path.field(&contract.shapes), body, &path.name, out)?;
    Ok(())
}

/// A body that is no JSON: `google.api.HttpBody` with its type and its bytes.
fn raw(contract: &Contract, route: &Route, content_type: &str, body: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
    let fill = |out: &mut Vec<u8>| {
        if !content_type.is_empty() {
            wire::bytes(out, 1, content_type.as_bytes());
        }
        wire::bytes(out, 2, body);
        Ok::<(), Error>(())
    };
    match &route.body {
        contract::Body::Field(path) => {
            wire::tag(out, path.field(&contract.shapes).number, WireType::Length);
            delimited(out, fill)?;
        }
        _ => fill(out)?,
    }
    Ok(())
}

/// The whole request message with its prefix, ready to be sent.
pub fn request(
    contract: &Contract,
    route: &Route,
    asked: &Asked<'_>,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Bytes, Failure> {
    let mut message = frame::begin(bytes.len() + 64);
    body(contract, route, headers, bytes, &mut message)?;
    head(contract, route, asked, frame::PREFIX, &mut message)?;
    Ok(frame::finish(message))
}

/// The answer of a unary call.
pub async fn answer(
    contract: &Contract,
    route: &Route,
    response: Response<tonic::body::Body>,
    limit: u64,
) -> Result<Response<Body>, Failure> {
    let messages = Messages::of(response, usize::try_from(limit).unwrap_or(usize::MAX))?;
    let message = messages.only().await?;
    let mut response = if route.raw {
        let (content_type, data) = raw_parts(contract, route, &message)?;
        let mut response = Response::new(Body::from(message.slice_ref(data)));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    } else {
        let mut response = Response::new(Body::from(json(contract, route, &message)?));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One message of an answer as JSON.
pub fn json(contract: &Contract, route: &Route, message: &[u8]) -> Result<Vec<u8>, Status> {
    let (shapes, output) = (&contract.shapes, contract.methods[route.method].output);
    let mut out = Vec::with_capacity(message.len() * 2 + 64);
    let written = match route.shown {
        Some(position) => to_json::field(shapes, output, position, message, Defaults::Written, &mut out),
        None => to_json::message(shapes, output, message, Defaults::Written, &mut out),
    };
    written.map_err(Error::internal)?;
    Ok(out)
}

/// The type and the bytes of an answer that is a `google.api.HttpBody`.
pub fn raw_parts<'a>(contract: &Contract, route: &Route, message: &'a [u8]) -> Result<(HeaderValue, &'a [u8]), Status> {
    let output: MessageId = contract.methods[route.method].output;
    let malformed = |malformed: wire::Malformed| Status::from(Error::internal(malformed));
    let bytes_of = |wire: &'a [u8], wanted: u32| -> Result<&'a [u8], Status> {
        let mut found: &[u8] = &[];
        for record in Records(wire) {
            if let (number, Record::Length(bytes)) = record.map_err(malformed)?
                && number == wanted
            {
                found = bytes;
            }
        }
        Ok(found)
    };
    let body = match route.shown.map(|position| &contract.shapes.message(output).fields[position]) {
        Some(field) if matches!(field.kind, Kind::Message(_)) => bytes_of(message, field.number)?,
        _ => message,
    };
    let content_type = String::from_utf8_lossy(bytes_of(body, 1)?);
    let content_type = if content_type.is_empty() { Cow::Borrowed("application/octet-stream") } else { content_type };
    let content_type = HeaderValue::from_str(&content_type).map_err(Error::internal)?;
    Ok((content_type, bytes_of(body, 2)?))
}
