//! The `[log]` table of the configuration.

use std::collections::BTreeMap;

use sensormesh_types::{Bounds, Error, Result};
use serde::{Deserialize, Serialize};

use crate::Secret;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people, in colour on a terminal.
    #[default]
    Human,
    /// One JSON object a line, for machines.
    Json,
}

/// What is observed and where it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How a log line looks: `human` or `json`. Logs go to standard error.
    pub format: Format,
    /// What is logged: a level (`info`), or directives such as `info,sensormesh_mesh=debug`. `LOG_LEVEL` sets it.
    pub level: String,
    /// Where spans are sent by OTLP over gRPC: `http://127.0.0.1:4317`. Empty: nowhere. `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otlp_endpoint: String,
    /// Metadata sent with spans, such as a collector's key. `OTEL_EXPORTER_OTLP_HEADERS`.
    pub otlp_headers: BTreeMap<String, Secret<String>>,
    /// The share of new traces that is recorded, 0 to 1. `OTEL_TRACES_SAMPLER_ARG`.
    pub trace_ratio: f64,
    /// The name of this process among others. `OTEL_SERVICE_NAME`.
    pub service_name: String,
}

impl Config {
    /// Refuses what cannot be meant, naming it.
    pub fn check(&self) -> Result<()> {
        let schemes = ["http://", "https://"];
        if !self.otlp_endpoint.is_empty() && !schemes.iter().any(|scheme| self.otlp_endpoint.starts_with(scheme)) {
            return Err(Error::invalid("log.otlp_endpoint", "must be an address such as http://127.0.0.1:4317"));
        }
        Bounds::of("log").number("trace_ratio", self.trace_ratio, 0.0..=1.0).met()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Human,
            level: "info".to_owned(),
            otlp_endpoint: String::new(),
            otlp_headers: BTreeMap::new(),
            trace_ratio: 1.0,
            service_name: "sensormesh".to_owned(),
        }
    }
}
