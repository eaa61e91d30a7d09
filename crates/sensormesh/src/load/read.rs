//! Reading everything back that a load sent.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sensormesh_proto::telemetry::v1::StreamReadingsRequest;
use sensormesh_proto::telemetry::v1::channel::Values;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_series::wire;
use sensormesh_types::{Code, Error};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::check::{ReadBack, Verdict};
use super::history::History;
use crate::server::{Authorized, in_words};

/// Sensors of one request.
const SENSORS: usize = 100;
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(200);

/// Compares all of a load's sensors with its history. A system that does not answer is asked again for as long as `patience`.
pub async fn everything(history: &History, channel: &Authorized, patience: Duration) -> Result<Verdict> {
    let mut client = TelemetryServiceClient::new(channel.clone());
    let sensors: Vec<u32> = (0..history.plan.sensors).collect();
    let mut verdict = Verdict::default();
    for some in sensors.chunks(SENSORS) {
        match read(history, &mut client, some, patience).await? {
            Some(found) => verdict.add(found),
            None => {
                // a sensor that is not known hides those beside it
                for sensor in some {
                    let found = read(history, &mut client, &[*sensor], patience).await?;
                    verdict.add(found.unwrap_or_else(|| nothing(history, *sensor)));
                }
            }
        }
    }
    Ok(verdict)
}

fn nothing(history: &History, sensor: u32) -> Verdict {
    let mut read = ReadBack::new(history);
    read.begin(sensor);
    read.verdict()
}

/// Reads some sensors; `None` where one is not known.
async fn read(
    history: &History,
    client: &mut TelemetryServiceClient<Authorized>,
    sensors: &[u32],
    patience: Duration,
) -> Result<Option<Verdict>> {
    let until = Instant::now() + patience;
    loop {
        match attempt(history, client, sensors).await? {
            Ok(verdict) => return Ok(Some(verdict)),
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(status) => match Error::from(status.clone()).code() {
                Code::Unavailable | Code::Timeout | Code::Exhausted | Code::Internal if Instant::now() < until => {
                    sleep(AGAIN).await;
                }
                _ => return Err(in_words(status)),
            },
        }
    }
}

async fn attempt(
    history: &History,
    client: &mut TelemetryServiceClient<Authorized>,
    sensors: &[u32],
) -> Result<Result<Verdict, Status>> {
    let request = StreamReadingsRequest {
        sensor_ids: sensors.iter().map(|sensor| history.plan.sensor_id(*sensor)).collect(),
        ..Default::default()
    };
    let mut answers = match client.stream_readings(request).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    let mut read = ReadBack::new(history);
    let mut left: HashSet<u32> = sensors.iter().copied().collect();
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => break,
            Err(status) => return Ok(Err(status)),
        };
        for name in &answer.names {
            let sensor = history.plan.sensor(&name.sensor_id).context("a sensor was read that was not asked for")?;
            left.remove(&sensor);
            read.begin(sensor);
        }
        for group in &answer.groups {
            let times = wire::times(group.start_ns, group.tick_ns, &group.steps)?;
            for channel in &group.channels {
                let values = match channel.values.as_ref().context("a channel has no values")? {
                    Values::Doubles(doubles) => doubles.values.clone(),
                    Values::Scaled(scaled) => wire::values(scaled.decimals, &scaled.deltas)?,
                };
                times.iter().zip(values).for_each(|(time, value)| read.reading(*time, value));
            }
        }
    }
    left.into_iter().for_each(|sensor| read.begin(sensor));
    Ok(Ok(read.verdict()))
}
