//! Readings: in, durable, and out again.
//!
//! ```text
//! IngestStream, IngestReadings → validate → writer: one transaction for all that queued → log (fsync) → acknowledged
//!                                                     └→ tails, latest values → ring → WatchReadings
//!                                   tails at 1,024 readings → blocks ── ListReadings, StreamReadings, AggregateReadings
//!                                                             └→ merged into blocks of 8,192
//! ```
//!
//! The log is a database of its own. Readings stay in columns from a sender's batch to disk and to a subscriber; rows exist
//! only where a caller asks for them. At start the tails are put together again from what the log has beyond the blocks.

mod api;
mod background;
mod batch;
mod calibration;
mod calibrations;
mod catalog;
mod check;
mod columns;
mod compact;
mod config;
mod db;
mod dedup;
mod deletion;
mod engine;
mod filter;
mod flags;
mod history;
mod hub;
mod inprocess;
mod ownership;
mod quality;
mod replicas;
mod retention;
#[cfg(test)]
mod rig;
mod rollup;
mod scrub;
mod seal;
mod sender;
mod tail;
mod tasks;
mod turns;
mod validate;
mod writer;

use std::future::ready;
use std::sync::Arc;

use sensormesh_mesh::{Condition, Mesh, Service};
use sensormesh_proto::telemetry::v1::telemetry_service_server::TelemetryServiceServer;
use sensormesh_store::Store;
use sensormesh_types::Result;

pub use check::check;
pub use config::Config;
pub use db::Databases;
pub use db::block::Sizes;
pub use dedup::Found;
pub use engine::Engine;
pub use writer::Outcome;

/// The service's name.
pub const NAME: &str = "telemetry";

/// The greatest message that is taken: a batch of 1,000 rows, or of columns, is far smaller.
const MESSAGE: usize = 4 << 20;

/// Starts telemetry on its databases ([`Databases::open`]).
pub async fn start(config: Config, mesh: &Mesh, databases: Databases) -> Result<Service> {
    let engine = Engine::open(config, databases, mesh.clock().clone()).await?;
    let api = api::Api::new(engine.clone(), mesh)?;
    let registry = api.registry.clone();
    let sensors = tasks::Sensors::new(&engine, mesh)?;
    let (main, state) = (engine.databases.main.clone(), Arc::clone(engine.state()));
    let (upkeep, reader) = (Arc::clone(&state), Arc::clone(&state));
    let (calibrated, compacted) = (Arc::clone(&state), Arc::clone(&state));
    let (scrubbed, damaged) = (Arc::clone(&state), state.damaged.clone());
    let consumer = main.clone();
    let service = Service::new(NAME)
        .grpc(
            TelemetryServiceServer::new(api)
                .max_decoding_message_size(MESSAGE)
                .max_encoding_message_size(sensormesh_mesh::ANSWER),
        )
        .task("follow devices", move |shutdown| {
            let (main, sensors) = (main.clone(), sensors.clone());
            async move { shutdown.cut(main.follow("devices", sensors)).await.unwrap_or(Ok(())) }
        })
        .task("seal readings", move |shutdown| tasks::seal(Arc::clone(&state), shutdown))
        .task("merge blocks", move |shutdown| tasks::compact(Arc::clone(&compacted), shutdown))
        .task("follow calibrations", move |shutdown| calibrations::follow(Arc::clone(&calibrated), shutdown))
        .task("cut the log", move |shutdown| tasks::upkeep(Arc::clone(&upkeep), shutdown))
        .task("scrub", move |shutdown| scrub::run(Arc::clone(&scrubbed), shutdown))
        .task("release the quarantine", move |shutdown| tasks::release(engine.clone(), registry.clone(), shutdown))
        .check("log", move || ready(known(&reader)))
        .check("readings on disk", move || ready(damaged.condition()))
        .check("devices", move || ready(followed(&consumer)));
    Ok(service)
}

/// Whether this replica knows what stands in the log, whichever replica wrote it.
fn known(state: &engine::State) -> Condition {
    if state.follows() {
        Condition::Well
    } else {
        Condition::Failing("the log of readings cannot be read; what other replicas wrote is missing here".to_owned())
    }
}

/// Whether what is known of sensors is up to date.
fn followed(store: &Store) -> Condition {
    match store.consumers().get("devices") {
        Some(consumer) if consumer.connected => Condition::Well,
        _ => Condition::Degraded("devices is out of reach; readings of new sensors are kept aside".to_owned()),
    }
}
