//! The same batches through NATS, by its own client for Rust, plaintext.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, consumer, stream};
use async_nats::{Client, Message};
use futures::{Stream, StreamExt as _};
use hdrhistogram::Histogram;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::watch::{SENSORS, payload, report};

/// Publishes that may wait for their acknowledgement at once: as many as we have batches in flight.
const WINDOW: usize = 64;
const SUBJECT: &str = "bench";

async fn connect(address: &str) -> Result<Client> {
    Ok(async_nats::connect(format!("nats://{address}")).await?)
}

/// An empty stream of JetStream in a file.
async fn stored(client: &Client) -> Result<(jetstream::Context, stream::Stream)> {
    let context = jetstream::new(client.clone());
    let _ = context.delete_stream("bench").await; // there is none in the first run
    let config = stream::Config {
        name: "bench".into(),
        subjects: vec![SUBJECT.into()],
        storage: stream::StorageType::File,
        ..stream::Config::default()
    };
    let stream = context.create_stream(config).await?;
    Ok((context, stream))
}

/// Publishes to a JetStream stream in a file, each message acknowledged; prints readings acknowledged a second.
pub async fn store(address: &str, length: Duration) -> Result<()> {
    let (context, _) = stored(&connect(address).await?).await?;
    let batches: Vec<Vec<u8>> = (0..256).map(payload).collect();
    let begin = Instant::now();
    let (mut sent, mut acknowledged) = (0_usize, 0_usize);
    let mut waiting = VecDeque::with_capacity(WINDOW);
    while begin.elapsed() < length {
        while waiting.len() < WINDOW {
            let body = batches[sent % batches.len()].clone();
            waiting.push_back(context.publish(SUBJECT, body.into()).await?);
            sent += 1;
        }
        waiting.pop_front().context("a publish")?.await?;
        acknowledged += 1;
    }
    let rate = (acknowledged * SENSORS) as f64 / begin.elapsed().as_secs_f64();
    println!(r#"{{"per_second": {rate:.0}}}"#);
    Ok(())
}

/// Publishes so many messages a second to so many subscribers, each with a connection of its own: of a JetStream push
/// consumer, or of the core.
pub async fn publish(address: &str, length: Duration, subscribers: usize, rate: u32, durable: bool) -> Result<()> {
    let client = connect(address).await?;
    let begin = Instant::now();
    let count = (length.as_secs_f64() * f64::from(rate)) as usize;
    let mut watching = Vec::new();
    let mut context = None;
    if durable {
        let (stored, stream) = stored(&client).await?;
        context = Some(stored);
        for _ in 0..subscribers {
            let config = consumer::push::Config {
                deliver_subject: client.new_inbox(),
                ack_policy: consumer::AckPolicy::None,
                ..consumer::push::Config::default()
            };
            let messages = stream.create_consumer(config).await?.messages().await?;
            let payloads = messages.filter_map(|message| async { message.ok().map(|message| message.message) });
            watching.push(watch(Box::pin(payloads), count, begin));
        }
    } else {
        for _ in 0..subscribers {
            let client = connect(address).await?;
            let messages = client.subscribe(SUBJECT).await?;
            client.flush().await?;
            watching.push(watch(messages, count, begin));
        }
    }
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..count {
        ticks.tick().await;
        let mut body = u64::try_from(begin.elapsed().as_micros())?.to_le_bytes().to_vec();
        body.extend_from_slice(&payload(number));
        match &context {
            Some(context) => drop(context.publish(SUBJECT, body.into()).await?),
            None => client.publish(SUBJECT, body.into()).await?,
        }
    }
    let mut all = Histogram::<u64>::new(3)?;
    for subscriber in watching {
        let found =
            tokio::time::timeout(Duration::from_secs(20), subscriber).await.context("messages are missing")??;
        all.add(found?)?;
    }
    report(&all);
    Ok(())
}

fn watch(
    mut messages: impl Stream<Item = Message> + Send + Unpin + 'static,
    count: usize,
    begin: Instant,
) -> JoinHandle<Result<Histogram<u64>>> {
    tokio::spawn(async move {
        let mut found = Histogram::<u64>::new(3)?;
        for _ in 0..count {
            let message = messages.next().await.context("NATS closed the subscription")?;
            let sent = u64::from_le_bytes(message.payload.get(..8).context("a time")?.try_into()?);
            found.record(u64::try_from(begin.elapsed().as_micros())?.saturating_sub(sent))?;
        }
        Ok(found)
    })
}
