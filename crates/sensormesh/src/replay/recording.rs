//! A recording: a CSV file and what its columns mean.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use flate2::read::MultiGzDecoder;
use jiff::tz::Offset;
use sensormesh_types::quantity;

use super::time;

/// How to read a recording.
pub struct Recording {
    file: PathBuf,
    time_columns: Vec<usize>,
    offset: Offset,
    missing: Vec<String>,
    /// The header has one name fewer than the rows: the first cell of a row is its number.
    numbered: bool,
    /// The numeric columns.
    pub channels: Vec<Channel>,
    /// How many rows there are.
    pub rows: u64,
}

/// A numeric column.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    column: usize,
    /// The short name: `co2`.
    pub name: String,
    /// The unit as a UCUM code; empty = not said.
    pub unit: String,
}

/// One row: its time, and what each channel holds.
pub struct Row {
    /// Nanoseconds since the Unix epoch; `None` = not a time.
    pub time: Option<i64>,
    /// A cell for each channel, in their order.
    pub cells: Vec<Cell>,
}

/// A cell of a numeric column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    /// Empty, or a text that stands for a missing value.
    Missing,
    /// A number.
    Value(f64),
    /// Something else.
    NotANumber,
}

/// What the caller says about a recording.
pub struct Options<'a> {
    /// The time's columns; empty = found by name.
    pub time_columns: &'a [String],
    /// The offset of times that name none.
    pub offset: Offset,
    /// Texts that stand for a missing value.
    pub missing: &'a [String],
    /// `HEADER=NAME[:UNIT]`.
    pub columns: &'a [String],
}

impl Recording {
    /// Reads the file once to learn its columns: a column is numeric when it holds at least one number.
    pub fn open(file: &Path, options: &Options<'_>) -> Result<Self> {
        let mut reader = reader(file)?;
        let headers: Vec<String> = reader.headers()?.iter().map(|h| h.trim().to_owned()).collect();
        let mut numeric = vec![false; headers.len()];
        let (mut rows, mut numbered) = (0, false);
        for (i, record) in reader.records().enumerate() {
            let record = record.with_context(|| format!("{}: row {}", file.display(), i + 2))?;
            numbered |= rows == 0 && record.len() == headers.len() + 1;
            rows += 1;
            for (cell, numeric) in record.iter().skip(usize::from(numbered)).zip(&mut numeric) {
                *numeric |= cell.trim().parse::<f64>().is_ok_and(f64::is_finite);
            }
        }
        let time_columns = time_columns(&headers, options.time_columns)?;
        let renames = renames(&headers, options.columns)?;
        let mut channels: Vec<Channel> = Vec::new();
        for (column, header) in headers.iter().enumerate() {
            if !numeric[column] || time_columns.contains(&column) {
                continue;
            }
            let channel = match renames.iter().find(|(c, _, _)| *c == column) {
                Some((_, name, unit)) => Channel { column, name: name.clone(), unit: unit.clone() },
                None => {
                    let (name, unit) = split_unit(header);
                    Channel { column, name: slug(name), unit: unit.map(|u| quantity::ucum(u).0).unwrap_or_default() }
                }
            };
            if let Some(other) = channels.iter().find(|other| other.name == channel.name) {
                bail!(
                    "columns {:?} and {header:?} would both be called {:?}; rename one with --column",
                    headers[other.column],
                    channel.name
                );
            }
            channels.push(channel);
        }
        if channels.is_empty() {
            bail!("{} has no numeric column", file.display());
        }
        let missing = options.missing.iter().map(|m| m.trim().to_owned()).collect();
        Ok(Self { file: file.to_owned(), time_columns, offset: options.offset, missing, numbered, channels, rows })
    }

    /// Reads the file again, row by row.
    pub fn rows(&self) -> Result<impl Iterator<Item = Result<Row>>> {
        let reader = reader(&self.file)?;
        Ok(reader.into_records().map(move |record| Ok(self.row(&record?))))
    }

    fn row(&self, record: &csv::StringRecord) -> Row {
        let cell = |column: usize| record.get(column + usize::from(self.numbered)).unwrap_or("").trim();
        let parts: Vec<&str> = self.time_columns.iter().map(|c| cell(*c)).collect();
        Row {
            time: time::parse(&parts, self.offset).ok(),
            cells: self.channels.iter().map(|channel| self.cell(cell(channel.column))).collect(),
        }
    }

    fn cell(&self, text: &str) -> Cell {
        if text.is_empty() || self.missing.iter().any(|m| same(m, text)) {
            return Cell::Missing;
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Cell::Value(value),
            _ => Cell::NotANumber,
        }
    }
}

