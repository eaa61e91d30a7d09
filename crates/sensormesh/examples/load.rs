//! Load for `make bench`, over mutual TLS with the operator's certificate:
//!
//! `load ingest ADDR PKI SECONDS RUN` sends 1,000-reading batches in columns, 64 in flight, and prints readings acknowledged
//! per second; each run of a number has an hour of its own. `load unary ADDR PKI SECONDS CONCURRENCY` sends one reading
//! a call, `load again …` sends one that is there already, `load latest …` asks for one sensor's latest reading; they print calls per second and latencies in microseconds. All print one line of JSON.
//!
//! With `-` for PKI these speak plaintext, and with a token in `SENSORMESH_TOKEN` as its user: through an edge.
//!
//! `load small …` is `ingest` with 100-reading batches. `load fill ADDR PKI 0 END` stores ten million readings up to a time in
//! seconds; `load history ADDR PKI SECONDS END` and `load means …` ask for a sensor's last day of them, and for a week of
//! minutes. `load watch ADDR PKI SECONDS SUBSCRIBERS` publishes 1,000 batches a second to one subscriber, 100 to more; `load
//! idle …` only holds the subscriptions. `load nats-store ADDR - SECONDS 0`, `nats-push …` and `nats-core …` send the same
//! batches through NATS, and `mqtt …` through Mosquitto: to one subscriber acknowledged (QoS 1), to more not.
//!
//! `load count-unary ADDR PKI 0 CALLS` stores so many single readings, 32 at once, and `load count-stream ADDR PKI HOURS
//! BATCHES` so many batches over one stream, taken so many hours ago: loads of a fixed size. `load many ADDR PKI 0 SENSORS` announces so many sensors and stores five readings of
//! each.

#[path = "load/counted.rs"]
mod counted;
#[path = "load/mqtt.rs"]
mod mqtt;
#[path = "load/nats.rs"]
mod nats;
#[path = "load/reads.rs"]
mod reads;
#[path = "load/watch.rs"]
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use prost::Message as _;
use sensormesh_proto::telemetry::v1::announced::Outcome;
use sensormesh_proto::telemetry::v1::channel::Values;
use sensormesh_proto::telemetry::v1::ingest_stream_request::Message;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{
    Announce, Channel as Column, Group, IngestReadingRequest, IngestStreamRequest, IngestStreamResponse,
    ListLatestReadingsRequest, ReadingBatch, Scaled,
};
use sensormesh_types::{Clock, time};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

// what the product has: the clients of both sides ask for their memory in the same way
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Readings of each sensor in a batch.
const TICKS: usize = 5;
const IN_FLIGHT: usize = 64;
/// Nanoseconds.
const HOUR: i64 = 3_600_000_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let usage = "load ingest|small|unary|again|latest|fill|history|means|watch|idle|nats-store|nats-push|nats-core|mqtt|\
                 count-unary|count-stream|many ADDR PKI SECONDS NUMBER";
    let [_, mode, address, pki, seconds, number] = args.as_slice() else { bail!(usage) };
    let number: i64 = number.parse().context(usage)?;
    let length = Duration::from_secs_f64(seconds.parse().context(usage)?);
    let many = usize::try_from(number).context(usage)?;
    let rate = if many > 1 { 100 } else { 1000 };
    match mode.as_str() {
        "nats-store" => return nats::store(address, length).await,
        "nats-push" => return nats::publish(address, length, many, rate, true).await,
        "nats-core" => return nats::publish(address, length, many, rate, false).await,
        "mqtt" => return mqtt::publish(address, length, many, rate, many == 1).await,
        _ => (),
    }
    let channel = connect(address, Path::new(pki)).await?;
    let user = std::env::var("SENSORMESH_TOKEN").ok().map(|token| format!("Bearer {token}").parse()).transpose()?;
    match mode.as_str() {
        "fill" => return reads::fill(channel, number).await,
        "history" => return reads::history(channel, length, number).await,
        "means" => return reads::means(channel, length, number).await,
        "watch" => return watch::publish(channel, length, many, rate).await,
        "idle" => return watch::idle(channel, length, many).await,
        "count-unary" => return counted::unary(channel, many).await,
        "count-stream" => return counted::stream(channel, many, i64::try_from(length.as_secs())?).await,
        "many" => return counted::many(channel, many).await,
        _ => (),
    }
    let number = u16::try_from(number).context(usage)?;
    match mode.as_str() {
        "ingest" => ingest(channel, length, number, 200).await,
        "small" => ingest(channel, length, number, 20).await,
        "unary" => calls(channel, length, number, Call::Store, user).await,
        "again" => calls(channel, length, number, Call::Again, user).await,
        "latest" => calls(channel, length, number, Call::Latest, user).await,
        _ => bail!(usage),
    }
}

