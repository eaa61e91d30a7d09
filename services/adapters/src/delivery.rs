//! Gets what waits in a connection to telemetry, each batch once, whoever goes away in between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sensormesh_mesh::{Channel as Way, Mesh, Shutdown};
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{Device, EnsureSensorsRequest};
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{
    Announce, Channel, Doubles, Group, IngestStreamRequest, IngestStreamResponse, ReadingBatch, announced, channel,
    ingest_stream_request::Message,
};
use sensormesh_store::Store;
use sensormesh_types::{Clock, Error, Result, Scope, random};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::aside::Aside;
use crate::connection::Connection;
use crate::{db, source};

/// How many batches are under way before an acknowledgement is waited for.
const MOST_UNDER_WAY: usize = 32;
/// How long an acknowledgement may take before the stream is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long acknowledgements are waited for when the service stops.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long sensors that telemetry refuses are left alone.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// How often a refusal right after registration is not believed: telemetry hears of new sensors a little later.
const DOUBTS: u32 = 6;
/// Readings that have waited for so long, nanoseconds, go to the disk.
const PUT_ASIDE_AFTER: i64 = 10_000_000_000;
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What delivers for one connection.
#[derive(Clone)]
pub struct Delivery {
    connection: Arc<Connection>,
    aside: Aside,
    devices: DevicesServiceClient<Way>,
    telemetry: TelemetryServiceClient<Way>,
    store: Store,
    clock: Clock,
    /// How the connection's device is registered.
    device: Device,
    /// The room its sensors say they are in.
    room: &'static str,
    /// How often its sensors are said to report.
    interval: Duration,
}

/// One open stream to telemetry.
struct Session {
    to: mpsc::Sender<IngestStreamRequest>,
    answers: Streaming<IngestStreamResponse>,
    /// The series number of each sensor, by the sensor's own number; `None` = refused.
    series: HashMap<usize, Option<u32>>,
    refusal: String,
    /// Sensors whose number was asked for and has not come yet.
    asked: HashSet<usize>,
    /// The last batch sent.
    sent: u64,
    /// Batches under way: when they were sent, and how many of their readings were left out as refused.
    under_way: BTreeMap<u64, (Instant, u64)>,
    announced: Instant,
    progressed: bool,
}

