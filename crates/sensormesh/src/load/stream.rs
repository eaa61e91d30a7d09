//! A lane through `IngestStream`: columns, many batches on their way, all that are not acknowledged sent again on the next
//! stream.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use sensormesh_proto::telemetry::v1::announced::Outcome;
use sensormesh_proto::telemetry::v1::ingest_stream_request::Message;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{Announce, IngestStreamRequest, IngestStreamResponse};
use sensormesh_types::{Code, Error};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::PATIENCE;
use super::lane::{Lane, Tally};
use crate::server::{Authorized, in_words};

/// Batches of a lane that wait for their acknowledgement at most.
const IN_FLIGHT: usize = 32;
/// Sensors of one announcement: the most that the contract takes.
const ANNOUNCED: usize = 1000;
/// A stream that says nothing for so long, while it owes an acknowledgement, is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// Between a stream that broke and the next.
const AGAIN: Duration = Duration::from_millis(50);

/// A batch on its way.
struct Sent {
    batch: u64,
    /// When it was sent the first time.
    first: Option<Instant>,
    /// It was sent on the stream that is open.
    here: bool,
}

/// Why a stream ended before everything was acknowledged.
enum Ended {
    /// The next may do better, after a while.
    Broken(String, Duration),
    /// No other will.
    Refused(anyhow::Error),
}

impl From<anyhow::Error> for Ended {
    fn from(error: anyhow::Error) -> Self {
        Ended::Refused(error)
    }
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        let error = Error::from(status.clone());
        match error.code() {
            Code::Invalid | Code::Forbidden | Code::Unauthenticated | Code::NotFound => {
                Ended::Refused(in_words(status))
            }
            _ => Ended::Broken(error.message().to_owned(), error.retry_after().unwrap_or(AGAIN)),
        }
    }
}

/// Sends until the lane is stopped and everything is acknowledged.
pub async fn run(mut lane: Lane, channel: Authorized) -> Result<Tally> {
    let mut client = TelemetryServiceClient::new(channel);
    let (open, mut next) = lane.open();
    let mut queue: VecDeque<Sent> = open.into_iter().map(|batch| Sent { batch, first: None, here: false }).collect();
    let mut until = None;
    loop {
        if lane.stop.is_cancelled() {
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            if queue.is_empty() || Instant::now() > until {
                return Ok(lane.tally);
            }
        }
        match session(&mut lane, &mut client, &mut queue, &mut next).await {
            Ok(()) => {}
            Err(Ended::Refused(error)) => return Err(error),
            Err(Ended::Broken(why, after)) => {
                for sent in queue.iter_mut().filter(|sent| sent.here) {
                    sent.here = false;
                    lane.unknown(sent.batch, &why)?;
                }
                sleep(after).await;
            }
        }
    }
}

/// One stream.
async fn session(
    lane: &mut Lane,
    client: &mut TelemetryServiceClient<Authorized>,
    queue: &mut VecDeque<Sent>,
    next: &mut u64,
) -> Result<(), Ended> {
    let (send, requests) = mpsc::channel(1);
    let sensors: Vec<String> = lane.plan.sensors_of(lane.number).map(|sensor| lane.plan.sensor_id(sensor)).collect();
    let announcements =
        sensors.chunks(ANNOUNCED).map(|some| Message::Announce(Announce { sensors: some.to_vec(), backfill: false }));
    let announcing = {
        let (send, announcements) = (send.clone(), announcements.collect::<Vec<_>>());
        async move {
            for message in announcements {
                // fails where the stream ended, which is heard from its answers
                let _ = send.send(IngestStreamRequest { message: Some(message) }).await;
            }
        }
    };
    let opening = async {
        let mut answers = client.ingest_stream(ReceiverStream::new(requests)).await?.into_inner();
        let series = numbers(&mut answers, sensors.len()).await?;
        Ok::<_, Ended>((answers, series))
    };
    let (opened, ()) = tokio::join!(opening, announcing);
    let (mut answers, series) = opened?;
    let mut sent = 0;
    loop {
        let stopping = lane.stop.is_cancelled();
        if stopping && queue.is_empty() {
            return Ok(());
        }
        tokio::select! {
            answer = answers.message() => match answer? {
                Some(answer) => sent -= acknowledge(lane, queue, &answer)?,
                None => return Err(Ended::Broken("the stream ended".to_owned(), AGAIN)),
            },
            permit = send.reserve(), if sent < queue.len() && sent < IN_FLIGHT => {
                let Ok(permit) = permit else { return Err(Ended::Broken("the stream ended".to_owned(), AGAIN)) };
                let batch = queue[sent].batch;
                lane.invoke(batch)?;
                queue[sent].here = true;
                queue[sent].first.get_or_insert_with(Instant::now);
                let message = Message::Batch(lane.plan.columns(lane.number, batch, &series));
                permit.send(IngestStreamRequest { message: Some(message) });
                sent += 1;
            }
            () = sleep_until(lane.pace.due()), if !stopping && sent == queue.len() && sent < IN_FLIGHT => {
                queue.push_back(Sent { batch: *next, first: None, here: false });
                *next += 1;
                lane.pace.sent();
            }
            () = lane.stop.cancelled(), if !stopping => {}
            () = sleep(SILENCE), if sent > 0 => {
                return Err(Ended::Broken("nothing was answered".to_owned(), AGAIN));
            }
        }
    }
}

/// The numbers that were given to the announced sensors.
async fn numbers(answers: &mut Streaming<IngestStreamResponse>, sensors: usize) -> Result<Vec<u32>, Ended> {
    let mut series = Vec::with_capacity(sensors);
    while series.len() < sensors {
        let Some(answer) = answers.message().await? else {
            return Err(Ended::Broken("the stream ended".to_owned(), AGAIN));
        };
        for announced in answer.announced {
            match announced.outcome {
                Some(Outcome::Series(number)) => series.push(number),
                Some(Outcome::Refusal(why)) if announced.reason == "UNAVAILABLE" => {
                    return Err(Ended::Broken(why, AGAIN));
                }
                other => return Err(anyhow!("{} was refused: {other:?}", announced.sensor_id).into()),
            }
        }
    }
    Ok(series)
}

/// Notes what is durable; answers how many batches that are.
fn acknowledge(lane: &mut Lane, queue: &mut VecDeque<Sent>, answer: &IngestStreamResponse) -> Result<usize> {
    if let Some(rejection) = answer.rejections.first() {
        bail!("readings of batch {} were refused: {}", rejection.batch, rejection.message);
    }
    let mut acknowledged = 0;
    while queue.front().is_some_and(|sent| sent.here && sent.batch < answer.through) {
        let sent = queue.pop_front().context("a batch")?;
        let cursor = if sent.batch + 1 == answer.through { answer.cursor.clone() } else { String::new() };
        lane.ok(sent.batch, cursor, sent.first.context("it was sent")?)?;
        acknowledged += 1;
    }
    Ok(acknowledged)
}
