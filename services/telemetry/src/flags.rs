//! A reading's quality in the contract's terms.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::{Flag, Quality, Test};

/// The contract's flag.
pub fn flag(quality: Quality) -> pb::Quality {
    match quality.flag() {
        Flag::Pass if quality.is_time_of_receipt() => pb::Quality::TimeOfReceipt,
        Flag::Pass if quality == Quality::USUAL => pb::Quality::Unspecified,
        Flag::Pass => pb::Quality::Pass,
        Flag::NotEvaluated => pb::Quality::NotEvaluated,
        Flag::Suspect => pb::Quality::Suspect,
        Flag::Fail if quality.is_by(Test::GrossRange) => pb::Quality::OutOfRange,
        Flag::Fail => pb::Quality::Fail,
        Flag::Missing => pb::Quality::Missing,
    }
}

/// The tests that gave the flag.
pub fn tests(quality: Quality) -> Vec<i32> {
    Test::ALL.into_iter().filter(|test| quality.is_by(*test)).map(|test| name(test) as i32).collect()
}

/// An unusual quality in a channel.
pub fn exception(index: u32, quality: Quality) -> pb::QualityException {
    let time_of_receipt = quality.is_time_of_receipt() && quality != Quality::TIME_OF_RECEIPT;
    // what is out of range says so by its flag alone, as it always has
    let tests = if quality == Quality::OUT_OF_RANGE { Vec::new() } else { tests(quality) };
    pb::QualityException { index, quality: flag(quality) as i32, tests, time_of_receipt }
}

/// The quality of a reading in a channel; `None` where it makes no sense.
pub fn of_exception(exception: &pb::QualityException) -> Option<Quality> {
    let mut tests = Vec::new();
    for test in &exception.tests {
        tests.push(known(pb::QualityTest::try_from(*test).ok()?)?);
    }
    let flag = match pb::Quality::try_from(exception.quality).ok()? {
        pb::Quality::Unspecified => Flag::Pass,
        pb::Quality::TimeOfReceipt => return tests.is_empty().then_some(Quality::TIME_OF_RECEIPT),
        pb::Quality::Pass if tests.is_empty() && !exception.time_of_receipt => return Some(Quality(1)),
        pb::Quality::Pass => Flag::Pass,
        pb::Quality::NotEvaluated => Flag::NotEvaluated,
        pb::Quality::Suspect => Flag::Suspect,
        pb::Quality::OutOfRange => {
            tests.push(Test::GrossRange);
            Flag::Fail
        }
        pb::Quality::Fail => Flag::Fail,
        pb::Quality::Missing => Flag::Missing,
    };
    let by_tests = matches!(flag, Flag::Suspect | Flag::Fail);
    (by_tests || tests.is_empty()).then(|| Quality::new(flag, tests, exception.time_of_receipt))
}

fn name(test: Test) -> pb::QualityTest {
    match test {
        Test::GrossRange => pb::QualityTest::GrossRange,
        Test::Spike => pb::QualityTest::Spike,
        Test::RateOfChange => pb::QualityTest::RateOfChange,
        Test::FlatLine => pb::QualityTest::FlatLine,
        Test::Gap => pb::QualityTest::Gap,
    }
}

fn known(test: pb::QualityTest) -> Option<Test> {
    Test::ALL.into_iter().find(|known| name(*known) == test)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quality_comes_back_as_it_was_sent() {
        let plain = [0, 1, 2, 3, 4, 5, 6, 9].map(Quality);
        let flags = [Flag::NotEvaluated, Flag::Suspect, Flag::Fail];
        let found = flags.into_iter().flat_map(|flag| {
            Test::ALL.into_iter().flat_map(move |test| {
                [Quality::USUAL, Quality::TIME_OF_RECEIPT].map(|before| match flag {
                    Flag::NotEvaluated => before.not_evaluated(),
                    _ => before.found(flag, test).found(flag, Test::Gap),
                })
            })
        });
        for quality in plain.into_iter().chain(found) {
            let sent = exception(7, quality);
            assert_eq!(of_exception(&sent), Some(quality), "{quality:?} as {sent:?}");
        }
        let spike = exception(0, Quality::USUAL.found(Flag::Suspect, Test::Spike));
        assert_eq!((spike.quality(), spike.tests), (pb::Quality::Suspect, vec![pb::QualityTest::Spike as i32]));
    }

    #[test]
    fn tests_without_a_finding_make_no_sense() {
        let gap = vec![pb::QualityTest::Gap as i32];
        let with = |quality: pb::Quality, tests| pb::QualityException {
            index: 0,
            quality: quality as i32,
            tests,
            time_of_receipt: false,
        };
        assert_eq!(of_exception(&with(pb::Quality::NotEvaluated, gap.clone())), None);
        assert_eq!(of_exception(&with(pb::Quality::Pass, gap.clone())), None);
        assert_eq!(of_exception(&with(pb::Quality::Suspect, vec![77])), None);
        assert_eq!(of_exception(&with(pb::Quality::Suspect, vec![0])), None);
        assert!(of_exception(&with(pb::Quality::Suspect, gap)).is_some());
    }
}
