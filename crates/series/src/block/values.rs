//! A column of values: whole numbers and a power of ten where that restores every bit, else floating-point numbers.

use sensormesh_types::Result;

use super::decimal::{self, POWERS, Scaling};
use super::{corrupt, pco};
use crate::varint;

/// The low four bits of a decimal form are its exponent.
const DECIMAL: u8 = 0x10;
const NARROW: u8 = 0x20;
const EXCEPTIONS: u8 = 0x40;
const FLOATS: u8 = 0x80;

/// Appends the values.
pub(super) fn put(out: &mut Vec<u8>, values: &[f64]) -> Result<()> {
    match decimal::best(values) {
        None => put_floats(out, values),
        Some(scaling) if scaling.exceptions.is_empty() => put_scaled(out, &scaling, values),
        Some(scaling) => {
            let (mut scaled, mut floats) = (Vec::new(), Vec::new());
            put_scaled(&mut scaled, &scaling, values)?;
            put_floats(&mut floats, values)?;
            out.extend_from_slice(if scaled.len() <= floats.len() { &scaled } else { &floats });
            Ok(())
        }
    }
}

fn put_floats(out: &mut Vec<u8>, values: &[f64]) -> Result<()> {
    out.push(FLOATS);
    pco::put(out, values)
}

fn put_scaled(out: &mut Vec<u8>, scaling: &Scaling, values: &[f64]) -> Result<()> {
    let mut form = DECIMAL | scaling.exponent;
    if scaling.narrow {
        form |= NARROW;
    }
    if scaling.exceptions.is_empty() {
        out.push(form);
    } else {
        out.push(form | EXCEPTIONS);
        varint::put(out, scaling.exceptions.len() as u64);
        let mut before = 0;
        for place in &scaling.exceptions {
            varint::put(out, (place - before) as u64);
            out.extend_from_slice(&values[*place].to_le_bytes());
            before = *place;
        }
    }
    pco::put(out, &scaling.wholes)
}

/// Reads `count` values.
pub(super) fn take(mut bytes: &[u8], count: usize) -> Result<Vec<f64>> {
    let (form, rest) = bytes.split_first().ok_or_else(|| corrupt("its values are missing"))?;
    bytes = rest;
    let wrong = || corrupt("its values cannot be read");
    let values = if *form == FLOATS {
        pco::take(bytes, count)?
    } else if form & DECIMAL != 0 {
        let power = *POWERS.get(usize::from(form & 0x0f)).ok_or_else(wrong)?;
        let exceptions =
            if form & EXCEPTIONS == 0 { Vec::new() } else { take_exceptions(&mut bytes, count).ok_or_else(wrong)? };
        let wholes = pco::take::<i64>(bytes, count)?;
        let wholes = wholes.into_iter();
        let mut values: Vec<f64> = if form & NARROW == 0 {
            wholes.map(|whole| decimal::restore(whole, power)).collect()
        } else {
            wholes.map(|whole| decimal::restore_narrow(whole, power)).collect()
        };
        for (place, value) in exceptions {
            *values.get_mut(place).ok_or_else(wrong)? = value;
        }
        values
    } else {
        return Err(wrong());
    };
    if values.len() == count { Ok(values) } else { Err(wrong()) }
}

fn take_exceptions(bytes: &mut &[u8], count: usize) -> Option<Vec<(usize, f64)>> {
    let exceptions = usize::try_from(varint::take(bytes)?).ok().filter(|n| *n <= count)?;
    let mut place = 0usize;
    (0..exceptions)
        .map(|_| {
            place = place.checked_add(usize::try_from(varint::take(bytes)?).ok()?)?;
            let (value, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some((place, f64::from_le_bytes(*value)))
        })
        .collect()
}
