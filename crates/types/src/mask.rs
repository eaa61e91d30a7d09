//! Field masks of updates as AIP-134 has them.

use prost_types::FieldMask;

use crate::{Error, Result};

/// Which fields an update takes from the message it brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    names: Vec<&'static str>,
    named: bool,
}

impl Fields {
    /// Whether the field is taken.
    pub fn takes(&self, field: &str) -> bool {
        self.names.contains(&field)
    }

    /// Whether the caller asked for exactly this field, rather than for whatever the message brings.
    pub fn names(&self, field: &str) -> bool {
        self.named && self.takes(field)
    }

    /// Whether nothing is taken at all.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// Reads a mask: absent = every field that is set, `*` = every field, else the named ones.
///
/// `fields` are those that may change; `fixed` are known and never change, and naming them does nothing.
/// A path that is neither is refused.
///
/// ```
/// use sensormesh_types::mask;
/// let mask = prost_types::FieldMask { paths: vec!["name".into()] };
/// let fields = mask::fields(Some(&mask), &["name", "model"], &["etag"], |_| true).unwrap();
/// assert!(fields.takes("name") && !fields.takes("model"));
/// ```
pub fn fields(
    mask: Option<&FieldMask>,
    fields: &[&'static str],
    fixed: &[&str],
    is_set: impl Fn(&str) -> bool,
) -> Result<Fields> {
    let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
    if paths.is_empty() {
        return Ok(Fields { names: fields.iter().copied().filter(|field| is_set(field)).collect(), named: false });
    }
    if paths.iter().any(|path| path == "*") {
        return match paths.len() {
            1 => Ok(Fields { names: fields.to_vec(), named: false }),
            _ => Err(Error::invalid("update_mask", "* must stand alone")),
        };
    }
    if let Some(unknown) = paths.iter().find(|p| !fields.contains(&p.as_str()) && !fixed.contains(&p.as_str())) {
        let known = fields.join(", ");
        return Err(Error::invalid("update_mask", format!("{unknown:?} is no field that can change; use {known}")));
    }
    let names = fields.iter().copied().filter(|field| paths.iter().any(|path| path == field)).collect();
    Ok(Fields { names, named: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(paths: &[&str]) -> Result<Fields> {
        let mask = FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() };
        fields(Some(&mask), &["name", "model"], &["etag"], |field| field == "model")
    }

    #[test]
    fn an_absent_mask_takes_what_is_set() {
        let fields = fields(None, &["name", "model"], &[], |field| field == "model").expect("fields");
        assert!(fields.takes("model") && !fields.takes("name") && !fields.names("model"));
    }

    #[test]
    fn a_star_takes_everything_and_stands_alone() {
        let all = read(&["*"]).expect("fields");
        assert!(all.takes("name") && all.takes("model") && !all.takes("etag"));
        assert!(read(&["*", "name"]).is_err());
    }

    #[test]
    fn an_unknown_path_is_refused_and_a_fixed_one_is_ignored() {
        assert_eq!(read(&["nane"]).expect_err("unknown").fields()[0].field, "update_mask");
        assert!(read(&["etag"]).expect("fixed").is_empty());
        assert!(read(&["name"]).expect("named").names("name"));
    }
}
