//! Loads of a fixed size, for what is counted and not timed.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use sensormesh_proto::telemetry::v1::ingest_stream_request::Message;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{Announce, IngestReadingRequest, IngestStreamRequest};
use sensormesh_types::{Clock, time};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{HOUR, IN_FLIGHT, announce, batch, numbers};

const CONCURRENCY: usize = 32;
const SENSORS: usize = 200;
/// Sensors of an announcement and of a batch, where there are many.
const MANY: usize = 1000;

/// Stores so many readings, one a call.
pub async fn unary(channel: Channel, calls: usize) -> Result<()> {
    let base = Clock::system().now_nanos();
    let mut workers = JoinSet::new();
    for worker in 0..CONCURRENCY {
        let mut client = TelemetryServiceClient::new(channel.clone());
        let share = (worker..calls).step_by(CONCURRENCY);
        workers.spawn(async move {
            for number in share {
                let time = Some(time::from_nanos(base + i64::try_from(number)? * 1000));
                let sensor_id = format!("bench.u{worker}");
                client
                    .ingest_reading(IngestReadingRequest { sensor_id, time, value: Some(612.0), ..Default::default() })
                    .await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    println!(r#"{{"acknowledged": {calls}}}"#);
    Ok(())
}

/// Stores so many batches of 1,000 readings, taken so many hours ago: a run of another hour is not late.
pub async fn stream(channel: Channel, batches: usize, hours: i64) -> Result<()> {
    let mut client = TelemetryServiceClient::new(channel);
    let (send, requests) = mpsc::channel(IN_FLIGHT);
    send.send(announce(SENSORS)).await?;
    let mut answers = client.ingest_stream(ReceiverStream::new(requests)).await?.into_inner();
    let series = numbers(&mut answers, SENSORS).await?;
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    let from = Clock::system().now_nanos() - hours * HOUR;
    let free = Arc::clone(&slots);
    let sender = tokio::spawn(async move {
        for number in 1..=batches as u64 {
            free.acquire().await?.forget();
            let message = Some(Message::Batch(batch(number, &series, from)));
            send.send(IngestStreamRequest { message }).await?;
        }
        anyhow::Ok(send)
    });
    let mut through = 0;
    while through < batches as u64 {
        let answer = answers.message().await?.context("the stream ended")?;
        ensure!(answer.rejections.is_empty(), "readings were refused: {:?}", answer.rejections);
        slots.add_permits(usize::try_from(answer.through.saturating_sub(through))?);
        through = through.max(answer.through);
    }
    sender.await??;
    println!(r#"{{"acknowledged": {batches}}}"#);
    Ok(())
}

/// Announces so many sensors and stores five readings of each.
pub async fn many(channel: Channel, sensors: usize) -> Result<()> {
    let mut client = TelemetryServiceClient::new(channel);
    let (send, requests) = mpsc::channel(IN_FLIGHT);
    let mut answers = client.ingest_stream(ReceiverStream::new(requests)).await?.into_inner();
    let mut series = Vec::with_capacity(sensors);
    for first in (0..sensors).step_by(MANY) {
        let names: Vec<String> = (first..sensors.min(first + MANY)).map(|sensor| format!("many.s{sensor}")).collect();
        let announced = names.len();
        let message = Some(Message::Announce(Announce { sensors: names, backfill: false }));
        send.send(IngestStreamRequest { message }).await?;
        series.extend(numbers(&mut answers, announced).await?);
    }
    let from = Clock::system().now_nanos() - HOUR;
    for (number, some) in (1..).zip(series.chunks(MANY)) {
        send.send(IngestStreamRequest { message: Some(Message::Batch(batch(number, some, from))) }).await?;
        while answers.message().await?.context("the stream ended")?.through < number {}
    }
    println!(r#"{{"sensors": {sensors}}}"#);
    Ok(())
}
