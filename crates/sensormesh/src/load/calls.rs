//! A lane through `IngestReadings`: rows, one call at a time, the same batch again where nobody knows what became of it.

use std::time::Duration;

use anyhow::{Result, bail};
use sensormesh_proto::telemetry::v1::IngestReadingsRequest;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_types::{Code, Error};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Request, Status};

use super::PATIENCE;
use super::lane::{Lane, Tally};
use crate::server::{Authorized, in_words};

/// How long an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts where the answer has no hint.
const AGAIN: Duration = Duration::from_millis(100);

/// What came of one call.
enum Came {
    Stored(String),
    Refused(Status),
    Unknown(Status),
}

/// Sends until the lane is stopped.
pub async fn run(mut lane: Lane, channel: Authorized, give_up: bool) -> Result<Tally> {
    let mut client = TelemetryServiceClient::new(channel);
    let (open, mut next) = lane.open();
    for batch in open {
        deliver(&mut lane, &mut client, batch, true, false).await?;
    }
    loop {
        tokio::select! {
            biased;
            () = lane.stop.cancelled() => return Ok(lane.tally),
            () = sleep_until(lane.pace.due()) => {}
        }
        lane.pace.sent();
        deliver(&mut lane, &mut client, next, false, give_up).await?;
        next += 1;
    }
}

/// Sends one batch until it is known what became of it. `doubt` = it may have been stored by an attempt before, so that a
/// refusal says nothing about it.
async fn deliver(
    lane: &mut Lane,
    client: &mut TelemetryServiceClient<Authorized>,
    batch: u64,
    mut doubt: bool,
    give_up: bool,
) -> Result<()> {
    let first = Instant::now();
    let mut until = None;
    loop {
        lane.invoke(batch)?;
        let request = IngestReadingsRequest {
            readings: lane.plan.rows(lane.number, batch),
            batch_id: lane.plan.batch_id(lane.number, batch),
            backfill: false,
        };
        let status = match call(client, request).await? {
            Came::Stored(cursor) => return lane.ok(batch, cursor, first),
            Came::Refused(status) => {
                let error = Error::from(status.clone());
                lane.refused(batch, doubt, &error)?;
                if error.code() != Code::Exhausted {
                    return Err(in_words(status));
                }
                if give_up && !doubt {
                    return Ok(());
                }
                status
            }
            Came::Unknown(status) => {
                doubt = true;
                lane.unknown(batch, status.message())?;
                status
            }
        };
        if lane.stop.is_cancelled() && Instant::now() > *until.get_or_insert_with(|| Instant::now() + PATIENCE) {
            return Ok(());
        }
        sleep(Error::from(status).retry_after().unwrap_or(AGAIN)).await;
    }
}

async fn call(client: &mut TelemetryServiceClient<Authorized>, request: IngestReadingsRequest) -> Result<Came> {
    let mut request = Request::new(request);
    request.set_timeout(TIMEOUT);
    match client.ingest_readings(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            if answer.refused > 0 {
                bail!("{} readings were refused: {:?}", answer.refused, answer.results.first());
            }
            Ok(Came::Stored(answer.cursor))
        }
        Err(status) => Ok(match Error::from(status.clone()).code() {
            Code::Exhausted | Code::Invalid | Code::Forbidden | Code::Unauthenticated | Code::NotFound => {
                Came::Refused(status)
            }
            _ => Came::Unknown(status),
        }),
    }
}
