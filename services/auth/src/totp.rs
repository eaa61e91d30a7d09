//! Codes of an authenticator app (RFC 6238), and what stands for one once.

use sensormesh_observability::Secret;
use sensormesh_types::{Error, Result, random};
use totp_rs::{Algorithm, Builder, Totp};

/// What every recovery code begins with.
const RECOVERY_PREFIX: &str = "smo_";
/// How many recovery codes there are.
pub const RECOVERY_CODES: usize = 10;
/// Bytes of a secret: as many as HMAC-SHA-1 gives (RFC 4226 section 4).
const SECRET: usize = 20;

/// A new secret.
pub fn new_secret() -> [u8; SECRET] {
    random::bytes()
}

/// A new recovery code, which people can read out.
pub fn new_recovery_code() -> Secret<String> {
    Secret::new(format!("{RECOVERY_PREFIX}{}", random::secret()))
}

/// What authenticator apps understand without being told: HMAC-SHA-1, six digits, 30 s; a step earlier and later is taken too.
fn app(secret: &[u8], username: &str) -> Result<Totp> {
    let app = Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(6)
        .with_skew(1)
        .with_step_duration(30)
        .with_secret(secret.to_vec())
        .with_account_name(username)
        .with_issuer(Some("sensormesh"));
    app.build().map_err(|error| Error::internal(error.to_string()))
}

/// The secret in base 32, and as an `otpauth` address.
pub fn shown(secret: &[u8], username: &str) -> Result<(String, String)> {
    let app = app(secret, username)?;
    let uri = app.to_url().map_err(|error| Error::internal(error.to_string()))?;
    Ok((app.secret().to_base32(), uri))
}

/// The step whose code this is, if it is one of `now` (seconds since the Unix epoch).
pub fn step_of(secret: &[u8], code: &str, now: i64) -> Result<Option<i64>> {
    let (app, now) = (app(secret, "")?, u64::try_from(now).unwrap_or(0));
    Ok(app.check(code.trim(), now).and_then(|step| i64::try_from(step).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // appendix B, the last six of eight digits
        let secret = b"12345678901234567890";
        for (time, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924"), (20_000_000_000, "353130")]
        {
            let step = step_of(secret, code, time).expect("a secret");
            assert_eq!(step, Some(time / 30), "{time}");
            assert_eq!(step_of(secret, code, time + 30).expect("a secret"), step, "a slow hand");
            assert_eq!(step_of(secret, code, time + 90).expect("a secret"), None, "too late");
        }
        for wrong in ["", "28708", "2870823", "287083", "abcdef", "smo_0123456789"] {
            assert_eq!(step_of(secret, wrong, 59).expect("a secret"), None, "{wrong}");
        }
    }

    #[test]
    fn apps_read_the_address() {
        let (secret, uri) = shown(b"12345678901234567890", "ada@example.org").expect("shown");
        assert_eq!(secret, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert!(uri.starts_with("otpauth://totp/sensormesh:ada%40example.org?"), "{uri}");
        assert!(uri.contains(&secret) && uri.contains("issuer=sensormesh"), "{uri}");
    }
}