async fn connect(address: &str, pki: &Path) -> Result<Channel> {
    if pki == Path::new("-") {
        return Ok(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    }
    let read = |name: &str| std::fs::read(pki.join(name)).with_context(|| format!("cannot read {name}"));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")?))
        .identity(Identity::from_pem(read("operator.pem")?, read("operator-key.pem")?))
        .domain_name("localhost");
    Ok(Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await?)
}

/// Says which sensors' readings will follow.
fn announce(sensors: usize) -> IngestStreamRequest {
    let sensors = (0..sensors).map(|i| format!("bench.s{i}")).collect();
    IngestStreamRequest { message: Some(Message::Announce(Announce { sensors, backfill: false })) }
}

/// The numbers that were given to the announced sensors.
async fn numbers(answers: &mut Streaming<IngestStreamResponse>, sensors: usize) -> Result<Vec<u32>> {
    let mut series = Vec::new();
    while series.len() < sensors {
        let answer = answers.message().await?.context("the stream ended")?;
        for announced in answer.announced {
            match announced.outcome {
                Some(Outcome::Series(number)) => series.push(number),
                other => bail!("{} was refused: {other:?}", announced.sensor_id),
            }
        }
    }
    Ok(series)
}

async fn ingest(channel: Channel, length: Duration, run: u16, sensors: usize) -> Result<()> {
    let mut client = TelemetryServiceClient::new(channel);
    let (send, requests) = mpsc::channel(IN_FLIGHT);
    send.send(announce(sensors)).await?;
    let mut answers = client.ingest_stream(ReceiverStream::new(requests)).await?.into_inner();
    let series = numbers(&mut answers, sensors).await?;
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    let start = Instant::now();
    let first = Clock::system().now_nanos() - 7 * 24 * HOUR + i64::from(run) * HOUR;
    let sender = {
        let slots = slots.clone();
        tokio::spawn(async move {
            let mut number = 0_u64;
            while start.elapsed() < length {
                slots.acquire().await?.forget();
                number += 1;
                let batch = Message::Batch(batch(number, &series, first));
                send.send(IngestStreamRequest { message: Some(batch) }).await?;
            }
            anyhow::Ok(number)
        })
    };
    let mut through = 0;
    let mut rejected = 0_usize;
    while let Some(answer) = answers.message().await? {
        slots.add_permits(usize::try_from(answer.through.saturating_sub(through))?);
        through = through.max(answer.through);
        rejected += answer.rejections.len();
        if sender.is_finished() && start.elapsed() > length && slots.available_permits() >= IN_FLIGHT {
            break;
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    let readings = through * (sensors * TICKS) as u64;
    println!(r#"{{"readings": {readings}, "per_second": {:.0}, "rejected": {rejected}}}"#, readings as f64 / elapsed);
    Ok(())
}

/// Readings of all sensors taken together, five times a batch, a millisecond apart, in hundredths.
fn batch(number: u64, series: &[u32], from: i64) -> ReadingBatch {
    let ticks = TICKS;
    let first = i64::try_from(number).unwrap_or(0) * i64::try_from(ticks).unwrap_or(1);
    let start_ns = from + first * 1_000_000;
    let channels = series.iter().enumerate().map(|(i, series)| {
        let level = 2000 + i64::try_from(i).unwrap_or(0) + i64::try_from(number % 50).unwrap_or(0);
        let deltas = std::iter::once(level).chain((1..ticks).map(|t| if t % 2 == 0 { -1 } else { 1 })).collect();
        Column { series: *series, values: Some(Values::Scaled(Scaled { decimals: 2, deltas })), ..Column::default() }
    });
    let group = Group { start_ns, tick_ns: 1_000_000, steps: vec![1; ticks - 1], channels: channels.collect() };
    ReadingBatch { number, batch_id: String::new(), groups: vec![group.encode_to_vec().into()] }
}

/// What each call does.
#[derive(Clone, Copy)]
enum Call {
    Store,
    Again,
    Latest,
}

/// A user's `authorization`.
type User = Option<AsciiMetadataValue>;

async fn calls(channel: Channel, length: Duration, concurrency: u16, call: Call, user: User) -> Result<()> {
    let start = Instant::now();
    let workers: Vec<_> = (0..concurrency)
        .map(|i| tokio::spawn(worker(channel.clone(), i, call, user.clone(), start + length)))
        .collect();
    let mut all = Histogram::<u64>::new(3)?;
    for worker in workers {
        all.add(worker.await??)?;
    }
    let rate = all.len() as f64 / start.elapsed().as_secs_f64();
    let (p50, p99) = (all.value_at_quantile(0.5), all.value_at_quantile(0.99));
    println!(r#"{{"per_second": {rate:.0}, "p50_us": {p50}, "p99_us": {p99}}}"#);
    Ok(())
}

async fn worker(channel: Channel, index: u16, call: Call, user: User, end: Instant) -> Result<Histogram<u64>> {
    let mut client = TelemetryServiceClient::new(channel);
    let mut latencies = Histogram::<u64>::new(3)?;
    let base = Clock::system().now_nanos();
    let sensor = format!("bench.{}{index}", if matches!(call, Call::Again) { 'b' } else { 'u' });
    let mut count = 0;
    while Instant::now() < end {
        count += 1;
        let sent = Instant::now();
        match call {
            Call::Store | Call::Again => {
                let step = if matches!(call, Call::Store) { count * 1000 } else { 0 };
                let time = Some(time::from_nanos(base + step));
                let request =
                    IngestReadingRequest { sensor_id: sensor.clone(), time, value: Some(612.0), ..Default::default() };
                client.ingest_reading(of(&user, request)).await?;
            }
            Call::Latest => {
                let request = ListLatestReadingsRequest { sensor_ids: vec![sensor.clone()], ..Default::default() };
                client.list_latest_readings(of(&user, request)).await?;
            }
        }
        latencies.record(u64::try_from(sent.elapsed().as_micros())?)?;
    }
    Ok(latencies)
}

/// A request of a user, where there is one.
fn of<T>(user: &User, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(user) = user {
        request.metadata_mut().insert("authorization", user.clone());
    }
    request
}
