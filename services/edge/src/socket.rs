//! Streams over a WebSocket: a JSON text for each message, in either direction.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::contract::Contract;
use crate::failure;
use crate::frame::{self, Messages};
use crate::live::{Live, Next};
use crate::transcode::from_json;

/// Messages on their way from a socket to a service.
const IN_FLIGHT: usize = 16;

/// Makes a call with a body.
pub type Make = Box<dyn FnOnce(tonic::body::Body) -> Answering + Send>;

type Answering = BoxFuture<'static, Result<Response<tonic::body::Body>, Status>>;
type Sender = mpsc::Sender<Result<Frame<Bytes>, Status>>;

/// The call behind a socket, as far as it exists before the socket does.
pub struct Call {
    /// The contracts.
    pub contract: Arc<Contract>,
    /// The route.
    pub route: usize,
    /// What path and query say; goes into the first message.
    pub head: Vec<u8>,
    /// The longest message of an answer.
    pub answer: usize,
    /// The pause after which a silent socket gets a ping.
    pub heartbeat: Duration,
    /// Makes the call with this body.
    pub make: Make,
    /// Cuts the call.
    pub ending: BoxFuture<'static, Status>,
    /// Kept as long as the socket.
    pub held: Box<dyn Send>,
}

impl Call {
    /// Accepts the upgrade and goes on behind it.
    pub fn accept(self, upgrade: WebSocketUpgrade, largest: usize) -> Response<Body> {
        let upgrade = upgrade.max_message_size(largest).max_frame_size(largest);
        upgrade.on_upgrade(move |socket| self.run(socket)).into_response()
    }

    async fn run(self, socket: WebSocket) {
        let contract = Arc::clone(&self.contract);
        let method = &contract.methods[contract.routes[self.route].method];
        if method.client_streaming {
            self.both_ways(socket).await;
        } else {
            self.outward(socket).await;
        }
    }

    /// The request is whole; only answers travel.
    async fn outward(self, mut socket: WebSocket) {
        let mut message = frame::begin(self.head.len());
        message.extend_from_slice(&self.head);
        let body = tonic::body::Body::new(http_body_util::Full::new(frame::finish(message)));
        let messages = match (self.make)(body).await.and_then(|response| Messages::of(response, self.answer)) {
            Ok(messages) => messages,
            Err(status) => return refuse(&mut socket, &self.contract, &status).await,
        };
        let mut live =
            Live::new(Arc::clone(&self.contract), self.route, messages, self.ending, self.heartbeat, self.held);
        loop {
            tokio::select! {
                next = live.next() => if !forward(&mut socket, &self.contract, next).await { return },
                received = socket.recv() => match received {
                    None | Some(Err(_) | Ok(Message::Close(_))) => return,
                    Some(Ok(_)) => {}
                },
            }
        }
    }

    /// Messages travel in; an empty text says that there are no more. Answers travel out as they come.
    async fn both_ways(self, mut socket: WebSocket) {
        let (sender, receiver): (Sender, _) = mpsc::channel(IN_FLIGHT);
        let mut sender = Some(sender);
        let mut head = Some(self.head);
        // a message that the service has no room for yet: until then none is read, and answers still travel
        let mut waiting: Option<Bytes> = None;
        let mut call = (self.make)(tonic::body::Body::new(StreamBody::new(ReceiverStream::new(receiver))));
        let mut rest = Some((self.ending, self.held));
        let mut live: Option<Live> = None;
        loop {
            tokio::select! {
                response = &mut call, if live.is_none() => {
                    let messages = match response.and_then(|response| Messages::of(response, self.answer)) {
                        Ok(messages) => messages,
                        Err(status) => return refuse(&mut socket, &self.contract, &status).await,
                    };
                    let Some((ending, held)) = rest.take() else { return };
                    live = Some(Live::new(Arc::clone(&self.contract), self.route, messages, ending, self.heartbeat, held));
                }
                next = async { match live.as_mut() {
                    Some(live) => live.next().await,
                    None => std::future::pending().await,
                } } => if !forward(&mut socket, &self.contract, next).await { return },
                permit = reserve(sender.clone()), if waiting.is_some() => match (permit, waiting.take()) {
                    (Some(permit), Some(message)) => drop(permit.send(Ok(Frame::data(message)))),
                    // the service takes no more: its answer says why
                    _ => sender = None,
                },
                status = async { match rest.as_mut() {
                    Some((ending, _)) => ending.await,
                    None => std::future::pending().await,
                } } => return refuse(&mut socket, &self.contract, &status).await,
                received = socket.recv(), if waiting.is_none() => {
                    let text = match received {
                        None | Some(Err(_) | Ok(Message::Close(_))) => return,
                        Some(Ok(Message::Text(text))) => Bytes::from(text),
                        Some(Ok(Message::Binary(bytes))) => bytes,
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    };
                    if text.is_empty() {
                        sender = None;
                    } else if sender.is_some() {
                        match incoming(&self.contract, self.route, &text, head.take()) {
                            Ok(message) => waiting = Some(message),
                            Err(status) => return refuse(&mut socket, &self.contract, &status).await,
                        }
                    }
                }
            }
        }
    }
}

async fn reserve(sender: Option<Sender>) -> Option<mpsc::OwnedPermit<Result<Frame<Bytes>, Status>>> {
    sender?.reserve_owned().await.ok()
}

fn incoming(contract: &Contract, route: usize, text: &[u8], head: Option<Vec<u8>>) -> Result<Bytes, Status> {
    let mut message = frame::begin(text.len());
    let input = contract.methods[contract.routes[route].method].input;
    from_json::message(&contract.shapes, input, text, "", &mut message)?;
    message.extend_from_slice(&head.unwrap_or_default());
    Ok(frame::finish(message))
}

/// Hands on what came from the service. Gives whether the socket goes on.
async fn forward(socket: &mut WebSocket, contract: &Contract, next: Next) -> bool {
    match next {
        Next::Message(json, _) => match String::from_utf8(json) {
            Ok(text) => socket.send(Message::Text(text.into())).await.is_ok(),
            Err(_) => false,
        },
        Next::Silence => socket.send(Message::Ping(Bytes::new())).await.is_ok(),
        Next::Failed(status) => {
            refuse(socket, contract, &status).await;
            false
        }
        Next::End => {
            close(socket, 1000, "the stream has ended").await;
            false
        }
    }
}

/// Sends a status and closes: with 1013 where coming back may help, else with 4000 and the code.
async fn refuse(socket: &mut WebSocket, contract: &Contract, status: &Status) {
    let json = String::from_utf8(failure::json(&contract.shapes, status)).unwrap_or_default();
    // a socket that is gone needs no reason
    let _ = socket.send(Message::Text(format!("{{\"error\":{json}}}").into())).await;
    let code = match status.code() {
        Code::Unavailable => 1013,
        code => 4000 + u16::try_from(code as i32).unwrap_or(2),
    };
    close(socket, code, status.message()).await;
}

async fn close(socket: &mut WebSocket, code: u16, reason: &str) {
    // a close frame has room for 123 bytes
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let frame = CloseFrame { code, reason: reason[..end].into() };
    let _ = socket.send(Message::Close(Some(frame))).await;
}
