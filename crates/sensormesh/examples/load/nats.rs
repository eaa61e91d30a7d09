//! The same batches through NATS, by its text protocol (docs.nats.io, "NATS Protocol"), plaintext: as light a client as ours.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::watch::{SENSORS, payload, report};

/// Publishes that may wait for their acknowledgement at once: as many as we have batches in flight.
const WINDOW: usize = 64;

struct Reader(BufReader<OwnedReadHalf>, String);

impl Reader {
    /// The payload of the next message; everything else is passed over.
    async fn next(&mut self, into: &mut Vec<u8>) -> Result<()> {
        loop {
            self.1.clear();
            if self.0.read_line(&mut self.1).await? == 0 {
                bail!("NATS closed the connection");
            }
            if let Some(head) = self.1.strip_prefix("MSG ") {
                let size: usize = head.trim_end().rsplit(' ').next().context("a size")?.parse()?;
                into.resize(size + 2, 0);
                self.0.read_exact(into).await?;
                into.truncate(size);
                return Ok(());
            }
            if self.1.starts_with("-ERR") {
                bail!("NATS: {}", self.1.trim_end());
            }
        }
    }
}

async fn connect(address: &str) -> Result<(Reader, OwnedWriteHalf)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    write.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n").await?;
    Ok((Reader(BufReader::with_capacity(1 << 16, read), String::new()), write))
}

async fn send(write: &mut OwnedWriteHalf, head: &str, body: &[u8]) -> Result<()> {
    let mut frame = format!("PUB {head} {}\r\n", body.len()).into_bytes();
    frame.extend_from_slice(body);
    frame.extend_from_slice(b"\r\n");
    Ok(write.write_all(&frame).await?)
}

/// One request of JetStream's interface; an error in its answer is one.
async fn ask(address: &str, subject: &str, body: &str) -> Result<()> {
    let (mut read, mut write) = connect(address).await?;
    write.write_all(b"SUB answer 1\r\n").await?;
    send(&mut write, &format!("$JS.API.{subject} answer"), body.as_bytes()).await?;
    let mut answer = Vec::new();
    read.next(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if answer.contains("\"error\"") {
        bail!("JetStream: {answer}");
    }
    Ok(())
}

async fn stream(address: &str) -> Result<()> {
    // there is none in the first run
    let _ = ask(address, "STREAM.DELETE.bench", "").await;
    let stream = r#"{"name":"bench","subjects":["bench"],"storage":"file","retention":"limits","num_replicas":1}"#;
    ask(address, "STREAM.CREATE.bench", stream).await
}

/// Publishes to a JetStream stream in a file, each message acknowledged; prints readings acknowledged a second.
pub async fn store(address: &str, length: Duration) -> Result<()> {
    stream(address).await?;
    let (mut read, mut write) = connect(address).await?;
    write.write_all(b"SUB acks 1\r\n").await?;
    let batches: Vec<Vec<u8>> = (0..256).map(payload).collect();
    let begin = Instant::now();
    let (mut sent, mut acknowledged) = (0_usize, 0_usize);
    let mut answer = Vec::new();
    while begin.elapsed() < length {
        while sent - acknowledged < WINDOW {
            send(&mut write, "bench acks", &batches[sent % batches.len()]).await?;
            sent += 1;
        }
        read.next(&mut answer).await?;
        acknowledged += 1;
    }
    let rate = (acknowledged * SENSORS) as f64 / begin.elapsed().as_secs_f64();
    println!(r#"{{"per_second": {rate:.0}}}"#);
    Ok(())
}

/// Publishes so many messages a second to so many subscribers, each with a connection of its own: of a JetStream push
/// consumer, or of the core.
pub async fn publish(address: &str, length: Duration, subscribers: usize, rate: u32, stored: bool) -> Result<()> {
    if stored {
        stream(address).await?;
    }
    let begin = Instant::now();
    let count = (length.as_secs_f64() * f64::from(rate)) as usize;
    let mut watching = Vec::new();
    for _ in 0..subscribers {
        watching.push(subscribe(address, if stored { "pushed" } else { "bench" }, count, begin).await?);
    }
    if stored {
        let consumer = r#"{"stream_name":"bench","config":{"deliver_subject":"pushed","ack_policy":"none","deliver_policy":"all"}}"#;
        ask(address, "CONSUMER.CREATE.bench", consumer).await?;
    }
    let (_read, mut write) = connect(address).await?;
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..count {
        ticks.tick().await;
        let mut body = u64::try_from(begin.elapsed().as_micros())?.to_le_bytes().to_vec();
        body.extend_from_slice(&payload(number));
        send(&mut write, "bench", &body).await?;
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

async fn subscribe(
    address: &str,
    subject: &str,
    count: usize,
    begin: Instant,
) -> Result<JoinHandle<Result<Histogram<u64>>>> {
    let (mut read, mut write) = connect(address).await?;
    // the server answers PONG when the subscription is there
    write.write_all(format!("SUB {subject} 1\r\nPING\r\n").as_bytes()).await?;
    let mut line = String::new();
    while line.trim_end() != "PONG" {
        line.clear();
        read.0.read_line(&mut line).await?;
    }
    Ok(tokio::spawn(async move {
        let _write = write;
        let mut found = Histogram::<u64>::new(3)?;
        let mut message = Vec::new();
        for _ in 0..count {
            read.next(&mut message).await?;
            let sent = u64::from_le_bytes(message.get(..8).context("a time")?.try_into()?);
            found.record(u64::try_from(begin.elapsed().as_micros())?.saturating_sub(sent))?;
        }
        Ok(found)
    }))
}
