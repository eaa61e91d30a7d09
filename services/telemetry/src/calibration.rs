//! What readings become on their way out: a function from a series and its column to a column.

use std::sync::Arc;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::calibration::Function as Wire;
use sensormesh_series::{Aggregate, Column, Quality, Reading, Rollup};
use sensormesh_types::{Error, Result, time};

/// How a value is calibrated.
#[derive(Clone, Debug, PartialEq)]
pub enum Function {
    /// value × gain + offset.
    Linear {
        /// The factor.
        gain: f64,
        /// What is added.
        offset: f64,
    },
    /// c\[0\] + c\[1\] × value + c\[2\] × value² + …, by Horner's method.
    Polynomial(Vec<f64>),
    /// Straight lines between points (measured, true), by rising `measured`.
    Table(Vec<(f64, f64)>),
}

impl Function {
    /// The function of the contract. `field` is where the calibration stands in the request.
    pub fn from_proto(calibration: &pb::Calibration, field: &str) -> Result<Self> {
        let wrong = |name: &str, what: &str| Err(Error::invalid(format!("{field}.{name}"), what));
        match &calibration.function {
            None => wrong("function", "must be linear, polynomial or table"),
            Some(Wire::Linear(linear)) => {
                let (gain, offset) = (linear.gain.unwrap_or(1.0), linear.offset);
                if gain == 0.0 {
                    return wrong("linear.gain", "must not be 0: every value would be the same");
                }
                Ok(Self::Linear { gain, offset })
            }
            Some(Wire::Polynomial(polynomial)) => {
                if polynomial.coefficients.iter().any(|c| !c.is_finite()) {
                    return wrong("polynomial.coefficients", "must be finite");
                }
                Ok(Self::Polynomial(polynomial.coefficients.clone()))
            }
            Some(Wire::Table(table)) => {
                let points: Vec<_> = table.points.iter().map(|point| (point.measured, point.true_value)).collect();
                if !points.windows(2).all(|pair| pair[0].0 < pair[1].0) {
                    return wrong(
                        "table.points",
                        "must be in the order of `measured`, each greater than the one before",
                    );
                }
                Ok(Self::Table(points))
            }
        }
    }

    /// What a value stands for; perhaps not finite.
    fn value(&self, value: f64) -> f64 {
        match self {
            Self::Linear { gain, offset } => value * gain + offset,
            Self::Polynomial(coefficients) => coefficients.iter().rev().fold(0.0, |sum, c| sum * value + c),
            Self::Table(points) => {
                let after = points.partition_point(|(measured, _)| *measured <= value).clamp(1, points.len() - 1);
                let ((x0, y0), (x1, y1)) = (points[after - 1], points[after]);
                y0 + (value - x0) / (x1 - x0) * (y1 - y0)
            }
        }
    }
}

/// One version that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Its number.
    pub number: u32,
    /// It holds from this time on, nanoseconds since the Unix epoch.
    pub from: i64,
    /// Up to but not including this time; `None` = for ever.
    pub to: Option<i64>,
    /// How a value is calibrated.
    pub function: Function,
    /// The unit of what it gives; empty = the sensor's.
    pub unit: String,
}

impl Version {
    /// The version of the contract. `field` is where it stands in the request.
    pub fn from_proto(calibration: &pb::Calibration, field: &str) -> Result<Self> {
        let nanos = |name: &str, at: &prost_types::Timestamp| time::nanos(&format!("{field}.{name}"), at);
        let from = calibration.valid_from.as_ref().map(|at| nanos("valid_from", at)).transpose()?;
        let to = calibration.valid_to.as_ref().map(|at| nanos("valid_to", at)).transpose()?;
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            return Err(Error::invalid(format!("{field}.valid_to"), "must be later than valid_from"));
        }
        if !calibration.unit.is_empty() && (from.is_some() || to.is_some()) {
            let what = "holds for all times: leave valid_from and valid_to empty, or the unit";
            return Err(Error::invalid(format!("{field}.unit"), what));
        }
        Ok(Self {
            number: calibration.version,
            from: from.unwrap_or(i64::MIN),
            to,
            function: Function::from_proto(calibration, field)?,
            unit: calibration.unit.clone(),
        })
    }

    fn holds_at(&self, time: i64) -> bool {
        self.from <= time && self.to.is_none_or(|to| time < to)
    }
}

