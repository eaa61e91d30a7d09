//! Tables as CSV (RFC 4180) that a spreadsheet can open without running what is in them.
//!
//! Rows end with CR LF; a cell with a separator, a quote or a line break is quoted. Text that a spreadsheet would take for a
//! formula gets a `'` in front of it (OWASP, "CSV Injection"): where it starts with `=`, `+`, `-`, `@`, a tab, a line break or
//! the full-width form of one of the signs, and also after a separator or quote within, because a spreadsheet may divide cells at
//! another separator than ours. Numbers are left as they are.

use std::fmt::Write as _;

/// The type of a table, with its header row.
pub const CONTENT_TYPE: &str = "text/csv; charset=utf-8; header=present";

/// Characters that begin a formula, or lead to one.
const DANGEROUS: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
/// Characters after which a spreadsheet may begin a new cell.
const DIVIDERS: [char; 7] = [',', ';', '|', '"', '\t', '\r', '\n'];

/// A table that is being written, row by row.
#[derive(Debug, Default)]
pub struct Table {
    text: String,
    within: bool,
}

impl Table {
    /// A table that begins with a header.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut table = Self::default();
        for name in names {
            table.text(name);
        }
        table.end();
        table
    }

    fn cell(&mut self) {
        if self.within {
            self.text.push(',');
        }
        self.within = true;
    }

    /// A cell of text that others wrote.
    pub fn text(&mut self, text: &str) {
        self.cell();
        let quoted = text.contains(DIVIDERS);
        if quoted {
            self.text.push('"');
        }
        let mut new_cell = true;
        for character in text.chars() {
            if new_cell && DANGEROUS.contains(&character) {
                self.text.push('\'');
            }
            if character == '"' {
                self.text.push('"');
            }
            self.text.push(character);
            new_cell = DIVIDERS.contains(&character);
        }
        if quoted {
            self.text.push('"');
        }
    }

    /// A number with as many digits as it takes to read the same one back; an empty cell for `None`.
    pub fn number(&mut self, number: Option<f64>) {
        self.cell();
        let Some(number) = number else { return };
        let plain = number == 0.0 || !number.is_finite() || (1e-5..1e16).contains(&number.abs());
        // writing to a string cannot fail
        let _ = if plain { write!(self.text, "{number}") } else { write!(self.text, "{number:e}") };
    }

    /// A whole number.
    pub fn count(&mut self, count: u64) {
        self.cell();
        let _ = write!(self.text, "{count}"); // writing to a string cannot fail
    }

    /// Ends the row.
    pub fn end(&mut self) {
        self.text.push_str("\r\n");
        self.within = false;
    }

    /// The bytes that have not been taken yet.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether all is taken.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Takes what was written since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cell(text: &str) -> String {
        let mut table = Table::default();
        table.text(text);
        String::from_utf8(table.take()).expect("text")
    }

    #[test]
    fn a_table_is_as_rfc_4180_has_it() {
        let mut table = Table::new(["time", "value"]);
        table.text("a,b");
        table.number(Some(-1.5));
        table.end();
        table.text("say \"hi\"");
        table.number(None);
        table.count(3);
        table.end();
        let text = String::from_utf8(table.take()).expect("text");
        assert_eq!(text, "time,value\r\n\"a,b\",-1.5\r\n\"say \"\"hi\"\"\",,3\r\n");
        assert!(table.is_empty());
    }

    #[test]
    fn formulas_are_text_wherever_a_cell_may_begin() {
        for sign in ["=", "+", "-", "@", "＝", "＋", "－", "＠"] {
            assert_eq!(cell(&format!("{sign}1")), format!("'{sign}1"));
            assert_eq!(cell(&format!("a;{sign}1")), format!("\"a;'{sign}1\""));
            assert_eq!(cell(&format!("a\"{sign}1")), format!("\"a\"\"'{sign}1\""));
            assert_eq!(cell(&format!("a{sign}1")), format!("a{sign}1"), "within a cell it is harmless");
        }
        assert_eq!(cell("\t=1"), "\"'\t'=1\"");
        assert_eq!(cell("\r1"), "\"'\r1\"");
        assert_eq!(cell("\n1"), "\"'\n1\"");
        assert_eq!(cell("lab.co2"), "lab.co2");
        assert_eq!(cell(""), "");
    }

    #[test]
    fn numbers_are_left_alone_and_read_back_the_same() {
        for number in [0.0, -0.5, 612.0, 1e300, -1e-300, 0.1 + 0.2, 1e16, 123_456_789.125, f64::MIN_POSITIVE] {
            let mut table = Table::default();
            table.number(Some(number));
            let text = String::from_utf8(table.take()).expect("text");
            assert!(!text.starts_with('\'') && text.len() < 26, "{text}");
            assert_eq!(text.parse::<f64>().expect("a number"), number);
        }
    }
    /// A text of what is dangerous and what divides, most of all.
    fn texts() -> impl Strategy<Value = String> {
        let characters = [&DANGEROUS[..], &DIVIDERS[..], &['\'', ' ', 'a', '1', 'é']].concat();
        prop::collection::vec(prop::sample::select(characters), 0..12).prop_map(|text| text.into_iter().collect())
    }

    proptest! {
        #[test]
        fn any_text_reads_back_and_no_cell_begins_with_a_formula(cells in prop::collection::vec(texts(), 1..5)) {
            let mut table = Table::default();
            table.text("row");
            cells.iter().for_each(|cell| table.text(cell));
            table.end();
            let written = table.take();
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&written[..]);
            let rows = reader.records().collect::<Result<Vec<_>, _>>().expect("RFC 4180");
            prop_assert_eq!(rows.len(), 1);
            let read: Vec<&str> = rows[0].iter().skip(1).collect();
            prop_assert_eq!(read.len(), cells.len());
            for (read, cell) in read.iter().zip(&cells) {
                prop_assert_eq!(read.replace('\'', ""), cell.replace('\'', ""));
                let mut begins = true;
                for character in read.chars() {
                    prop_assert!(!(begins && DANGEROUS.contains(&character)), "{:?}", read);
                    begins = DIVIDERS.contains(&character);
                }
            }
        }
    }
}
