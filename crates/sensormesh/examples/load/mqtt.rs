//! The same batches through Mosquitto, in MQTT 3.1.1, plaintext: as light a client as ours.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use hdrhistogram::Histogram;
use rumqttc::{ConnAck, Connect, ConnectReturnCode, Error, Packet, PubAck, Publish, QoS, Subscribe};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::watch::{payload, report};

const TOPIC: &str = "bench";
/// The greatest packet that is taken.
const LARGEST: usize = 1 << 20;

struct Reader(OwnedReadHalf, BytesMut);

impl Reader {
    async fn next(&mut self) -> Result<Packet> {
        loop {
            match Packet::read(&mut self.1, LARGEST) {
                Err(Error::InsufficientBytes(_)) => {
                    ensure!(self.0.read_buf(&mut self.1).await? > 0, "Mosquitto closed the connection");
                }
                packet => return Ok(packet?),
            }
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, packet: Packet) -> Result<()> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, LARGEST)?;
    Ok(write.write_all(&bytes).await?)
}

async fn connect(address: &str, client: String) -> Result<(Reader, OwnedWriteHalf)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut reader = Reader(read, BytesMut::with_capacity(1 << 16));
    let mut connect = Connect::new(client);
    connect.keep_alive = 0;
    send(&mut write, Packet::Connect(connect)).await?;
    match reader.next().await? {
        Packet::ConnAck(ConnAck { code: ConnectReturnCode::Success, .. }) => Ok((reader, write)),
        other => bail!("Mosquitto answered {other:?}"),
    }
}

/// Publishes so many messages a second to so many subscribers, each with a connection of its own; where they are
/// acknowledged (QoS 1), by the broker to the publisher and by each subscriber to the broker.
pub async fn publish(address: &str, length: Duration, subscribers: usize, rate: u32, acknowledged: bool) -> Result<()> {
    let qos = if acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    let begin = Instant::now();
    let count = (length.as_secs_f64() * f64::from(rate)) as usize;
    let mut watching = Vec::new();
    for number in 0..subscribers {
        watching.push(subscribe(address, format!("subscriber{number}"), qos, count, begin).await?);
    }
    let (mut reader, mut write) = connect(address, "publisher".to_owned()).await?;
    let answers = tokio::spawn(async move {
        for _ in 0..if acknowledged { count } else { 0 } {
            ensure!(matches!(reader.next().await?, Packet::PubAck(_)), "a message was not acknowledged");
        }
        Ok(reader)
    });
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..count {
        ticks.tick().await;
        let mut body = u64::try_from(begin.elapsed().as_micros())?.to_le_bytes().to_vec();
        body.extend_from_slice(&payload(number));
        let mut message = Publish::new(TOPIC, qos, body);
        if acknowledged {
            message.pkid = u16::try_from(number % usize::from(u16::MAX))? + 1;
        }
        send(&mut write, Packet::Publish(message)).await?;
    }
    let mut all = Histogram::<u64>::new(3)?;
    for subscriber in watching {
        let found =
            tokio::time::timeout(Duration::from_secs(20), subscriber).await.context("messages are missing")??;
        all.add(found?)?;
    }
    answers.await??;
    report(&all);
    Ok(())
}

async fn subscribe(
    address: &str,
    client: String,
    qos: QoS,
    count: usize,
    begin: Instant,
) -> Result<JoinHandle<Result<Histogram<u64>>>> {
    let (mut reader, mut write) = connect(address, client).await?;
    let mut wish = Subscribe::new(TOPIC, qos);
    wish.pkid = 1;
    send(&mut write, Packet::Subscribe(wish)).await?;
    ensure!(matches!(reader.next().await?, Packet::SubAck(_)), "a subscription was refused");
    Ok(tokio::spawn(async move {
        let mut found = Histogram::<u64>::new(3)?;
        for _ in 0..count {
            let Packet::Publish(message) = reader.next().await? else { bail!("Mosquitto sent no message") };
            let sent = u64::from_le_bytes(message.payload.get(..8).context("a time")?.try_into()?);
            found.record(u64::try_from(begin.elapsed().as_micros())?.saturating_sub(sent))?;
            if message.qos == QoS::AtLeastOnce {
                send(&mut write, Packet::PubAck(PubAck::new(message.pkid))).await?;
            }
        }
        Ok(found)
    }))
}
