//! Requests of every size and shape: larger than any window, streamed, failing, given up.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sensormesh_mesh::client::Channel;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service as _;

use super::fake::*;

const SOON: Duration = Duration::from_secs(10);

/// A server that answers when it has read the whole request; says how many bytes each had, or `None` for one that broke
/// off.
async fn reader() -> (SocketAddr, mpsc::UnboundedReceiver<Option<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (read, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let read = read.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let read = read.clone();
                async move {
                    let body = request.into_body().collect().await;
                    read.send(body.ok().map(|body| body.to_bytes().len())).expect("the test listens");
                    let mut response = Response::new(Empty::<Bytes>::new());
                    response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
                    Ok::<_, Infallible>(response)
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, requests)
}

fn telemetry(address: SocketAddr) -> Channel {
    edge(&[("telemetry", vec![address])], plain()).channel("telemetry").expect("a channel")
}

fn request(method: &str, body: Body) -> Request<Body> {
    Request::post(format!("/sensormesh.telemetry.v1.TelemetryService/{method}")).body(body).expect("a request")
}

fn pieces(pieces: impl futures::Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Body {
    Body::new(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))))
}

#[tokio::test]
async fn a_request_larger_than_the_windows_arrives_whole() {
    let (address, mut requests) = reader().await;
    let mut channel = telemetry(address);
    let large = Bytes::from(vec![7; 3 << 20]);
    channel.call(request("IngestReadings", pieces(stream::iter([Ok(large)])))).await.expect("an answer");
    assert_eq!(requests.recv().await, Some(Some(3 << 20)));
}

#[tokio::test]
async fn a_streamed_request_arrives_whole_whatever_its_pieces() {
    let (address, mut requests) = reader().await;
    let mut channel = telemetry(address);
    let sizes = [5, 0, 100_000, 1, 0, 300_000, 0];
    let body = pieces(stream::iter(sizes).map(|size| Ok(Bytes::from(vec![7; size]))));
    channel.call(request("IngestStream", body)).await.expect("an answer");
    assert_eq!(requests.recv().await, Some(Some(sizes.iter().sum())));
}

#[tokio::test]
async fn a_streamed_request_that_fails_fails_with_its_own_status() {
    let (address, mut requests) = reader().await;
    let mut channel = telemetry(address);
    let body = pieces(stream::iter([Ok(Bytes::from_static(b"begun")), Err(Status::data_loss("the file is damaged"))]));
    let status = channel.call(request("IngestStream", body)).await.expect_err("no answer");
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "the file is damaged"));
    assert_eq!(timeout(SOON, requests.recv()).await, Ok(Some(None)), "the server sees that it broke off");
}

#[tokio::test]
async fn a_streamed_request_that_is_given_up_is_taken_back() {
    let (address, mut requests) = reader().await;
    let mut channel = telemetry(address);
    let (begun, begins) = tokio::sync::oneshot::channel();
    let first = stream::once(async move {
        begun.send(()).expect("the test waits");
        Ok(Bytes::from_static(b"begun"))
    });
    let call = tokio::spawn(channel.call(request("IngestStream", pieces(first.chain(stream::pending())))));
    begins.await.expect("begun");
    call.abort();
    assert_eq!(timeout(SOON, requests.recv()).await, Ok(Some(None)));
}
