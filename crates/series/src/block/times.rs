//! A column of times: delta of delta in varints, runs of zeros as a count, or `pco` where that is smaller.

use sensormesh_types::{Error, Result};

use super::{corrupt, pco};
use crate::varint;
use crate::wire::gcd;

const VARINTS: u8 = 0;
const PCO: u8 = 1;

/// Appends the times, which must increase.
pub(super) fn put(out: &mut Vec<u8>, times: &[i64]) -> Result<()> {
    let form = out.len();
    out.push(VARINTS);
    let (tick, ticks) = in_ticks(times).ok_or_else(|| Error::internal("times of a block lie too far apart"))?;
    varint::put(out, varint::zigzag(times.first().copied().unwrap_or_default()));
    varint::put(out, tick);
    let body = out.len();
    put_varints(out, &ticks);
    // varints of a regular series take next to nothing; only beyond a fifth of a byte a reading is it worth trying
    if (out.len() - body) * 5 > ticks.len() {
        let mut other = Vec::with_capacity(out.len() - body);
        pco::put(&mut other, &ticks)?;
        if other.len() < out.len() - body {
            out.truncate(body);
            out.append(&mut other);
            out[form] = PCO;
        }
    }
    Ok(())
}

/// Reads `count` times.
pub(super) fn take(mut bytes: &[u8], count: usize) -> Result<Vec<i64>> {
    let (form, rest) = bytes.split_first().ok_or_else(|| corrupt("its times are missing"))?;
    bytes = rest;
    let mut header = || varint::take(&mut bytes).ok_or_else(|| corrupt("its times are cut off"));
    let start = varint::unzigzag(header()?);
    let tick = header()?;
    let times = match *form {
        VARINTS => take_varints(bytes, start, tick, count),
        PCO => at(start, tick, pco::take(bytes, count)?),
        _ => None,
    };
    times.filter(|times| times.len() == count).ok_or_else(|| corrupt("its times cannot be read"))
}

/// The times at so many ticks from the first; `None` where one is beyond the calendar.
fn at(start: i64, tick: u64, ticks: Vec<u64>) -> Option<Vec<i64>> {
    let furthest = ticks.iter().max().copied().unwrap_or_default().checked_mul(tick)?;
    start.checked_add_unsigned(furthest)?;
    Some(ticks.into_iter().map(|n| start.wrapping_add_unsigned(n.wrapping_mul(tick))).collect())
}

/// The distance of each time from the first, in the greatest tick that divides them all.
fn in_ticks(times: &[i64]) -> Option<(u64, Vec<u64>)> {
    let Some(start) = times.first() else { return Some((1, Vec::new())) };
    let mut ways = Vec::with_capacity(times.len());
    let mut tick = 0;
    for time in times {
        let way = (time >= start).then(|| time.abs_diff(*start))?;
        tick = gcd(tick, way);
        ways.push(way);
    }
    let tick = tick.max(1);
    ways.iter_mut().for_each(|way| *way /= tick);
    Some((tick, ways))
}

fn put_varints(out: &mut Vec<u8>, ticks: &[u64]) {
    let (mut before, mut step, mut zeros) = (0u64, 0u64, 0u64);
    for tick in ticks {
        let next = tick.wrapping_sub(before);
        let change = next.wrapping_sub(step) as i64;
        (before, step) = (*tick, next);
        if change == 0 {
            zeros += 1;
            continue;
        }
        put_zeros(out, &mut zeros);
        varint::put(out, varint::zigzag(change));
    }
    put_zeros(out, &mut zeros);
}

fn put_zeros(out: &mut Vec<u8>, zeros: &mut u64) {
    if *zeros > 0 {
        varint::put(out, 0);
        varint::put(out, *zeros);
        *zeros = 0;
    }
}

/// The times that varints stand for; `None` where they are cut off or lead beyond the calendar.
fn take_varints(mut bytes: &[u8], start: i64, tick: u64, count: usize) -> Option<Vec<i64>> {
    let mut times = Vec::with_capacity(count);
    let (mut ticks, mut step) = (0u64, 0u64);
    let time = |ticks: u64| start.checked_add_unsigned(ticks.checked_mul(tick)?);
    while times.len() < count {
        let change = varint::take(&mut bytes)?;
        if change == 0 {
            let zeros = varint::take(&mut bytes)?;
            usize::try_from(zeros).ok().filter(|n| *n <= count - times.len())?;
            let (from, to) = (ticks, ticks.checked_add(step.checked_mul(zeros)?)?);
            time(to)?; // and so every one before it
            let (first, way) = (time(from)?, step.wrapping_mul(tick));
            times.extend((1..=zeros).map(|n| first.wrapping_add_unsigned(way.wrapping_mul(n))));
            ticks = to;
        } else {
            step = step.wrapping_add(varint::unzigzag(change) as u64);
            ticks = ticks.checked_add(step)?;
            times.push(time(ticks)?);
        }
    }
    Some(times)
}
