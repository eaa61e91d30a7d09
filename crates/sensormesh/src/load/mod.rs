//! `load`: sends readings, keeps a history of what was sent and acknowledged, watches the live stream meanwhile, and verifies
//! both against the history. A system that loses its power under it must still pass.

mod calls;
mod check;
mod history;
mod lane;
mod pace;
mod plan;
mod read;
mod report;
mod sequence;
mod stream;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::future::try_join_all;
use sensormesh_types::Clock;
use tokio_util::sync::CancellationToken;

use crate::cli::{LoadArgs, LoadCommand, LoadSent, LoadTo};
use crate::config::Config;
use crate::server::{self, Authorized};
use crate::{services, up};

use check::Verdict;
use history::{History, Recorder};
use lane::{Lane, Tally};
use pace::Pace;
use plan::Plan;
use report::Report;
use watch::Watch;

/// How long a system that does not answer is waited for when everything was sent.
const PATIENCE: Duration = Duration::from_secs(60);
/// A live stream that shows nothing for so long, twice the time between two bookmarks, has shown everything.
const QUIET: Duration = Duration::from_secs(10);
/// Lanes that share a connection: well below the streams that one may have.
const LANES: u32 = 50;

/// Runs the command; fails where something is lost or wrong.
pub async fn run(args: LoadArgs) -> Result<()> {
    let (report, json) = match args.command {
        Some(LoadCommand::Check { history, to }) => {
            let history = History::open(&history)?;
            let mut report = Report::new()?;
            report.note(&history);
            report.verdict = verify(&history, &connect(&to).await?).await?;
            (report, to.json)
        }
        None => (send(args.sent, &args.to).await?, args.to.json),
    };
    report.print(json)?;
    if !report.verdict.is_clean() {
        bail!("what was acknowledged is not what is there");
    }
    Ok(())
}

/// A channel of its own at each call.
async fn connect(to: &LoadTo) -> Result<Authorized> {
    let config = Config::load(&to.common)?;
    if to.server.url.is_some() {
        return server::connect(&to.server, config.port_base, &config.data_dir).await;
    }
    let telemetry = services::ALL.iter().find(|entry| entry.name == sensormesh_telemetry::NAME);
    let port = telemetry.map_or(config.port_base, |entry| entry.port(&config));
    server::as_operator(&services::mesh_config(&config).pki_dir, port)
}

async fn send(sent: LoadSent, to: &LoadTo) -> Result<Report> {
    let clock = Clock::system();
    let plan = Plan::new(sent.sensors, sent.lanes, sent.batch, clock.now_nanos())?;
    let recorder = Recorder::open(sent.history.as_deref(), plan, clock.now_micros())?;
    let plan = Arc::new(recorder.history().plan.clone());
    let watch = match sent.no_watch {
        true => None,
        false => Some(Watch::start(connect(to).await?, &recorder).await?),
    };
    let stop = CancellationToken::new();
    let pace = Pace::new(sent.rate, &plan);
    let mut lanes = Vec::new();
    let mut channel = None;
    for number in 0..plan.lanes {
        if number % LANES == 0 {
            channel = Some(connect(to).await?);
        }
        let Some(channel) = channel.clone() else { continue };
        let (plan, recorder, pace) = (Arc::clone(&plan), recorder.clone(), pace.of(number));
        let lane = Lane { number, plan, recorder, pace, stop: stop.clone(), tally: Tally::new()? };
        lanes.push(if sent.calls {
            tokio::spawn(calls::run(lane, channel, sent.give_up))
        } else {
            tokio::spawn(stream::run(lane, channel))
        });
    }
    tokio::spawn(end(sent.duration, stop.clone()));
    let began = recorder.at();
    let mut report = Report::new()?;
    for tally in try_join_all(lanes).await? {
        report.tally.add(&tally?)?;
    }
    report.seconds = (report.tally.last.max(began) - began) as f64 / 1e6;
    report.note(&recorder.history());
    if let Some(watch) = watch {
        report.verdict.add(watch.verdict(QUIET).await?);
    }
    if !sent.no_check {
        let history = recorder.history().clone();
        report.verdict.add(verify(&history, &connect(to).await?).await?);
    }
    Ok(report)
}

/// Ends the sending after its time, or when somebody says so; said again, everything.
async fn end(duration: Duration, stop: CancellationToken) -> Result<()> {
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        told = up::told_to_stop()? => told?,
    }
    stop.cancel();
    up::told_to_stop()?.await?;
    std::process::exit(1)
}

/// Reads everything back.
async fn verify(history: &History, channel: &Authorized) -> Result<Verdict> {
    let mut verdict = Verdict::of(history);
    verdict.add(read::everything(history, channel, PATIENCE).await?);
    Ok(verdict)
}
