//! Intervals without readings, filled from their neighbours.

/// A row of levels at a time; `None` = an interval without readings.
pub type Level = (i64, Option<Vec<f64>>);

/// Gives each empty interval the levels of the last one before it that has some. `before` is the last one before the first row.
pub fn previous(rows: &mut [Level], before: Option<Vec<f64>>) {
    let mut last = before;
    for (_, levels) in rows {
        match levels {
            Some(levels) => last = Some(levels.clone()),
            None => levels.clone_from(&last),
        }
    }
}

/// Gives each empty interval the levels on the straight line between its neighbours' starts. `before` and `after` are the
/// neighbours of the first row and of the last; at an end without a neighbour intervals stay empty.
pub fn linear(rows: &mut [Level], before: Option<(i64, Vec<f64>)>, after: Option<&(i64, Vec<f64>)>) {
    let mut left = before;
    let mut at = 0;
    while at < rows.len() {
        if let (start, Some(levels)) = &rows[at] {
            left = Some((*start, levels.clone()));
            at += 1;
            continue;
        }
        let end = rows[at..].iter().position(|(_, levels)| levels.is_some()).map_or(rows.len(), |ahead| at + ahead);
        let right = match rows.get(end) {
            Some((start, Some(levels))) => Some((*start, levels.clone())),
            _ => after.cloned(),
        };
        if let (Some(left), Some(right)) = (&left, &right) {
            for (start, levels) in &mut rows[at..end] {
                *levels = Some(between(left, right, *start));
            }
        }
        at = end;
    }
}

#[allow(clippy::cast_precision_loss)] // a fraction of a line
fn between((from, low): &(i64, Vec<f64>), (to, high): &(i64, Vec<f64>), at: i64) -> Vec<f64> {
    let part = at.saturating_sub(*from) as f64 / to.saturating_sub(*from).max(1) as f64;
    low.iter().zip(high).map(|(low, high)| low * (1.0 - part) + high * part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(values: &[Option<f64>]) -> Vec<Level> {
        values.iter().enumerate().map(|(i, v)| (i as i64 * 10, v.map(|v| vec![v]))).collect()
    }

    fn plain(rows: &[Level]) -> Vec<Option<f64>> {
        rows.iter().map(|(_, levels)| levels.as_ref().map(|levels| levels[0])).collect()
    }

    #[test]
    fn the_previous_level_is_carried_on() {
        let mut some = rows(&[None, Some(1.0), None, None, Some(4.0), None]);
        previous(&mut some, None);
        assert_eq!(plain(&some), [None, Some(1.0), Some(1.0), Some(1.0), Some(4.0), Some(4.0)]);
        let mut none = rows(&[None, None]);
        previous(&mut none, Some(vec![7.0]));
        assert_eq!(plain(&none), [Some(7.0), Some(7.0)]);
    }

    #[test]
    fn a_line_joins_the_neighbours_and_goes_no_further() {
        let mut some = rows(&[None, Some(1.0), None, None, Some(4.0), None]);
        linear(&mut some, None, None);
        assert_eq!(plain(&some), [None, Some(1.0), Some(2.0), Some(3.0), Some(4.0), None]);
        let mut none = rows(&[None, None]);
        linear(&mut none, Some((-10, vec![0.0])), Some(&(30, vec![4.0])));
        assert_eq!(plain(&none), [Some(1.0), Some(2.0)]);
    }

    proptest! {
        #[test]
        fn pages_are_filled_as_the_whole_is(values in prop::collection::vec(prop::option::of(-9.0..9.0f64), 1..40), cut in 0usize..40) {
            let cut = cut.min(values.len());
            let known = |range: &[Level]| range.iter().filter_map(|(t, l)| l.clone().map(|l| (*t, l))).collect::<Vec<_>>();
            let all = rows(&values);
            let (mut whole, mut first, mut second) = (all.clone(), all[..cut].to_vec(), all[cut..].to_vec());
            linear(&mut whole, None, None);
            linear(&mut first, None, known(&all[cut..]).first());
            linear(&mut second, known(&all[..cut]).last().cloned(), None);
            prop_assert_eq!(&whole, &[first, second].concat());
            let (mut whole, mut first, mut second) = (all.clone(), all[..cut].to_vec(), all[cut..].to_vec());
            previous(&mut whole, None);
            previous(&mut first, None);
            previous(&mut second, known(&all[..cut]).last().map(|(_, levels)| levels.clone()));
            prop_assert_eq!(&whole, &[first, second].concat());
        }
    }
}