impl Delivery {
    /// Delivers for `connection`, whose device and room are these.
    pub fn new(
        connection: Arc<Connection>,
        aside: Aside,
        mesh: &Mesh,
        store: Store,
        (device, room): (Device, &'static str),
        interval: Duration,
    ) -> Result<Self> {
        let (devices, telemetry) = (mesh.client()?, mesh.client()?);
        let clock = mesh.clock().clone();
        Ok(Self { connection, aside, devices, telemetry, store, clock, device, room, interval })
    }

    /// Delivers until stopping is asked for.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut pause = SHORTEST_PAUSE;
        let mut settings = self.connection.settings();
        while !shutdown.is_requested() {
            if !settings.borrow_and_update().enabled && self.connection.after(0).is_none() {
                self.connection.not_delivering(None);
                shutdown.cut(settings.changed()).await;
                continue;
            }
            if self.connection.after(0).is_none() && self.connection.unregistered().is_empty() {
                tokio::select! {
                    () = self.connection.pushed() => {}
                    _ = settings.changed() => {}
                    () = shutdown.requested() => {}
                }
                continue;
            }
            if let Err(error) = self.put_aside(PUT_ASIDE_AFTER).await {
                tracing::warn!(connection = self.connection.id, %error, "readings stay in memory, the disk does not take them");
            }
            if self.aside.holds(&self.connection) {
                // they were read earlier
                shutdown.cut(tokio::time::sleep(SHORTEST_PAUSE)).await;
                continue;
            }
            let mut progressed = false;
            let ended = self.session(&shutdown, &mut progressed).await;
            if progressed {
                pause = SHORTEST_PAUSE;
            }
            match ended {
                Ok(()) => self.connection.not_delivering(None),
                // telemetry may stop with us
                Err(_) if shutdown.is_requested() => {}
                Err(error) => {
                    tracing::warn!(connection = self.connection.id, %error, "readings wait, delivery failed");
                    self.connection.not_delivering(Some(error.message().to_owned()));
                }
            }
            let jitter = 0.75 + random::fraction() / 2.0;
            shutdown.cut(tokio::time::sleep(pause.mul_f64(jitter))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.put_aside(0).await
    }

    /// Moves what waits to the disk where some of it has waited for so long, nanoseconds. Until `devices` has answered for any
    /// sensor, telemetry would not know them.
    async fn put_aside(&self, age: i64) -> Result<()> {
        let before = self.clock.now_nanos().saturating_sub(age);
        if self.connection.knows_any() && self.connection.oldest_time().is_some_and(|oldest| oldest <= before) {
            self.aside.take(&self.connection).await?;
        }
        Ok(())
    }

    /// Registers the sensors that `devices` has not answered for yet.
    async fn register(&self) -> Result<()> {
        for chunk in self.connection.unregistered().chunks(1000) {
            let request = EnsureSensorsRequest {
                sensors: chunk.iter().map(|sensor| source::registration(sensor, self.room, self.interval)).collect(),
                devices: vec![self.device.clone()],
                tenant: self.connection.tenant.clone(),
                bridge_id: String::new(),
            };
            self.devices.clone().ensure_sensors(request).await?;
            let ids: Vec<String> = chunk.iter().map(|sensor| sensor.id.clone()).collect();
            let mut tx = self.store.tx(&Scope::tenant_of(&*self.connection.tenant)).await?;
            db::save_registered(&mut tx, &self.connection.tenant, self.connection.id, &ids).await?;
            tx.commit().await?;
            self.connection.registered(ids);
        }
        Ok(())
    }

    async fn session(&self, shutdown: &Shutdown, progressed: &mut bool) -> Result<()> {
        if let Err(error) = self.register().await {
            if !self.connection.knows_any() {
                return Err(error);
            }
            tracing::warn!(connection = self.connection.id, %error, "new sensors wait to be registered");
        }
        let mut session = self.open().await?;
        let ended = self.serve(&mut session, shutdown).await;
        *progressed = session.progressed;
        ended
    }

    /// Opens a stream and waits for the numbers of the sensors.
    async fn open(&self) -> Result<Session> {
        let (to, requests) = mpsc::channel(MOST_UNDER_WAY + 8);
        let mut telemetry = self.telemetry.clone();
        // the first message goes ahead of the call: a server may answer only then
        let sensors = self.connection.sensors();
        let _ = to.try_send(announce(sensors.iter().map(|(_, id)| id.clone()).collect()));
        let answers = telemetry.ingest_stream(ReceiverStream::new(requests)).await?.into_inner();
        let mut session = Session {
            to,
            answers,
            series: HashMap::new(),
            refusal: String::new(),
            asked: HashSet::new(),
            sent: 0,
            under_way: BTreeMap::new(),
            announced: Instant::now(),
            progressed: false,
        };
        for doubt in 0..=DOUBTS {
            let answered = async {
                while sensors.iter().any(|(number, _)| !session.series.contains_key(number)) {
                    match session.answers.message().await? {
                        Some(answer) => self.hear(&mut session, answer),
                        None => return Err(closed()),
                    }
                }
                Ok(())
            };
            tokio::time::timeout(PATIENCE, answered).await.map_err(|_| silent())??;
            let refused: Vec<usize> =
                session.series.iter().filter(|(_, series)| series.is_none()).map(|(number, _)| *number).collect();
            if refused.is_empty() || doubt == DOUBTS {
                break;
            }
            tokio::time::sleep(SHORTEST_PAUSE * (doubt + 1)).await;
            session.series.retain(|_, series| series.is_some());
            let again = sensors.iter().filter(|(number, _)| refused.contains(number)).map(|(_, id)| id.clone());
            session.to.send(announce(again.collect())).await.map_err(|_| closed())?;
        }
        if !session.series.is_empty() && session.series.values().all(Option::is_none) {
            return Err(Error::unavailable(
                "REFUSED",
                format!("telemetry refuses every sensor: {}", session.refusal),
                LONGEST_PAUSE,
            ));
        }
        self.connection.delivering();
        Ok(session)
    }

    async fn serve(&self, session: &mut Session, shutdown: &Shutdown) -> Result<()> {
        let mut settings = self.connection.settings();
        let mut check = tokio::time::interval(Duration::from_secs(1));
        loop {
            let enabled = settings.borrow_and_update().enabled;
            if shutdown.is_requested() {
                let _ = tokio::time::timeout(FAREWELL, self.await_the_rest(session)).await;
                return Ok(());
            }
            if !enabled && self.connection.after(0).is_none() {
                return Ok(());
            }
            self.announce_new(session).await?;
            while session.asked.is_empty()
                && session.under_way.len() < MOST_UNDER_WAY
                && let Some((batch, id)) = self.connection.after(session.sent)
            {
                session.send(batch.number, id, batch.time, &batch.values).await?;
            }
            tokio::select! {
                biased;
                () = shutdown.requested() => {}
                answer = session.answers.message() => match answer? {
                    Some(answer) => self.hear(session, answer),
                    // telemetry ends an old stream cleanly
                    None => return Ok(()),
                },
                () = self.connection.pushed() => {}
                _ = settings.changed() => {}
                _ = check.tick() => {
                    let unanswered = !session.asked.is_empty() && session.announced.elapsed() > PATIENCE;
                    let late = session.under_way.values().next().is_some_and(|(sent, _)| sent.elapsed() > PATIENCE);
                    if unanswered || late {
                        return Err(silent());
                    }
                }
            }
        }
    }

    async fn await_the_rest(&self, session: &mut Session) -> Result<()> {
        while !session.under_way.is_empty()
            && let Some(answer) = session.answers.message().await?
        {
            self.hear(session, answer);
        }
        Ok(())
    }

    /// Registers and announces sensors that have come up, and from time to time those that were refused.
    async fn announce_new(&self, session: &mut Session) -> Result<()> {
        if !self.connection.unregistered().is_empty()
            && session.announced.elapsed() > LONGEST_PAUSE
            && let Err(error) = self.register().await
        {
            session.announced = Instant::now();
            tracing::warn!(connection = self.connection.id, %error, "new sensors wait to be registered");
        }
        let doubted = session.announced.elapsed() > REFUSED_FOR;
        let unknown = |number: &usize| match session.series.get(number) {
            _ if session.asked.contains(number) => false,
            None => true,
            Some(None) => doubted,
            Some(Some(_)) => false,
        };
        let new: Vec<(usize, String)> =
            self.connection.sensors().into_iter().filter(|(number, _)| unknown(number)).collect();
        if new.is_empty() {
            return Ok(());
        }
        session.announced = Instant::now();
        session.asked.extend(new.iter().map(|(number, _)| *number));
        let ids = new.into_iter().map(|(_, id)| id).collect();
        session.to.send(announce(ids)).await.map_err(|_| closed())
    }

    fn hear(&self, session: &mut Session, answer: IngestStreamResponse) {
        let numbers: HashMap<String, usize> =
            self.connection.sensors().into_iter().map(|(number, id)| (id, number)).collect();
        for sensor in answer.announced {
            let Some(number) = numbers.get(&sensor.sensor_id) else { continue };
            let series = match sensor.outcome {
                Some(announced::Outcome::Series(series)) => Some(series),
                Some(announced::Outcome::Refusal(refusal)) => {
                    tracing::debug!(sensor = sensor.sensor_id, refusal, "telemetry refuses a sensor");
                    session.refusal = refusal;
                    None
                }
                None => None,
            };
            session.asked.remove(number);
            session.series.insert(*number, series);
        }
        if answer.through == 0 {
            return;
        }
        let rest = session.under_way.split_off(&(answer.through + 1));
        let done = std::mem::replace(&mut session.under_way, rest);
        let left_out: u64 = done.values().map(|(_, left_out)| left_out).sum();
        // a batch has one reading in each of its channels
        let rejected = answer.rejections.len() as u64;
        session.progressed |= !done.is_empty();
        self.connection.acknowledge(answer.through, left_out + rejected, self.clock.now_nanos());
    }
}

impl Session {
    async fn send(&mut self, number: u64, batch_id: String, time: i64, values: &[crate::queue::Value]) -> Result<()> {
        let mut channels = Vec::with_capacity(values.len());
        for value in values {
            if let Some(Some(series)) = self.series.get(&value.sensor) {
                let doubles = Doubles { values: vec![value.value] };
                let values = Some(channel::Values::Doubles(doubles));
                channels.push(Channel { series: *series, values, exceptions: Vec::new() });
            }
        }
        let left_out = (values.len() - channels.len()) as u64;
        let group = Group { start_ns: time, tick_ns: 1, steps: Vec::new(), channels };
        let groups = vec![group.encode_to_vec().into()];
        // with what is left out it is another batch than without, and an id stands for one
        let batch_id = if left_out == 0 { batch_id } else { String::new() };
        let batch = Message::Batch(ReadingBatch { number, batch_id, groups });
        self.to.send(IngestStreamRequest { message: Some(batch) }).await.map_err(|_| closed())?;
        self.sent = number;
        self.under_way.insert(number, (Instant::now(), left_out));
        Ok(())
    }
}

fn announce(sensors: Vec<String>) -> IngestStreamRequest {
    IngestStreamRequest { message: Some(Message::Announce(Announce { sensors, backfill: false })) }
}

fn closed() -> Error {
    Error::unavailable("STREAM_CLOSED", "telemetry closed the stream", SHORTEST_PAUSE)
}

fn silent() -> Error {
    Error::unavailable("NO_ANSWER", "telemetry did not answer in time", SHORTEST_PAUSE)
}
