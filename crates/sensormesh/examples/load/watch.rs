//! Batches on their way to those who watch: how long each takes, and what a subscription holds.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use sensormesh_proto::telemetry::v1::channel::Values;
use sensormesh_proto::telemetry::v1::ingest_stream_request::Message;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{
    Channel as Column, Group, IngestStreamRequest, ReadingBatch, ReadingForm, Scaled, WatchReadingsRequest,
};
use sensormesh_types::Clock;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::announce;

/// Readings of a batch: one of each sensor.
pub const SENSORS: usize = 100;
/// Nanoseconds between the readings of two batches: which batch a reading is of shows in its time.
const STEP: i64 = 1_000_000;

/// Publishes so many batches a second to so many subscribers on one connection.
pub async fn publish(channel: Channel, length: Duration, subscribers: usize, rate: u32) -> Result<()> {
    let mut client = TelemetryServiceClient::new(channel.clone());
    let (send, requests) = mpsc::channel(64);
    send.send(announce(SENSORS)).await?;
    let mut answers = client.ingest_stream(ReceiverStream::new(requests)).await?.into_inner();
    let series = super::numbers(&mut answers, SENSORS).await?;
    tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
    let base = Clock::system().now_nanos() - 60 * 1_000_000_000;
    let begin = Instant::now();
    let count = (length.as_secs_f64() * f64::from(rate)) as usize;
    let (told, times) = watch::channel(Vec::with_capacity(count));
    let mut watching = Vec::new();
    for _ in 0..subscribers {
        watching.push(subscribe(channel.clone(), base, count, begin, times.clone()).await?);
    }
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..count {
        ticks.tick().await;
        let message = Some(Message::Batch(batch(number, &series, base)));
        told.send_modify(|times| times.push(begin.elapsed()));
        send.send(IngestStreamRequest { message }).await?;
    }
    let mut all = Histogram::<u64>::new(3)?;
    for subscriber in watching {
        let found =
            tokio::time::timeout(Duration::from_secs(20), subscriber).await.context("batches are missing")??;
        all.add(found?)?;
    }
    report(&all);
    Ok(())
}

/// Waits until the stream is live, then counts batches up to the last.
async fn subscribe(
    channel: Channel,
    base: i64,
    count: usize,
    begin: Instant,
    times: watch::Receiver<Vec<Duration>>,
) -> Result<JoinHandle<Result<Histogram<u64>>>> {
    let mut client = TelemetryServiceClient::new(channel);
    let request = WatchReadingsRequest { form: ReadingForm::Columns.into(), ..Default::default() };
    let mut answers = client.watch_readings(request).await?.into_inner();
    while answers.message().await?.context("the stream ended")?.bookmark.is_none_or(|mark| !mark.live) {}
    Ok(tokio::spawn(async move {
        let mut found = Histogram::<u64>::new(3)?;
        let mut next = 0;
        while next < count {
            let answer = answers.message().await?.context("the stream ended")?;
            let now = begin.elapsed();
            for group in answer.groups {
                let group: Group = prost::Message::decode(group)?;
                // a group holds as many readings as it has times, each of a batch of its own
                let last = group.start_ns - base
                    + group.steps.iter().sum::<i64>() * i64::try_from(group.tick_ns.max(1)).unwrap_or(STEP);
                let last = usize::try_from(last / STEP)?;
                ensure!(last < count, "batch {last} was not sent in this run");
                for number in next..=last {
                    let sent = times.borrow().get(number).copied().context("a batch came before it was sent")?;
                    found.record(u64::try_from(now.saturating_sub(sent).as_micros())?)?;
                }
                next = next.max(last + 1);
            }
        }
        Ok(found)
    }))
}

/// Opens so many subscriptions, says so, and holds them for a time.
pub async fn idle(channel: Channel, length: Duration, subscriptions: usize) -> Result<()> {
    let mut held = Vec::with_capacity(subscriptions);
    for number in 0..subscriptions {
        let mut client = TelemetryServiceClient::new(channel.clone());
        let request =
            WatchReadingsRequest { sensor_ids: vec![format!("bench.s{}", number % SENSORS)], ..Default::default() };
        let mut answers = client.watch_readings(request).await?.into_inner();
        while answers.message().await?.context("the stream ended")?.bookmark.is_none_or(|mark| !mark.live) {}
        held.push(answers);
    }
    println!(r#"{{"subscriptions": {}}}"#, held.len());
    tokio::time::sleep(length).await;
    Ok(())
}

fn batch(number: usize, series: &[u32], base: i64) -> ReadingBatch {
    let place = i64::try_from(number).unwrap_or(0);
    let channels = series.iter().enumerate().map(|(sensor, series)| {
        let level = 2000 + i64::try_from(sensor).unwrap_or(0) + place % 50;
        let values = Some(Values::Scaled(Scaled { decimals: 2, deltas: vec![level] }));
        Column { series: *series, values, ..Column::default() }
    });
    let group = Group {
        start_ns: base + place * STEP,
        tick_ns: STEP.unsigned_abs(),
        steps: vec![],
        channels: channels.collect(),
    };
    ReadingBatch {
        number: number as u64 + 1,
        batch_id: String::new(),
        groups: vec![prost::Message::encode_to_vec(&group).into()],
    }
}

/// A batch as a broker carries it: the same bytes.
pub fn payload(number: usize) -> Vec<u8> {
    let series: Vec<u32> = (0..100).collect();
    prost::Message::encode_to_vec(&batch(number, &series, 1_700_000_000_000_000_000))
}

pub fn report(latencies: &Histogram<u64>) {
    let (p50, p99) = (latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99));
    println!(r#"{{"messages": {}, "p50_us": {p50}, "p99_us": {p99}}}"#, latencies.len());
}