/// What holds of a sensor's versions at which time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// From each time on, up to the next, the function that holds; the first from the beginning.
    spans: Vec<(i64, Option<Function>)>,
    unit: String,
}

impl Calibration {
    /// What holds of these versions; `None` where there is none.
    pub fn of(mut versions: Vec<Version>) -> Option<Arc<Self>> {
        versions.sort_by_key(|version| version.number);
        let unit = versions.last()?.unit.clone();
        let mut starts: Vec<i64> = versions.iter().flat_map(|v| [Some(v.from), v.to]).flatten().collect();
        starts.push(i64::MIN);
        starts.sort_unstable();
        starts.dedup();
        let holding = |at: &i64| versions.iter().rev().find(|v| v.holds_at(*at)).map(|v| v.function.clone());
        let spans = starts.iter().map(|at| (*at, holding(at))).collect();
        Some(Arc::new(Self { spans, unit }))
    }

    /// The unit of what it gives; empty = the sensor's.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The span that a time lies in, and where the next one starts.
    fn span(&self, time: i64) -> (Option<&Function>, Option<i64>) {
        let next = self.spans.partition_point(|(start, _)| *start <= time);
        let function = next.checked_sub(1).and_then(|place| self.spans[place].1.as_ref());
        (function, self.spans.get(next).map(|(start, _)| *start))
    }

    /// Calibrates readings, whatever the order of their times. One whose result is not finite keeps its value and is
    /// marked as missing.
    pub fn apply(&self, times: &[i64], values: &mut [f64], qualities: &mut Vec<Quality>) {
        let mut at = 0;
        while at < times.len() {
            let (function, next) = self.span(times[at]);
            let start = times[at];
            let same = |time: &i64| *time >= start && next.is_none_or(|next| *time < next);
            let until = at + times[at..].iter().position(|time| !same(time)).unwrap_or(times.len() - at);
            if let Some(function) = function {
                for index in at..until {
                    let value = function.value(values[index]);
                    if value.is_finite() {
                        values[index] = value;
                    } else {
                        qualities.resize(times.len(), Quality::USUAL);
                        qualities[index] = Quality::MISSING;
                    }
                }
            }
            at = until;
        }
    }

    /// Calibrates a column.
    pub fn column(&self, column: Column) -> Column {
        column.with_values(|times, values, qualities| self.apply(times, values, qualities))
    }

    /// Calibrates one reading.
    pub fn reading(&self, reading: Reading) -> Reading {
        let (mut values, mut qualities) = ([reading.value], vec![reading.quality]);
        self.apply(&[reading.time], &mut values, &mut qualities);
        Reading { value: values[0], quality: qualities[0], ..reading }
    }

    /// Calibrates the summary of readings that lie from `start` to `end`, both included; `None` where it cannot be told from
    /// the summary alone: the function is no straight line, or not one for all of them.
    pub fn aggregate(&self, aggregate: Aggregate, start: i64, end: i64) -> Option<Aggregate> {
        let (function, next) = self.span(start);
        if next.is_some_and(|next| next <= end) {
            return None;
        }
        match function {
            None => Some(aggregate),
            Some(Function::Linear { gain, offset }) => aggregate.on_line(*gain, *offset),
            Some(_) => None,
        }
    }

