//! An engine whose sealing and expiry a test does by hand.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sensormesh_series::Quality;
use sensormesh_store::Entry;
use sensormesh_types::{Clock, Result};
use tempfile::TempDir;

use crate::batch::{self, Channel, Group};
use crate::catalog::{Sensor, Series};
use crate::history::History;
use crate::writer::{Outcome, Request};
use crate::{Config, Databases, Engine, deletion, retention, seal};

/// 2026-01-01, nanoseconds: what the clock shows at first.
pub const NOW: i64 = 1_767_225_600_000_000_000;
pub const SECOND: i64 = 1_000_000_000;
pub const DAY: i64 = 86_400 * SECOND;

pub struct Rig {
    pub engine: Engine,
    pub clock: Clock,
    folder: Option<TempDir>,
}

impl Rig {
    pub async fn sqlite(config: Config) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("{service}.db").display());
        Self { folder: Some(folder), ..Self::open(url, config, Clock::fixed(NOW / 1000)).await }
    }

    /// One on every engine there is.
    pub async fn on_both(config: Config) -> Vec<Self> {
        let mut rigs = vec![Self::sqlite(config.clone()).await];
        rigs.extend(Self::postgres(config).await);
        rigs
    }

    /// One on PostgreSQL, where there is a server for tests.
    pub async fn postgres(config: Config) -> Option<Self> {
        let url = sensormesh_testkit::postgres::url_for_new_database()?;
        Some(Self::open(url, config, Clock::fixed(NOW / 1000)).await)
    }

    /// Some replicas on one PostgreSQL, with the same clock, where there is a server for tests.
    pub async fn replicas(config: Config, replicas: usize) -> Option<Vec<Self>> {
        let (url, clock) = (sensormesh_testkit::postgres::url_for_new_database()?, Clock::fixed(NOW / 1000));
        let mut rigs = Vec::new();
        for _ in 0..replicas {
            rigs.push(Self::open(url.clone(), config.clone(), clock.clone()).await);
        }
        Some(rigs)
    }

    async fn open(url: String, config: Config, clock: Clock) -> Self {
        let databases = Databases::open(&sensormesh_store::Config::at(url), clock.clone()).await.expect("databases");
        let engine = Engine::open(config, databases, clock.clone()).await.expect("engine");
        Self { engine, clock, folder: None }
    }

    /// A sensor whose profile has its readings kept for so many days.
    pub async fn series(&self, sensor_id: &str, retention_days: u32) -> Arc<Series> {
        self.engine.catalog.put_sensor("default", sensor_id, Sensor { retention_days, ..Sensor::default() });
        self.engine.number("default", &[sensor_id]).await.expect("a number").remove(0)
    }

    /// Makes readings durable, in the order of their times or not.
    pub async fn send(&self, series: &Arc<Series>, readings: &[(i64, f64)]) -> Outcome {
        let flagged: Vec<_> = readings.iter().map(|(time, value)| (*time, *value, Quality::USUAL)).collect();
        self.send_flagged(series, &flagged).await
    }

    pub async fn send_flagged(&self, series: &Arc<Series>, readings: &[(i64, f64, Quality)]) -> Outcome {
        let values = readings.iter().map(|r| r.1).collect();
        let qualities = readings.iter().map(|r| r.2).collect();
        let channel = Channel { series: Arc::clone(series), values, qualities };
        let groups = vec![Group::new(readings.iter().map(|r| r.0).collect(), vec![channel])];
        let body = batch::encode(&groups).into();
        let (request, outcome) = Request::new(Arc::clone(&series.tenant), groups, body, false);
        self.engine.submit(request, outcome).await.expect("durable")
    }

    pub async fn seal(&self, series: &Arc<Series>) {
        seal::seal(self.engine.state(), vec![Arc::clone(series)]).await.expect("sealed");
    }

    pub async fn expire(&self) {
        retention::expire(self.engine.state()).await.expect("expired");
    }

    pub async fn delete(&self, series: &Arc<Series>, range: Range<i64>) -> Result<u64> {
        deletion::delete(self.engine.state(), series, range, |_| Entry::default()).await
    }

    pub fn advance_days(&self, days: u64) {
        self.clock.advance(Duration::from_secs(days * 86_400));
    }

    /// The raw readings there are.
    pub async fn readings(&self, series: &Arc<Series>) -> Vec<(i64, f64)> {
        let mut history = History::open(&self.engine, series, (i64::MIN, i64::MAX)).await.expect("history");
        let mut readings = Vec::new();
        for run in 0..history.runs() {
            readings.extend(history.load(run).await.expect("run").iter().map(|r| (r.time, r.value)));
        }
        readings
    }

    /// The folder of the files, on SQLite.
    pub fn file(&self, service: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.path().join(format!("{service}.db")))
    }
}
