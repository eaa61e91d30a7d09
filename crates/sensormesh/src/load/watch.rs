//! The live stream of what a load sends, followed as a client does: from its cursor on whenever it ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{ReadingForm, SeriesName, WatchReadingsRequest, WatchReadingsResponse};
use sensormesh_series::wire::Group;
use sensormesh_types::{Code, Error};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use super::PATIENCE;
use super::check::{Stream, Verdict};
use super::history::Recorder;
use crate::server::{Authorized, in_words};

/// Between a stream that ended and the next.
const AGAIN: Duration = Duration::from_millis(50);
/// A stream without even a bookmark for so long is given up.
const SILENCE: Duration = Duration::from_secs(20);

/// A stream that is followed.
pub struct Watch {
    seen: Arc<Mutex<Stream>>,
    recorder: Recorder,
    task: JoinHandle<Result<()>>,
}

/// What the following of a stream remembers.
struct Follower {
    seen: Arc<Mutex<Stream>>,
    recorder: Recorder,
    cursor: String,
    /// The sensors that the open stream's numbers stand for.
    names: HashMap<u32, u32>,
    live: watch::Sender<bool>,
}

impl Watch {
    /// Follows what is sent from now on; returns when the stream is live.
    pub async fn start(channel: Authorized, recorder: &Recorder) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Stream::new(&recorder.history())));
        let (live, mut is_live) = watch::channel(false);
        let follower = Follower {
            seen: Arc::clone(&seen),
            recorder: recorder.clone(),
            cursor: String::new(),
            names: HashMap::new(),
            live,
        };
        let mut task = tokio::spawn(follower.run(TelemetryServiceClient::new(channel)));
        tokio::select! {
            ended = &mut task => ended??,
            live = timeout(PATIENCE, is_live.wait_for(|live| *live)) => {
                live.context("the live stream could not be opened")??;
            }
        }
        Ok(Self { seen, recorder: recorder.clone(), task })
    }

    /// What was found, when everything acknowledged was shown, or nothing more was shown for so long.
    pub async fn verdict(self, quiet: Duration) -> Result<Verdict> {
        let (mut shown, mut since) = (0, Instant::now());
        while self.seen.lock().is_behind(&self.recorder.history()) && since.elapsed() < quiet {
            if self.task.is_finished() {
                break;
            }
            sleep(AGAIN).await;
            let readings = self.seen.lock().readings;
            if readings != shown {
                (shown, since) = (readings, Instant::now());
            }
        }
        if self.task.is_finished() {
            self.task.await??;
        } else {
            self.task.abort();
        }
        Ok(self.seen.lock().verdict(&self.recorder.history()))
    }
}

impl Follower {
    async fn run(mut self, mut client: TelemetryServiceClient<Authorized>) -> Result<()> {
        let device = self.recorder.history().plan.device();
        loop {
            let request = WatchReadingsRequest {
                cursor: self.cursor.clone(),
                device_ids: vec![device.clone()],
                form: ReadingForm::Columns.into(),
                ..Default::default()
            };
            let ended = match client.watch_readings(request).await {
                Ok(answers) => self.follow(answers.into_inner()).await?,
                Err(status) => Some(status),
            };
            if let Some(status) = ended {
                self.ended(status)?;
            }
            sleep(AGAIN).await;
        }
    }

    /// Takes what a stream shows until it ends.
    async fn follow(&mut self, mut answers: Streaming<WatchReadingsResponse>) -> Result<Option<Status>> {
        self.names.clear();
        // the first stream begins with the latest readings of all, which are not live
        let mut live = !self.cursor.is_empty();
        loop {
            let message = match timeout(SILENCE, answers.message()).await {
                Err(_) => return Ok(None),
                Ok(Err(status)) => return Ok(Some(status)),
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(message))) => message,
            };
            self.learn(&message);
            if live {
                self.take(&message)?;
            }
            if !message.cursor.is_empty() {
                self.cursor = message.cursor;
                if !live {
                    live = true;
                    self.live.send_replace(true);
                }
            }
        }
    }

    fn learn(&mut self, message: &WatchReadingsResponse) {
        let history = self.recorder.history();
        let known = |name: &SeriesName| Some((name.series, history.plan.sensor(&name.sensor_id)?));
        self.names.extend(message.names.iter().filter_map(known));
    }

    fn take(&self, message: &WatchReadingsResponse) -> Result<()> {
        let mut history = self.recorder.history();
        let mut seen = self.seen.lock();
        let mut last = None;
        for group in &message.groups {
            let group = Group::read(group)?;
            let times = group.times()?;
            for channel in group.channels() {
                let channel = channel?;
                let sensor = *self.names.get(&channel.series).context("a series was shown without its name")?;
                for (time, value) in times.iter().zip(channel.values()?) {
                    seen.reading(&history, sensor, *time, value);
                    last = Some((sensor, *time));
                }
            }
        }
        // the cursor stands behind the last batch in the message
        if let Some((sensor, time)) = last
            && let Some(tick) = history.plan.tick(time)
        {
            let (lane, batch) = (history.plan.lane_of(sensor), history.plan.batch_of(sensor, tick));
            history.sequence.note(&message.cursor, lane, batch);
        }
        Ok(())
    }

    fn ended(&mut self, status: Status) -> Result<()> {
        let error = Error::from(status.clone());
        match error.code() {
            Code::Gone => {
                self.seen.lock().cursor_gone(error.message());
                self.cursor.clear();
                Ok(())
            }
            Code::Invalid | Code::Forbidden | Code::Unauthenticated => Err(in_words(status)),
            _ => Ok(()),
        }
    }
}