    /// Calibrates a rollup; `None` where it cannot be told from it alone.
    pub fn rollup(&self, rollup: Rollup) -> Option<Rollup> {
        let (function, next) = self.span(rollup.aggregate.first.0);
        if next.is_some_and(|next| next <= rollup.aggregate.last.0) {
            return None;
        }
        match function {
            None => Some(rollup),
            Some(Function::Linear { gain, offset }) => rollup.on_line(*gain, *offset),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(number: u32, from: i64, to: Option<i64>, function: Function) -> Version {
        Version { number, from, to, function, unit: String::new() }
    }

    fn add(offset: f64) -> Function {
        Function::Linear { gain: 1.0, offset }
    }

    #[test]
    fn the_highest_version_that_is_valid_at_a_readings_time_holds() {
        let versions = vec![
            version(3, 20, Some(30), add(300.0)),
            version(1, 10, None, add(100.0)),
            version(2, i64::MIN, Some(15), add(200.0)),
        ];
        let calibration = Calibration::of(versions).expect("some");
        let times = [0, 12, 15, 20, 29, 30, 12];
        let (mut values, mut qualities) = ([1.0; 7], Vec::new());
        calibration.apply(&times, &mut values, &mut qualities);
        assert_eq!(values, [201.0, 201.0, 101.0, 301.0, 301.0, 101.0, 201.0]);
        assert!(qualities.is_empty());
        assert!(Calibration::of(Vec::new()).is_none());
    }

    #[test]
    fn functions_give_what_their_definitions_say() {
        let polynomial = Function::Polynomial(vec![1.0, 2.0, 3.0]);
        assert_eq!(polynomial.value(2.0), 17.0);
        let table = Function::Table(vec![(0.0, 10.0), (10.0, 30.0), (20.0, 20.0)]);
        let values: Vec<f64> = [-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 30.0].iter().map(|v| table.value(*v)).collect();
        assert_eq!(values, [0.0, 10.0, 20.0, 30.0, 25.0, 20.0, 10.0]);
    }

    #[test]
    fn a_result_that_is_not_finite_is_no_value() {
        let calibration = Calibration::of(vec![version(1, i64::MIN, None, Function::Polynomial(vec![0.0, 0.0, 1.0]))]);
        let read = calibration.expect("some").reading(Reading { time: 0, value: 1e300, quality: Quality::USUAL });
        assert_eq!((read.value, read.quality), (1e300, Quality::MISSING));
    }

    #[test]
    fn wrong_functions_are_refused_by_name() {
        let field = |function, unit: &str, valid_to| {
            let valid_to = Some(time::from_nanos(valid_to));
            let calibration =
                pb::Calibration { function: Some(function), unit: unit.into(), valid_to, ..pb::Calibration::default() };
            let calibration = pb::Calibration { valid_from: Some(time::from_nanos(10)), ..calibration };
            Version::from_proto(&calibration, "calibration").expect_err("wrong").fields()[0].field.clone()
        };
        let line = |gain| Wire::Linear(pb::LinearCalibration { gain: Some(gain), offset: 0.0 });
        assert_eq!(field(line(0.0), "", 20), "calibration.linear.gain");
        assert_eq!(field(line(1.0), "", 10), "calibration.valid_to");
        assert_eq!(field(line(1.0), "%", 20), "calibration.unit");
        let polynomial = Wire::Polynomial(pb::PolynomialCalibration { coefficients: vec![f64::NAN] });
        assert_eq!(field(polynomial, "", 20), "calibration.polynomial.coefficients");
        let points = [1.0, 1.0].map(|measured| pb::CalibrationPoint { measured, true_value: 0.0 }).to_vec();
        assert_eq!(field(Wire::Table(pb::TableCalibration { points }), "", 20), "calibration.table.points");
    }

    proptest! {
        #[test]
        fn a_calibrated_summary_is_the_summary_of_calibrated_readings(
            values in prop::collection::vec(-1e3..1e3f64, 1..50),
            gain in prop::sample::select(vec![-2.5, -1.0, 0.5, 3.0]),
            offset in -100.0..100.0f64,
        ) {
            let times = (0..values.len() as i64).collect();
            let column = Column::from_parts(times, values, Vec::new()).expect("column");
            let line = Calibration::of(vec![version(1, i64::MIN, None, Function::Linear { gain, offset })]).expect("some");
            let whole = Aggregate::of_column(&column).expect("some");
            let told = line.aggregate(whole, 0, column.len() as i64).expect("a line");
            let counted = Aggregate::of_column(&line.column(column)).expect("some");
            prop_assert_eq!((told.count, told.min, told.max), (counted.count, counted.min, counted.max));
            prop_assert_eq!((told.first, told.last), (counted.first, counted.last));
            prop_assert!((told.sum.value() - counted.sum.value()).abs() < 1e-6);
            let late = Calibration::of(vec![version(1, 5, None, add(1.0))]).expect("some");
            prop_assert!(late.aggregate(whole, 0, 4).is_some());
            prop_assert!(late.aggregate(whole, 0, 5).is_none());
        }
    }
}
