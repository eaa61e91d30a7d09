//! Telemetry's stream of the sensors that are under test.
//!
//! One stream serves all tests. It begins anew, from where it was, whenever other sensors are wanted; while no test counts, it
//! begins with what arrives, and while there is no test at all, it is not opened.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::BoxStream;
use futures::{StreamExt, future};
use prost::Message;
use sensormesh_mesh::{Channel, Mesh};
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{WatchReadingsRequest, WatchReadingsResponse};
use sensormesh_store::{Incoming, Projection, Store, Tx};
use sensormesh_types::{Clock, Error, Result, Scope};
use tokio::sync::watch;

use crate::test::State;
use crate::{db, run};

/// The name it is followed under.
pub const CONSUMER: &str = "readings";
/// The most sensors that telemetry takes in one filter.
const MOST_SENSORS: usize = 1000;

/// The tenants and ids of the tests that are not over.
pub type Unfinished = BTreeSet<(String, String)>;

/// A message of telemetry, and how the stream stood.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What telemetry said.
    pub message: WatchReadingsResponse,
    /// The tests whose sensors the stream has.
    pub tests: Arc<Unfinished>,
    /// Everything older has been told.
    pub live: bool,
    /// The first message of a stream after one that was lost.
    pub anew: bool,
}

/// Follows telemetry for all tests.
#[derive(Clone)]
pub struct Telemetry {
    client: TelemetryServiceClient<Channel>,
    store: Store,
    clock: Clock,
    unfinished: watch::Receiver<Unfinished>,
    at_once: usize,
    /// The stream ended because other sensors are wanted.
    planned: Arc<AtomicBool>,
}

impl Telemetry {
    /// Follows it for so many tests at once.
    pub fn new(mesh: &Mesh, store: &Store, unfinished: &watch::Sender<Unfinished>, at_once: u32) -> Result<Self> {
        Ok(Self {
            client: mesh.client_as_service()?,
            store: store.clone(),
            clock: mesh.clock().clone(),
            unfinished: unfinished.subscribe(),
            at_once: usize::try_from(at_once).unwrap_or(usize::MAX),
            planned: Arc::default(),
        })
    }

    /// Waits until there is a test. Returns the tests whose turn it is, their sensors, and whether one of them counts already.
    async fn wanted(&self, unfinished: &mut watch::Receiver<Unfinished>) -> Result<(Unfinished, Vec<String>, bool)> {
        loop {
            unfinished.borrow_and_update();
            let mut read = self.store.read(&Scope::system()).await?;
            let mut tests = db::list_unfinished(&mut read).await?;
            // those that count come before those that wait, whose order stays
            tests.sort_by_key(|test| test.state != State::Running);
            tests.truncate(self.at_once);
            let mut sensors = BTreeSet::new();
            for test in &tests {
                let tested = db::list_tested(&mut read, &test.tenant, &test.id).await?;
                sensors.extend(tested.into_iter().map(|tested| tested.sensor));
            }
            drop(read);
            if !tests.is_empty() {
                let counts = tests.iter().any(|test| test.state == State::Running);
                let ids = tests.into_iter().map(|test| (test.tenant, test.id)).collect();
                return Ok((ids, sensors.into_iter().collect(), counts));
            }
            if unfinished.changed().await.is_err() {
                future::pending::<()>().await;
            }
        }
    }
}

impl Projection for Telemetry {
    type Message = Heard;

    async fn open(&self, cursor: Option<String>) -> Result<BoxStream<'static, Result<Incoming<Heard>>>> {
        let mut unfinished = self.unfinished.clone();
        let (tests, sensors, counts) = self.wanted(&mut unfinished).await?;
        let request = WatchReadingsRequest {
            cursor: cursor.filter(|_| counts).unwrap_or_default(),
            sensor_ids: if sensors.len() > MOST_SENSORS { Vec::new() } else { sensors },
            ..Default::default()
        };
        let stream = self.client.clone().watch_readings(request).await?.into_inner();
        let (tests, planned) = (Arc::new(tests), Arc::clone(&self.planned));
        let (mut live, mut anew) = (false, !planned.swap(false, Ordering::SeqCst));
        let changed = async move {
            if unfinished.changed().await.is_err() {
                future::pending::<()>().await;
            }
            planned.store(true, Ordering::SeqCst);
        };
        let mut incoming = move |message: std::result::Result<WatchReadingsResponse, tonic::Status>| {
            let message = match message {
                Ok(message) => message,
                Err(status) => return Some(Err(Error::from(status))),
            };
            // the latest reading of each sensor, which arrived before
            if message.cursor.is_empty() {
                return None;
            }
            live |= message.bookmark.as_ref().is_some_and(|bookmark| bookmark.live);
            let (cursor, size) = (message.cursor.clone(), message.encoded_len());
            let heard = Heard { message, tests: Arc::clone(&tests), live, anew: std::mem::take(&mut anew) };
            Some(Ok(Incoming { cursor, size, payload: Some(heard) }))
        };
        Ok(stream.take_until(Box::pin(changed)).filter_map(move |message| future::ready(incoming(message))).boxed())
    }

    async fn apply(&self, tx: &mut Tx, reset: bool, messages: &[Heard]) -> Result<()> {
        run::apply(tx, self.clock.now_micros(), reset, messages).await
    }

    fn letter(&self, heard: &Heard) -> Vec<u8> {
        heard.message.encode_to_vec()
    }
}

/// Whether telemetry cannot be heard.
pub fn is_lost(store: &Store) -> bool {
    store.consumers().get(CONSUMER).is_some_and(|consumer| !consumer.connected && consumer.error.is_some())
}