/// `-200` stands for `-200.0` too.
fn same(missing: &str, text: &str) -> bool {
    missing == text || matches!((missing.parse::<f64>(), text.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

fn reader(file: &Path) -> Result<csv::Reader<Box<dyn Read>>> {
    let open = || File::open(file).with_context(|| format!("cannot read {}", file.display()));
    let mut magic = [0; 2];
    let gzip = open()?.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
    let plain = BufReader::new(open()?);
    let source: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(plain)) } else { Box::new(plain) };
    Ok(csv::ReaderBuilder::new().flexible(true).from_reader(source))
}

fn time_columns(headers: &[String], named: &[String]) -> Result<Vec<usize>> {
    let find = |name: &str| headers.iter().position(|h| h.eq_ignore_ascii_case(name.trim()));
    if !named.is_empty() {
        return named
            .iter()
            .map(|name| find(name).with_context(|| format!("there is no column {name:?}; there are {headers:?}")))
            .collect();
    }
    if let (Some(date), Some(time)) = (find("date"), find("time")) {
        return Ok(vec![date, time]);
    }
    time::USUAL_NAMES
        .iter()
        .find_map(|name| find(name))
        .map(|column| vec![column])
        .with_context(|| format!("no column is called like a time; name it with --time-column; there are {headers:?}"))
}

fn renames(headers: &[String], columns: &[String]) -> Result<Vec<(usize, String, String)>> {
    columns
        .iter()
        .map(|column| {
            let (header, name) =
                column.rsplit_once('=').with_context(|| format!("{column:?} is not of the form HEADER=NAME[:UNIT]"))?;
            let (name, unit) = name.split_once(':').unwrap_or((name, ""));
            let at = headers
                .iter()
                .position(|h| h == header.trim())
                .with_context(|| format!("there is no column {header:?}; there are {headers:?}"))?;
            if name.is_empty() || name != slug(name) {
                bail!("{name:?} is not a name; use lower-case letters, digits and _");
            }
            let header_unit = split_unit(&headers[at]).1.unwrap_or("");
            let unit = if unit.is_empty() { header_unit } else { unit };
            Ok((at, name.to_owned(), quantity::ucum(unit).0))
        })
        .collect()
}

/// `indoor_co2 [ppm]` is `indoor_co2` in `ppm`.
fn split_unit(header: &str) -> (&str, Option<&str>) {
    match header.split_once('[') {
        Some((name, rest)) => (name.trim(), rest.split_once(']').map(|(unit, _)| unit.trim())),
        None => (header, None),
    }
}

/// Lower-case letters, digits and single underscores.
pub fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('_') {
            slug.push('_');
        }
    }
    slug.trim_end_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn recording(text: &str, options: &Options<'_>) -> Result<(Recording, Vec<Row>)> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(text.as_bytes())?;
        let recording = Recording::open(file.path(), options)?;
        let rows = recording.rows()?.collect::<Result<Vec<_>>>()?;
        Ok((recording, rows))
    }

    const PLAIN: Options<'_> = Options { time_columns: &[], offset: Offset::UTC, missing: &[], columns: &[] };

    #[test]
    fn units_in_headers_become_ucum_codes() {
        let (recording, _) =
            recording("timestamp,indoor_co2 [ppm],note\n2021-09-07 00:00,430.5,hi\n", &PLAIN).expect("csv");
        assert_eq!(recording.channels, [Channel { column: 1, name: "indoor_co2".into(), unit: "[ppm]".into() }]);
    }

    #[test]
    fn a_renamed_column_keeps_its_unit_unless_another_is_given() {
        let columns = ["indoor_co2 [ppm]=co2".to_owned(), "t [Celsius]=temp:K".to_owned()];
        let options = Options { columns: &columns, ..PLAIN };
        let (recording, _) = recording("time,indoor_co2 [ppm],t [Celsius]\n2021-09-07,1,2\n", &options).expect("csv");
        assert_eq!(recording.channels[0].name, "co2");
        assert_eq!(recording.channels[0].unit, "[ppm]");
        assert_eq!(recording.channels[1].unit, "K");
    }

    #[test]
    fn missing_values_and_words_among_numbers_are_told_apart() {
        let missing = ["NA".to_owned(), "-200".to_owned()];
        let (_, rows) = recording(
            "Date,Time,a,b\n2004-03-10,18:00:00,-200.0,1\n2004-03-10,19:00:00,NA,oops\n",
            &Options { missing: &missing, ..PLAIN },
        )
        .expect("csv");
        assert_eq!(rows[0].cells, [Cell::Missing, Cell::Value(1.0)]);
        assert_eq!(rows[1].cells, [Cell::Missing, Cell::NotANumber]);
        assert!(rows.iter().all(|row| row.time.is_some()));
    }

    #[test]
    fn rows_with_a_number_before_the_first_named_column_are_understood() {
        let (recording, rows) =
            recording("\"date\",\"T\"\n\"1\",\"2015-02-04 17:51:00\",23.18\n", &PLAIN).expect("csv");
        assert_eq!(recording.channels.len(), 1);
        assert_eq!(rows[0].cells, [Cell::Value(23.18)]);
        assert!(rows[0].time.is_some());
    }

    #[test]
    fn two_columns_of_one_name_are_refused_in_words() {
        let error = recording("time,CO(GT),CO GT\n2004-03-10,1,2\n", &PLAIN).err().expect("refused").to_string();
        assert!(error.contains("--column"), "{error}");
    }
}
