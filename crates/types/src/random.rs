//! Randomness: ids and secrets, from the one place that may make them.

use rand::Rng as _;

/// A new time-ordered id (UUID version 7, RFC 9562) for the moment `micros` since the Unix epoch.
pub fn id(micros: i64) -> String {
    let millis = u64::try_from(micros.div_euclid(1000)).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes()).into_uuid().simple().to_string()
}

/// Bytes nobody can guess.
#[allow(clippy::disallowed_methods)] // the one place that draws them
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// A fraction in `0.0..1.0`, for jitter.
pub fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(bytes())) / (f64::from(u32::MAX) + 1.0)
}

/// 26 characters of Crockford's base 32 (128 bits): a secret that people can read out.
pub fn secret() -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut rest = u128::from_le_bytes(bytes());
    (0..26)
        .map(|_| {
            let index = usize::try_from(rest & 31).unwrap_or(0);
            rest >>= 5;
            char::from(ALPHABET[index])
        })
        .collect()
}
