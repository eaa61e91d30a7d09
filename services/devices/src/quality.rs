//! The tests that a profile puts readings to: which make sense together.

use sensormesh_proto::devices::v1::QualityTests;
use sensormesh_types::{Error, Result};

/// Refuses tests that contradict each other or the range, and makes those that test nothing `None`. What each number alone
/// must be is in the contract. `field` is where the tests stand in the request.
pub fn checked(
    tests: Option<&QualityTests>,
    range: (Option<f64>, Option<f64>),
    field: &str,
) -> Result<Option<QualityTests>> {
    let Some(tests) = tests.filter(|tests| **tests != QualityTests::default()) else { return Ok(None) };
    let wrong = |name: &str, what: &str| Err(Error::invalid(format!("{field}.{name}"), what));
    let above = |low: Option<f64>, high: Option<f64>| low.zip(high).is_some_and(|(low, high)| low > high);
    if above(tests.suspect_min, tests.suspect_max) {
        return wrong("suspect_min", "must not be above suspect_max");
    }
    if above(range.0, tests.suspect_min) || above(tests.suspect_min, range.1) {
        return wrong("suspect_min", "must lie within the range");
    }
    if above(range.0, tests.suspect_max) || above(tests.suspect_max, range.1) {
        return wrong("suspect_max", "must lie within the range");
    }
    if tests.spike_fail > 0.0 && tests.spike_suspect > tests.spike_fail {
        return wrong("spike_suspect", "must not be above spike_fail");
    }
    for (name, count) in [("flat_suspect_count", tests.flat_suspect_count), ("flat_fail_count", tests.flat_fail_count)]
    {
        if count == 1 {
            return wrong(name, "must be at least 2: one reading alone is never flat");
        }
    }
    if tests.flat_fail_count > 0 && tests.flat_suspect_count > tests.flat_fail_count {
        return wrong("flat_suspect_count", "must not be above flat_fail_count");
    }
    if tests.flat_tolerance > 0.0 && tests.flat_suspect_count == 0 && tests.flat_fail_count == 0 {
        return wrong("flat_tolerance", "needs flat_suspect_count or flat_fail_count");
    }
    Ok(Some(*tests))
}

/// The tests that hold for another unit than the one they were made for: those that look at times alone.
pub fn in_another_unit(tests: &QualityTests) -> Option<QualityTests> {
    let timely = QualityTests { gap_intervals: tests.gap_intervals, ..QualityTests::default() };
    (timely.gap_intervals > 0).then_some(timely)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_contradict_each_other_are_refused_by_name() {
        let range = (Some(0.0), Some(100.0));
        let refused = |tests: QualityTests| {
            let error = checked(Some(&tests), range, "profile.quality_tests").expect_err("refused");
            error.fields()[0].field.clone()
        };
        let none = QualityTests::default();
        assert_eq!(
            refused(QualityTests { suspect_min: Some(50.0), suspect_max: Some(40.0), ..none }),
            "profile.quality_tests.suspect_min"
        );
        assert_eq!(refused(QualityTests { suspect_max: Some(101.0), ..none }), "profile.quality_tests.suspect_max");
        assert_eq!(
            refused(QualityTests { spike_suspect: 3.0, spike_fail: 2.0, ..none }),
            "profile.quality_tests.spike_suspect"
        );
        assert_eq!(refused(QualityTests { flat_fail_count: 1, ..none }), "profile.quality_tests.flat_fail_count");
        assert_eq!(
            refused(QualityTests { flat_suspect_count: 9, flat_fail_count: 5, ..none }),
            "profile.quality_tests.flat_suspect_count"
        );
        assert_eq!(refused(QualityTests { flat_tolerance: 1.0, ..none }), "profile.quality_tests.flat_tolerance");
        assert_eq!(checked(Some(&none), range, "f").expect("none"), None);
        let some = QualityTests { spike_suspect: 1.0, gap_intervals: 3, ..none };
        assert_eq!(checked(Some(&some), range, "f").expect("some"), Some(some));
        assert_eq!(in_another_unit(&some), Some(QualityTests { gap_intervals: 3, ..none }));
        assert_eq!(in_another_unit(&QualityTests { spike_suspect: 1.0, ..none }), None);
    }
}
