//! Ten million readings, and the questions of history that are asked of them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use prost_types::Timestamp;
use sensormesh_proto::telemetry::v1::channel::Values;
use sensormesh_proto::telemetry::v1::ingest_stream_request::Message;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{
    AggregateReadingsRequest, Channel as Column, Group, IngestStreamRequest, ReadingBatch, Scaled, Statistic,
    StreamReadingsRequest,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::announce;

const SENSORS: usize = 200;
/// Seconds from each reading of a sensor to the next.
const STEP: i64 = 12;
const DAY: i64 = 24 * 3600;
/// Days of readings: 10.08 million in all.
const DAYS: i64 = 7;
/// Readings of each sensor in a batch.
const TICKS: i64 = 25;
/// Batches on their way at once.
const IN_FLIGHT: usize = 64;
/// Bytes of an answer: half a million buckets are more than gRPC's usual 4 MiB.
const ANSWER: usize = 64 << 20;
const NANOS: i64 = 1_000_000_000;

/// Stores seven days of readings up to `end` (seconds since the Unix epoch).
pub async fn fill(channel: Channel, end: i64) -> Result<()> {
    let mut client = TelemetryServiceClient::new(channel);
    let (send, requests) = mpsc::channel(IN_FLIGHT);
    send.send(announce(SENSORS)).await?;
    let mut answers = client.ingest_stream(ReceiverStream::new(requests)).await?.into_inner();
    let series = super::numbers(&mut answers, SENSORS).await?;
    let begin = Instant::now();
    let batches = u64::try_from(DAYS * DAY / STEP / TICKS)?;
    let sender = tokio::spawn(async move {
        for number in 1..=batches {
            let message = Some(Message::Batch(batch(number, &series, end - DAYS * DAY)));
            send.send(IngestStreamRequest { message }).await?;
        }
        anyhow::Ok(send)
    });
    let mut through = 0;
    while through < batches {
        let answer = answers.message().await?.context("the stream ended")?;
        ensure!(answer.rejections.is_empty(), "readings were refused: {:?}", answer.rejections);
        through = through.max(answer.through);
    }
    sender.await??;
    let readings = through * SENSORS as u64 * TICKS.unsigned_abs();
    let rate = readings as f64 / begin.elapsed().as_secs_f64();
    println!(r#"{{"readings": {readings}, "per_second": {rate:.0}}}"#);
    Ok(())
}

/// The readings that follow the batch before: each sensor rises and falls by hundredths.
fn batch(number: u64, series: &[u32], from: i64) -> ReadingBatch {
    let first = (i64::try_from(number).unwrap_or(1) - 1) * TICKS;
    let channels = series.iter().enumerate().map(|(sensor, series)| {
        let sensor = i64::try_from(sensor).unwrap_or(0);
        let level = |tick: i64| 2000 + sensor + ((first + tick) * (7 + sensor % 5) / 3) % 23;
        let deltas = std::iter::once(level(0)).chain((1..TICKS).map(|t| level(t) - level(t - 1))).collect();
        Column { series: *series, values: Some(Values::Scaled(Scaled { decimals: 2, deltas })), ..Column::default() }
    });
    let group = Group {
        start_ns: (from + first * STEP) * NANOS,
        tick_ns: STEP.unsigned_abs() * 1_000_000_000,
        steps: vec![1; usize::try_from(TICKS - 1).unwrap_or(0)],
        channels: channels.collect(),
    };
    ReadingBatch { number, batch_id: String::new(), groups: vec![prost::Message::encode_to_vec(&group).into()] }
}

/// Asks for the last day before `end` of one sensor after the other.
pub async fn history(channel: Channel, length: Duration, end: i64) -> Result<()> {
    let mut client = TelemetryServiceClient::new(channel);
    let mut latencies = Histogram::<u64>::new(3)?;
    let start = Instant::now();
    for turn in 0_usize.. {
        let request = StreamReadingsRequest {
            sensor_ids: vec![format!("bench.s{}", turn % SENSORS)],
            start_time: Some(seconds(end - DAY)),
            end_time: Some(seconds(end)),
            ..Default::default()
        };
        let sent = Instant::now();
        let mut answers = client.stream_readings(request).await?.into_inner();
        let mut readings = 0;
        while let Some(answer) = answers.message().await? {
            readings += answer.groups.iter().map(|group| (group.steps.len() + 1) * group.channels.len()).sum::<usize>();
        }
        latencies.record(u64::try_from(sent.elapsed().as_micros())?)?;
        ensure!(readings == 7200, "a day of a sensor has 7200 readings, not {readings}");
        if start.elapsed() > length {
            break;
        }
    }
    report(&latencies);
    Ok(())
}

/// Asks for the means of each minute of the seven days before `end` of 50 sensors.
pub async fn means(channel: Channel, length: Duration, end: i64) -> Result<()> {
    let mut client = TelemetryServiceClient::new(channel).max_decoding_message_size(ANSWER);
    let mut latencies = Histogram::<u64>::new(3)?;
    let start = Instant::now();
    while latencies.is_empty() || start.elapsed() < length {
        let mut request = AggregateReadingsRequest {
            sensor_ids: (0..50).map(|sensor| format!("bench.s{sensor}")).collect(),
            interval: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            start_time: Some(seconds(end - DAYS * DAY)),
            end_time: Some(seconds(end)),
            page_size: 20_000,
            statistics: vec![Statistic::Mean.into()],
            columns: true,
            ..Default::default()
        };
        let sent = Instant::now();
        let mut buckets = 0;
        loop {
            let answer = client.aggregate_readings(request.clone()).await?.into_inner();
            let columns = answer.sensors.iter().flat_map(|sensor| &sensor.columns);
            buckets += columns.map(|columns| columns.statistics[0].values.len()).sum::<usize>();
            if answer.next_page_token.is_empty() {
                break;
            }
            request.page_token = answer.next_page_token;
        }
        latencies.record(u64::try_from(sent.elapsed().as_micros())?)?;
        ensure!(buckets == 504_000, "seven days of 50 sensors have 504000 minutes, not {buckets}");
    }
    report(&latencies);
    Ok(())
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn report(latencies: &Histogram<u64>) {
    let (p50, p99) = (latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99));
    println!(r#"{{"answers": {}, "p50_us": {p50}, "p99_us": {p99}}}"#, latencies.len());
}
