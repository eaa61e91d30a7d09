//! A column compressed for good: the codec `mix4`.
//!
//! A block is a header, which answers an aggregate without the readings, and data. Values are scaled to whole numbers by
//! the smallest power of ten that restores every bit, with a list of the odd ones that it does not, and compressed by
//! `pco`; values that are no decimal numbers are compressed as floating-point numbers. Times are differences of
//! differences in varints, or `pco` where that is smaller. Both carry a CRC32C: a block that was damaged is an error
//! ([`Corrupt`](sensormesh_types::Code::Corrupt)), never a wrong number.
//!
//! Times and values can be encoded apart ([`encode_times`], [`encode_values`]): a rollup's columns share their times.

pub(crate) mod decimal;
mod pco;
mod times;
mod values;

use sensormesh_types::{Code, Error, Result};

use crate::{Aggregate, Column, Quality, Sum, varint};

/// The codec's version: the first byte of every header.
const VERSION: u8 = 1;

/// More readings than any block may have; a header that says more is damaged.
const MOST_READINGS: usize = 1 << 20;

/// A compressed column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Count, extremes, sum, first, last and checksums: see [`Header`].
    pub header: Vec<u8>,
    /// Times, values and qualities.
    pub data: Vec<u8>,
}

/// What a block's header says.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// How many readings the block has.
    pub count: usize,
    /// The summary of those that take part in aggregates; `None` where none does. The times of `first` and `last` are
    /// those of the whole block's first and last reading, which are the same where `all_count`.
    pub aggregate: Option<Aggregate>,
    /// Whether every reading takes part in aggregates.
    pub all_count: bool,
    data_checksum: u32,
}

/// Compresses a column.
pub fn encode(column: &Column) -> Result<Block> {
    let mut data = Vec::with_capacity(column.len() * 2 + 32);
    let mut section = Vec::with_capacity(column.len() + 16);
    times::put(&mut section, column.times())?;
    varint::put(&mut data, section.len() as u64);
    data.append(&mut section);
    values::put(&mut section, column.values())?;
    varint::put(&mut data, section.len() as u64);
    data.append(&mut section);
    put_qualities(&mut data, column.qualities());
    Ok(Block { header: put_header(column, crc32c::crc32c(&data)), data })
}

/// Reads a block's header. `Corrupt` where it was damaged.
pub fn header(bytes: &[u8], start: i64, end: i64) -> Result<Header> {
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("its header is cut off"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(corrupt("its header's checksum is wrong"));
    }
    take_header(body, start, end).ok_or_else(|| corrupt("its header cannot be read"))
}

/// Decompresses a block. `Corrupt` where it was damaged.
pub fn decode(header_bytes: &[u8], data: &[u8]) -> Result<Column> {
    let header = header(header_bytes, 0, 0)?;
    if crc32c::crc32c(data) != header.data_checksum {
        return Err(corrupt("its checksum is wrong"));
    }
    let mut rest = data;
    let times = times::take(take_section(&mut rest)?, header.count)?;
    let values = values::take(take_section(&mut rest)?, header.count)?;
    let qualities = take_qualities(rest, header.count).ok_or_else(|| corrupt("its qualities cannot be read"))?;
    Column::from_parts(times, values, qualities).ok_or_else(|| corrupt("its times do not increase"))
}

/// Compresses times alone, with their checksum. They must increase.
pub fn encode_times(times: &[i64]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(times.len() + 16);
    varint::put(&mut bytes, times.len() as u64);
    times::put(&mut bytes, times)?;
    Ok(sealed(bytes))
}

/// Decompresses what [`encode_times`] made.
pub fn decode_times(bytes: &[u8]) -> Result<Vec<i64>> {
    let (count, body) = unsealed(bytes)?;
    times::take(body, count)
}

/// Compresses values alone, with their checksum.
pub fn encode_values(values: &[f64]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() + 16);
    varint::put(&mut bytes, values.len() as u64);
    values::put(&mut bytes, values)?;
    Ok(sealed(bytes))
}

