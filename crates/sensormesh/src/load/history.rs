//! The history of a load: what was sent when, and what was heard of it. A file of one JSON object a line, written before a
//! batch is sent and as soon as its answer is there, so that it is right whichever side is killed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::plan::Plan;
use super::sequence::Sequence;

/// One line. `at` is in microseconds since the process that writes it began.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Plan(Plan),
    /// A process goes on with the history: the time of day, microseconds since the Unix epoch.
    Began(i64),
    /// A batch is sent.
    Invoke { at: u64, lane: u32, batch: u64 },
    /// It was acknowledged. Of batches that were acknowledged together the last one has the cursor.
    Ok { at: u64, lane: u32, batch: u64, cursor: String },
    /// It was refused: nothing of it is stored.
    Failed { at: u64, lane: u32, batch: u64, why: String },
    /// No answer came: it may be stored.
    Unknown { at: u64, lane: u32, batch: u64, why: String },
}

/// What is known of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It was never sent.
    #[default]
    Never,
    /// It may be stored or not.
    Open,
    /// It is stored.
    Ok,
    /// Nothing of it is stored.
    Failed,
}

/// What is known of every batch.
#[derive(Clone, Debug)]
pub struct History {
    /// What was sent.
    pub plan: Plan,
    /// Whose place is whose.
    pub sequence: Sequence,
    /// How often no answer came.
    pub unknown: u64,
    lanes: Vec<Vec<State>>,
}

impl History {
    /// Of a load of which nothing was sent.
    pub fn new(plan: Plan) -> Self {
        let lanes = vec![Vec::new(); plan.lanes as usize];
        Self { plan, sequence: Sequence::default(), unknown: 0, lanes }
    }

    /// The batches that were ever sent, by lane.
    pub fn sent(&self, lane: u32) -> &[State] {
        self.lanes.get(lane as usize).map_or(&[], Vec::as_slice)
    }

    /// What is known of a batch.
    pub fn state(&self, lane: u32, batch: u64) -> State {
        usize::try_from(batch).ok().and_then(|batch| self.sent(lane).get(batch)).copied().unwrap_or_default()
    }

    /// How many batches are in this state.
    pub fn count(&self, state: State) -> u64 {
        self.lanes.iter().flatten().filter(|other| **other == state).count() as u64
    }

    /// Takes a line into account.
    pub fn apply(&mut self, line: &Line) {
        let (lane, batch, state) = match line {
            Line::Plan(_) | Line::Began(_) => return,
            Line::Invoke { lane, batch, .. } => (*lane, *batch, State::Open),
            Line::Failed { lane, batch, .. } => (*lane, *batch, State::Failed),
            Line::Unknown { lane, batch, .. } => {
                self.unknown += 1;
                (*lane, *batch, State::Open)
            }
            Line::Ok { lane, batch, cursor, .. } => {
                if !cursor.is_empty() {
                    self.sequence.note(cursor, *lane, *batch);
                }
                (*lane, *batch, State::Ok)
            }
        };
        let Some(batches) = self.lanes.get_mut(lane as usize) else { return };
        let batch = usize::try_from(batch).unwrap_or(usize::MAX);
        if batches.len() <= batch {
            batches.resize(batch + 1, State::Never);
        }
        // what was acknowledged stays so, whatever a repetition of it is answered
        if batches[batch] != State::Ok {
            batches[batch] = state;
        }
    }

    /// Reads a file, and up to where it is whole: a process that was killed leaves half a line.
    fn read(file: &Path) -> Result<(Self, u64)> {
        let shown = file.display();
        let mut lines = BufReader::new(File::open(file).with_context(|| format!("cannot read {shown}"))?);
        let (mut text, mut whole) = (Vec::new(), 0);
        let mut history: Option<Self> = None;
        for number in 1.. {
            text.clear();
            lines.read_until(b'\n', &mut text)?;
            if text.last() != Some(&b'\n') {
                break;
            }
            whole += text.len() as u64;
            let line = serde_json::from_slice(&text)
                .with_context(|| format!("line {number} of {shown} is none of a history"))?;
            match (&mut history, line) {
                (Some(history), line) => history.apply(&line),
                (None, Line::Plan(plan)) => {
                    plan.check()?;
                    history = Some(Self::new(plan));
                }
                (None, _) => break,
            }
        }
        Ok((history.with_context(|| format!("{shown} is no history of a load"))?, whole))
    }

