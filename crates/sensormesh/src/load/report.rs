//! What a load says at its end.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::check::{Fault, Verdict};
use super::history::{History, State};
use super::lane::Tally;

/// What came of a load.
pub struct Report {
    /// Of this process.
    pub tally: Tally,
    /// How long was sent.
    pub seconds: f64,
    /// What is wrong.
    pub verdict: Verdict,
    /// Batches that were acknowledged, and that may be stored or not, in all of the history.
    acknowledged: u64,
    open: u64,
    /// How often no answer came.
    unknown: u64,
    batch: u32,
}

impl Report {
    /// Of a load that is not known yet.
    pub fn new() -> Result<Self> {
        let (verdict, tally) = (Verdict::default(), Tally::new()?);
        Ok(Self { tally, seconds: 0.0, verdict, acknowledged: 0, open: 0, unknown: 0, batch: 0 })
    }

    /// Takes over what the history says.
    pub fn note(&mut self, history: &History) {
        self.acknowledged = history.count(State::Ok);
        self.open = history.count(State::Open);
        self.unknown = history.unknown;
        self.batch = history.plan.batch;
    }

    /// Prints it, for people or for programs.
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            println!("{}", self.json());
        } else {
            print!("{}", self.words()?);
        }
        Ok(())
    }

    fn readings(&self) -> u64 {
        self.tally.batches * u64::from(self.batch)
    }

    fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.readings() as f64 / self.seconds } else { 0.0 }
    }

    fn words(&self) -> Result<String> {
        let mut text = String::new();
        let Tally { batches, refused, latencies, .. } = &self.tally;
        if *batches + refused > 0 {
            writeln!(
                text,
                "{} readings acknowledged in {batches} batches, {:.0} a second; {refused} batches refused",
                self.readings(),
                self.per_second()
            )?;
            let millis = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
            let most = latencies.max() as f64 / 1000.0;
            writeln!(
                text,
                "acknowledged after: p50 {:.1} ms, p99 {:.1} ms, at most {most:.1} ms",
                millis(0.5),
                millis(0.99)
            )?;
        }
        writeln!(
            text,
            "history: {} batches acknowledged, {} may be stored or not, no answer {} times",
            self.acknowledged, self.open, self.unknown
        )?;
        writeln!(text, "{}", self.verdict)?;
        Ok(text)
    }

    fn json(&self) -> Value {
        let Tally { batches, refused, without_hint, latencies, .. } = &self.tally;
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("readings", json!(self.readings()));
        put("batches", json!(batches));
        put("seconds", json!((self.seconds * 1000.0).round() / 1000.0));
        put("per_second", json!(self.per_second().round()));
        put("refused", json!(refused));
        put("refused_without_hint", json!(without_hint));
        for (name, quantile) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999), ("max_us", 1.0)] {
            put(name, json!(latencies.value_at_quantile(quantile)));
        }
        put("acknowledged", json!(self.acknowledged));
        put("open", json!(self.open));
        put("unknown", json!(self.unknown));
        for fault in Fault::ALL {
            put(fault.word(), json!(self.verdict.count(fault)));
        }
        put("examples", json!(self.verdict.examples));
        Value::Object(object)
    }
}
