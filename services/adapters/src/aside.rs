//! Readings that telemetry does not take for a while: they go to the disk, and from there to telemetry, in order.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sensormesh_mesh::{Channel, Mesh, Shutdown};
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{IngestReadingsRequest, IngestReadingsResponse};
use sensormesh_store::Store;
use sensormesh_store::spool::{Call, Delivery, Kept, Spool, SpoolBounds, passes};
use sensormesh_types::{Clock, Error, Result, Scope, random};

use crate::connection::Connection;

/// Readings in a call, as many as telemetry takes in one.
const TOGETHER: usize = 1000;
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(15);
const METHOD: &str = "sensormesh.telemetry.v1.TelemetryService/IngestReadings";

/// What waits on the disk, for all connections; the calls of each are delivered one after the other.
#[derive(Clone)]
pub struct Aside {
    spool: Spool,
    telemetry: TelemetryServiceClient<Channel>,
    clock: Clock,
}

impl Aside {
    /// What waits in the service's database, at most `bytes` of it.
    pub async fn open(store: &Store, mesh: &Mesh, bytes: u64) -> Result<Self> {
        let bounds = SpoolBounds { calls: u64::MAX, bytes, age: Duration::MAX, receipts: Duration::ZERO };
        Ok(Self { spool: Spool::open(store, bounds).await?, telemetry: mesh.client()?, clock: mesh.clock().clone() })
    }

    /// How many calls of a connection wait.
    pub fn waiting(&self, connection: &Connection) -> u64 {
        self.spool.waiting().get(connection.id).map_or(0, |backlog| backlog.calls)
    }

    /// Whether readings of a connection wait here: those that come now come behind them.
    pub fn holds(&self, connection: &Connection) -> bool {
        self.spool.holds(connection.id)
    }

    /// Takes over what waits in a connection. Where there is no room the oldest are given up.
    pub async fn take(&self, connection: &Connection) -> Result<()> {
        while let Some((through, readings)) = connection.oldest(TOGETHER) {
            let lost = readings.len() as u64;
            let request = IngestReadingsRequest { readings, ..IngestReadingsRequest::default() };
            let call = Call {
                receipt_id: random::id(self.clock.now_micros()),
                owner: format!("connection:{}", connection.id),
                target: connection.id.to_owned(),
                method: METHOD.to_owned(),
                call: request.encode_to_vec(),
            };
            if !self.keep(connection, call).await? {
                connection.gave_up(lost);
            }
            connection.put_aside(through);
        }
        Ok(())
    }

    /// Whether a call could be kept: it may be larger than all the room there is.
    async fn keep(&self, connection: &Connection, call: Call) -> Result<bool> {
        let scope = Scope::tenant_of(&*connection.tenant);
        loop {
            match self.spool.keep(&scope, call.clone()).await {
                Err(error) if error.reason() == "SPOOL_FULL" => match self.spool.give_up(connection.id).await? {
                    Some(oldest) => connection.gave_up(decoded(&oldest)?.readings.len() as u64),
                    None => return Ok(false),
                },
                kept => return kept.map(|_| true),
            }
        }
    }

    /// Delivers until stopping is asked for.
    pub async fn run(&self, connections: Vec<Arc<Connection>>, shutdown: Shutdown) -> Result<()> {
        let deliver = |kept: Arc<Kept>| {
            let connection = connections.iter().find(|connection| connection.id == kept.call.target).cloned();
            async move { self.deliver(connection.as_deref(), &kept).await }
        };
        shutdown.cut(self.spool.run(deliver)).await.unwrap_or(Ok(()))
    }

    async fn deliver(&self, connection: Option<&Connection>, kept: &Kept) -> Delivery {
        let mut readings = 0;
        let answered = async {
            let mut request = decoded(kept)?;
            readings = request.readings.len() as u64;
            request.batch_id.clone_from(&kept.call.receipt_id);
            let mut telemetry = self.telemetry.clone();
            let answer = tokio::time::timeout(PATIENCE, telemetry.ingest_readings(request)).await;
            let late = |_| Error::unavailable("NO_ANSWER", "telemetry did not answer in time", PATIENCE);
            Ok::<IngestReadingsResponse, Error>(answer.map_err(late)??.into_inner())
        };
        let (refused, delivery) = match answered.await {
            Ok(answer) => (u64::from(answer.refused), Delivery::Delivered(Vec::new())),
            Err(error) if passes(&error) => {
                if let Some(connection) = connection {
                    connection.not_delivering(Some(error.message().to_owned()));
                }
                return Delivery::Later;
            }
            Err(error) => {
                tracing::warn!(connection = kept.call.target, readings, %error, "readings that waited are refused");
                (readings, Delivery::Refused(Vec::new()))
            }
        };
        if let Some(connection) = connection {
            connection.settled(readings.saturating_sub(refused), refused, self.clock.now_nanos());
        }
        delivery
    }
}

fn decoded(kept: &Kept) -> Result<IngestReadingsRequest> {
    IngestReadingsRequest::decode(&*kept.call.call).map_err(Error::internal)
}