    /// Reads a file.
    pub fn open(file: &Path) -> Result<Self> {
        Ok(Self::read(file)?.0)
    }
}

/// Writes a history and knows what is in it. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    began: Instant,
    inner: Arc<Mutex<(History, Option<File>)>>,
}

impl Recorder {
    /// Goes on with the history in a file; begins one of `plan` where there is none. Without a file it is kept in memory.
    pub fn open(file: Option<&Path>, plan: Plan, now: i64) -> Result<Self> {
        let (history, file) = match file {
            None => (History::new(plan), None),
            Some(path) if path.exists() => {
                let (history, whole) = History::read(path)?;
                let other = |plan: &Plan| (plan.sensors, plan.lanes, plan.batch);
                ensure!(
                    other(&history.plan) == other(&plan),
                    "{} is of a load with other sensors, lanes and batches: {:?}",
                    path.display(),
                    history.plan
                );
                let mut file = OpenOptions::new().write(true).open(path)?;
                file.set_len(whole)?;
                file.seek(std::io::SeekFrom::End(0))?;
                (history, Some(file))
            }
            Some(path) => {
                let mut file = File::create_new(path).with_context(|| format!("cannot write {}", path.display()))?;
                write(&mut file, &Line::Plan(plan.clone()))?;
                (History::new(plan), Some(file))
            }
        };
        let recorder = Self { began: Instant::now(), inner: Arc::new(Mutex::new((history, file))) };
        recorder.record(&Line::Began(now))?;
        Ok(recorder)
    }

    /// Writes a line.
    pub fn record(&self, line: &Line) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.0.apply(line);
        if let Some(file) = &mut inner.1 {
            write(file, line).context("cannot write the history")?;
        }
        Ok(())
    }

    /// Microseconds since this process began.
    pub fn at(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// What is known by now.
    pub fn history(&self) -> parking_lot::MappedMutexGuard<'_, History> {
        MutexGuard::map(self.inner.lock(), |inner| &mut inner.0)
    }
}

fn write(file: &mut File, line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(file.write_all(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan { seed: 1, sensors: 4, lanes: 2, batch: 2, base: 0 }
    }

    fn lines() -> Vec<Line> {
        let why = || "because".to_owned();
        vec![
            Line::Invoke { at: 1, lane: 0, batch: 0 },
            Line::Ok { at: 2, lane: 0, batch: 0, cursor: "a".into() },
            Line::Invoke { at: 3, lane: 1, batch: 0 },
            Line::Unknown { at: 4, lane: 1, batch: 0, why: why() },
            Line::Invoke { at: 5, lane: 0, batch: 1 },
            Line::Failed { at: 6, lane: 0, batch: 1, why: why() },
        ]
    }

    fn states(history: &History) -> Vec<State> {
        (0..2).flat_map(|lane| (0..3).map(move |batch| (lane, batch))).map(|(l, b)| history.state(l, b)).collect()
    }

    #[test]
    fn what_was_written_is_read_and_gone_on_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("history");
        let recorder = Recorder::open(Some(&file), plan(), 0).expect("a new one");
        lines().iter().for_each(|line| recorder.record(line).expect("written"));
        let expected = [State::Ok, State::Failed, State::Never, State::Open, State::Never, State::Never];
        assert_eq!(states(&recorder.history()), expected);
        drop(recorder);
        // the writer is killed within a line
        let mut half = OpenOptions::new().append(true).open(&file).expect("the file");
        half.write_all(br#"{"ok":{"at":7,"lane":1,"ba"#).expect("written");
        assert_eq!(states(&History::open(&file).expect("read")), expected);
        let recorder = Recorder::open(Some(&file), plan(), 0).expect("gone on with");
        recorder.record(&Line::Ok { at: 1, lane: 1, batch: 0, cursor: "b".into() }).expect("written");
        let history = History::open(&file).expect("read");
        assert_eq!((history.state(1, 0), history.unknown), (State::Ok, 1));
    }

    #[test]
    fn another_load_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("history");
        drop(Recorder::open(Some(&file), plan(), 0).expect("a new one"));
        assert!(Recorder::open(Some(&file), Plan { sensors: 8, ..plan() }, 0).is_err());
        std::fs::write(&file, "something else\n").expect("written");
        assert!(History::open(&file).is_err());
    }
}
