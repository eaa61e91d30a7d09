//! The engine without its contract: for measurements, which compare it with what the network adds.

use std::future::Future;
use std::sync::Arc;

use sensormesh_mesh::Shutdown;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::{Result, Scope};

use crate::catalog::Sensor;
use crate::columns::{self, Checked};
use crate::compact;
use crate::db::{self, block::Sizes};
use crate::engine::Engine;
use crate::seal;
use crate::tasks;
use crate::validate::Window;
use crate::writer::{Outcome, Request};

impl Engine {
    /// Makes sensors known without `devices` and answers their numbers.
    pub async fn register(&self, tenant: &str, sensor_ids: &[&str]) -> Result<Vec<u32>> {
        for sensor_id in sensor_ids {
            self.catalog.put_sensor(tenant, sensor_id, Sensor::default());
        }
        Ok(self.number(tenant, sensor_ids).await?.iter().map(|series| series.number).collect())
    }

    /// Takes a batch in columns as `IngestStream` does, with every check but that of the sender. It is queued when this
    /// returns; the future it answers ends when the batch is durable.
    pub async fn ingest(
        &self,
        tenant: &Arc<str>,
        batch: pb::ReadingBatch,
    ) -> Result<impl Future<Output = Result<Outcome>> + Send + 'static> {
        let window = Window::at(self.clock.now_nanos(), false);
        let Checked { groups, body, .. } = columns::check(batch, window, |number| {
            let series = self.catalog.series(number).filter(|series| series.tenant == *tenant)?;
            let sensor = series.sensor()?;
            Some((series, sensor))
        })?;
        let (request, outcome) = Request::new(Arc::clone(tenant), groups, body, false);
        self.enqueue(request, outcome).await
    }

    /// Seals everything, and merges blocks as far as it is worth it.
    pub async fn settle(&self) -> Result<()> {
        let all = self.catalog.all_series();
        seal::seal(self.state(), all.clone()).await?;
        for series in &all {
            compact::compact(self, series).await?;
        }
        Ok(())
    }

    /// What blocks there are and how large.
    pub async fn sizes(&self) -> Result<Sizes> {
        db::block::sizes(&mut self.databases.main.read(&Scope::system()).await?).await
    }

    /// Cuts the log as far as streams do not need it, and gives back what nothing uses.
    pub async fn cut(&self) -> Result<()> {
        seal::cut_log(self).await?;
        self.databases.main.give_back().await?;
        self.databases.log.give_back().await
    }

    /// Seals until stopping is asked for, as the service's task does.
    pub async fn seal(&self, shutdown: Shutdown) -> Result<()> {
        tasks::seal(Arc::clone(self.state()), shutdown).await
    }
}
