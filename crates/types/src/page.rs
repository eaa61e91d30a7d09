//! Pages of lists as AIP-158 has them.

use crate::{Error, Result};

/// The number of items to return: `default` for 0, at most `max`. A negative size is refused.
pub fn size(requested: i32, default: u32, max: u32) -> Result<u32> {
    match u32::try_from(requested) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(max)),
        Err(_) => Err(Error::invalid("page_size", "must not be negative")),
    }
}

/// Makes an opaque, URL-safe page token from the key after which the next page starts and a digest of the query.
pub fn token(query: &str, after: &str) -> String {
    format!("{:08x}", digest(query)).chars().chain(after.bytes().flat_map(hex)).collect()
}

/// Reads the key out of a page token; refuses one that was made for another query.
pub fn after(query: &str, token: &str) -> Result<Option<String>> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = || Error::invalid("page_token", "is not a token of this list and its arguments");
    let (head, rest) = token.split_at_checked(8).ok_or_else(wrong)?;
    if head != format!("{:08x}", digest(query)) || rest.len() % 2 != 0 || !rest.is_ascii() {
        return Err(wrong());
    }
    let bytes =
        (0..rest.len() / 2).map(|i| u8::from_str_radix(&rest[2 * i..2 * i + 2], 16)).collect::<Result<Vec<_>, _>>();
    String::from_utf8(bytes.map_err(|_| wrong())?).map(Some).map_err(|_| wrong())
}

/// FNV-1a, 32 bits: enough to notice that the arguments changed.
fn digest(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn hex(byte: u8) -> [char; 2] {
    [byte >> 4, byte & 15].map(|nibble| char::from_digit(u32::from(nibble), 16).unwrap_or('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_its_key_back() {
        let token = token("devices/acme", "lab.co2");
        assert_eq!(after("devices/acme", &token).expect("token"), Some("lab.co2".to_owned()));
    }

    #[test]
    fn a_token_of_another_query_is_refused() {
        let token = token("devices/acme", "lab.co2");
        assert!(after("devices/other", &token).is_err());
        assert!(after("devices/acme", "zz").is_err());
        assert!(after("devices/acme", "ééééé").is_err());
    }

    #[test]
    fn sizes_have_a_default_and_a_cap() {
        assert_eq!(size(0, 50, 1000).expect("size"), 50);
        assert_eq!(size(5000, 50, 1000).expect("size"), 1000);
        assert!(size(-1, 50, 1000).is_err());
    }
}
