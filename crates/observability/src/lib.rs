//! Logs, traces and metrics: set up once by the program, named in one place.
//!
//! [`init`] installs the log and, where an endpoint is configured, the OTLP span exporter. [`metrics`] needs no set-up.
//! [`trace`] reads and writes trace context. Nothing here reads the environment: the program fills [`Config`].

mod config;
mod logs;
pub mod metrics;
mod secret;
pub mod trace;

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use sensormesh_types::{Clock, Error, Result};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

pub use config::{Config, Format};
pub use secret::Secret;

/// What [`init`] set up. Kept until the end of the program.
#[derive(Debug)]
#[must_use = "spans that are not flushed are lost"]
pub struct Guard(Option<SdkTracerProvider>);

impl Guard {
    /// Sends what was not sent yet; waits up to five seconds for it.
    pub fn shutdown(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(Duration::from_secs(5))
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Installs log and span exporter for the whole process. Once; within a tokio runtime if an endpoint is configured.
pub fn init(config: &Config) -> Result<Guard> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|e| Error::invalid("level", format!("{:?} is no log level or filter: {e}", config.level)))?;
    let log = match config.format {
        Format::Human => tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
        Format::Json => tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .fmt_fields(JsonFields::new())
            .event_format(logs::Json(Clock::system()))
            .boxed(),
    };
    let provider = if config.otlp_endpoint.is_empty() { None } else { Some(exporter(config)?) };
    let spans = provider.as_ref().map(|provider| {
        // the exporter's own transport is not traced, or it would trace itself for ever
        let targets = Targets::new()
            .with_default(tracing::Level::INFO)
            .with_targets(["h2", "hyper", "hyper_util", "tonic", "tower"].map(|t| (t, tracing::Level::WARN)));
        tracing_opentelemetry::layer().with_tracer(provider.tracer("sensormesh")).with_filter(targets)
    });
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|e| Error::precondition("ALREADY_INITIALIZED", format!("logging is set up already: {e}")))?;
    if provider.is_some() {
        trace::exported();
    }
    Ok(Guard(provider))
}

fn exporter(config: &Config) -> Result<SdkTracerProvider> {
    let mut metadata = http::HeaderMap::new();
    for (name, value) in &config.otlp_headers {
        let name = http::HeaderName::try_from(name.as_str());
        let value = http::HeaderValue::try_from(value.reveal().as_str());
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Error::invalid("otlp_headers", "must be names and values of HTTP headers"));
        };
        metadata.insert(name, value);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.otlp_endpoint)
        .with_timeout(Duration::from_secs(5))
        .with_metadata(tonic::metadata::MetadataMap::from_headers(metadata))
        .build()
        .map_err(|e| Error::invalid("otlp_endpoint", format!("{:?} cannot be used: {e}", config.otlp_endpoint)))?;
    let resource = Resource::builder()
        .with_service_name(config.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_ratio.clamp(0.0, 1.0))));
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_sampler(sampler).with_resource(resource).build())
}