/// Decompresses what [`encode_values`] made.
pub fn decode_values(bytes: &[u8]) -> Result<Vec<f64>> {
    let (count, body) = unsealed(bytes)?;
    values::take(body, count)
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn unsealed(bytes: &[u8]) -> Result<(usize, &[u8])> {
    let (mut body, checksum) = bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("it is cut off"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(corrupt("its checksum is wrong"));
    }
    let count = take_count(&mut body).ok_or_else(|| corrupt("its count cannot be read"))?;
    Ok((count, body))
}

fn put_header(column: &Column, data_checksum: u32) -> Vec<u8> {
    let aggregate = Aggregate::of_column(column);
    let mut bytes = Vec::with_capacity(56);
    bytes.push(VERSION);
    varint::put(&mut bytes, column.len() as u64);
    varint::put(&mut bytes, aggregate.map_or(0, |a| a.count));
    if let Some(aggregate) = aggregate {
        for number in [aggregate.sum.value(), aggregate.min, aggregate.max, aggregate.first.1, aggregate.last.1] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    bytes.extend_from_slice(&data_checksum.to_le_bytes());
    sealed(bytes)
}

fn take_header(mut bytes: &[u8], start: i64, end: i64) -> Option<Header> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    bytes = rest;
    let count = take_count(&mut bytes)?;
    let counted = take_count(&mut bytes).filter(|n| *n <= count)?;
    let aggregate = if counted == 0 {
        None
    } else {
        let mut number = || {
            let (number, rest) = bytes.split_first_chunk()?;
            bytes = rest;
            Some(f64::from_le_bytes(*number))
        };
        let mut sum = Sum::default();
        sum.add(number()?);
        let (min, max, first, last) = (number()?, number()?, number()?, number()?);
        Some(Aggregate { count: counted as u64, sum, min, max, first: (start, first), last: (end, last) })
    };
    let (checksum, rest) = bytes.split_first_chunk()?;
    let data_checksum = u32::from_le_bytes(*checksum);
    rest.is_empty().then_some(Header { count, aggregate, all_count: counted == count, data_checksum })
}

fn take_count(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(varint::take(bytes)?).ok().filter(|n| *n <= MOST_READINGS)
}

fn take_section<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = varint::take(bytes).and_then(|n| usize::try_from(n).ok());
    let (section, rest) =
        length.and_then(|n| bytes.split_at_checked(n)).ok_or_else(|| corrupt("a part of it is cut off"))?;
    *bytes = rest;
    Ok(section)
}

/// Qualities that are not the usual, as runs: the usual ones before, how many, which.
fn put_qualities(out: &mut Vec<u8>, qualities: &[Quality]) {
    let mut usual = 0u64;
    for run in qualities.chunk_by(|a, b| a == b) {
        if run[0] == Quality::USUAL {
            usual += run.len() as u64;
            continue;
        }
        varint::put(out, usual);
        varint::put(out, run.len() as u64);
        out.push(run[0].0);
        usual = 0;
    }
}

fn take_qualities(mut bytes: &[u8], count: usize) -> Option<Vec<Quality>> {
    let mut qualities = Vec::new();
    while !bytes.is_empty() {
        let usual = usize::try_from(varint::take(&mut bytes)?).ok()?;
        let run = usize::try_from(varint::take(&mut bytes)?).ok()?;
        let (quality, rest) = bytes.split_first()?;
        bytes = rest;
        let before = qualities.len().checked_add(usual).filter(|n| *n <= count)?;
        let after = before.checked_add(run).filter(|n| *n <= count)?;
        qualities.resize(before, Quality::USUAL);
        qualities.resize(after, Quality(*quality));
    }
    if !qualities.is_empty() {
        qualities.resize(count, Quality::USUAL);
    }
    Some(qualities)
}

fn corrupt(what: &str) -> Error {
    Error::new(Code::Corrupt, "BLOCK_CORRUPT", format!("a block of readings is damaged: {what}"))
}

#[cfg(test)]
mod tests;
