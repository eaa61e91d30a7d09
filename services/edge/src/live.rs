//! Server streams in plain HTTP: server-sent events, lines of JSON, raw bytes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use tonic::Status;

use crate::contract::{Contract, Route};
use crate::failure::{self, Failure};
use crate::frame::Messages;
use crate::rest;
use crate::transcode::wire::{Record, Records};

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `text/event-stream`: for `EventSource`.
    Events,
    /// `application/x-ndjson`: a line of JSON for each message.
    Lines,
}

impl Form {
    /// What the client asks for; lines where it does not say.
    pub fn of(headers: &HeaderMap) -> Self {
        let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let events = accepts.into_iter().any(|accept| accept.to_ascii_lowercase().contains("text/event-stream"));
        if events { Form::Events } else { Form::Lines }
    }
}

/// An open stream from a service, as JSON.
pub struct Live {
    contract: Arc<Contract>,
    route: usize,
    messages: Messages,
    ending: BoxFuture<'static, Status>,
    heartbeat: Duration,
    over: bool,
    _held: Box<dyn Send>,
}

/// What comes next in a stream.
pub enum Next {
    /// A message as JSON, and the cursor to resume after it.
    Message(Vec<u8>, Option<String>),
    /// Nothing has come for a while.
    Silence,
    /// The stream ended badly.
    Failed(Box<Status>),
    /// The stream ended well.
    End,
}

impl Live {
    /// Follows the answer of a service. `ending` cuts it; `held` is kept as long as it lasts.
    pub fn new(
        contract: Arc<Contract>,
        route: usize,
        messages: Messages,
        ending: BoxFuture<'static, Status>,
        heartbeat: Duration,
        held: impl Send + 'static,
    ) -> Self {
        Self { contract, route, messages, ending, heartbeat, over: false, _held: Box::new(held) }
    }

    fn route(&self) -> &Route {
        &self.contract.routes[self.route]
    }

    async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.over {
            return Ok(None);
        }
        let message = tokio::select! {
            message = self.messages.next() => message.transpose(),
            status = &mut self.ending => Err(status),
        };
        self.over = !matches!(message, Ok(Some(_)));
        message
    }

    /// Waits for what comes next. Nothing is lost where the wait is given up.
    pub async fn next(&mut self) -> Next {
        let message = match tokio::time::timeout(self.heartbeat, self.message()).await {
            Err(_) => return Next::Silence,
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Next::End,
            Ok(Err(status)) => return Next::Failed(Box::new(status)),
        };
        match rest::json(&self.contract, self.route(), &message) {
            Ok(json) => Next::Message(json, self.cursor(&message)),
            Err(status) => {
                self.over = true;
                Next::Failed(Box::new(status))
            }
        }
    }

    fn cursor(&self, message: &[u8]) -> Option<String> {
        let method = &self.contract.methods[self.route().method];
        let number = self.contract.shapes.message(method.output).fields[method.cursor?].number;
        let last = Records(message).filter_map(Result::ok).filter(|(n, _)| *n == number).last();
        match last {
            Some((_, Record::Length(cursor))) if !cursor.is_empty() => {
                Some(String::from_utf8_lossy(cursor).into_owned()).filter(|cursor| !cursor.contains(['\n', '\r', '\0']))
            }
            _ => None,
        }
    }

    /// The answer in one of the two forms.
    pub fn response(self, form: Form) -> Response<Body> {
        let content_type = match form {
            Form::Events => "text/event-stream; charset=utf-8",
            Form::Lines => "application/x-ndjson",
        };
        let mut response = Response::new(Body::from_stream(self.bytes(form)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    fn bytes(self, form: Form) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        futures::stream::unfold((self, true, false), move |(mut live, first, over)| async move {
            if over {
                return None;
            }
            if first && form == Form::Events {
                // an open line at once, so that the page knows that it is connected; then how soon to come back
                return Some((Ok(Bytes::from_static(b"retry: 2000\n\n")), (live, false, false)));
            }
            let next = live.next().await;
            let over = matches!(next, Next::Failed(_) | Next::End);
            let bytes = match next {
                Next::End => return None,
                next => write(form, &live.contract, next),
            };
            Some((Ok(bytes), (live, false, over)))
        })
    }

    /// The answer of a stream of `google.api.HttpBody`: the bytes one after the other, with the type of the first.
    pub async fn raw(mut self) -> Result<Response<Body>, Failure> {
        let (content_type, first) = match self.message().await? {
            Some(message) => {
                let (content_type, data) = rest::raw_parts(&self.contract, self.route(), &message)?;
                (content_type, message.slice_ref(data))
            }
            None => (HeaderValue::from_static("application/octet-stream"), Bytes::new()),
        };
        let rest = futures::stream::unfold(self, |mut live| async move {
            let bytes = match live.message().await {
                Ok(Some(message)) => {
                    rest::raw_parts(&live.contract, live.route(), &message).map(|(_, data)| message.slice_ref(data))
                }
                Ok(None) => return None,
                Err(status) => Err(status),
            };
            // an error breaks the connection off, so that nobody takes half a file for a whole one
            Some((bytes, live))
        });
        let bytes = futures::StreamExt::chain(futures::stream::iter([Ok(first)]), rest);
        let mut response = Response::new(Body::from_stream(bytes));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

fn write(form: Form, contract: &Contract, next: Next) -> Bytes {
    let mut out = Vec::new();
    match (form, next) {
        (Form::Events, Next::Message(json, cursor)) => {
            if let Some(cursor) = cursor {
                out.extend_from_slice(b"id: ");
                out.extend_from_slice(cursor.as_bytes());
                out.push(b'\n');
            }
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(&json);
            out.extend_from_slice(b"\n\n");
        }
        (Form::Events, Next::Failed(status)) => {
            out.extend_from_slice(b"event: error\ndata: ");
            out.extend_from_slice(&failure::json(&contract.shapes, &status));
            out.extend_from_slice(b"\n\n");
        }
        (Form::Events, Next::Silence) => out.extend_from_slice(b": alive\n\n"),
        (Form::Lines, Next::Message(json, _)) => {
            out = json;
            out.push(b'\n');
        }
        (Form::Lines, Next::Failed(status)) => {
            out.extend_from_slice(b"{\"error\":");
            out.extend_from_slice(&failure::json(&contract.shapes, &status));
            out.extend_from_slice(b"}\n");
        }
        (Form::Lines, Next::Silence) => out.push(b'\n'),
        (_, Next::End) => {}
    }
    out.into()
}
