//! Mail to users, over SMTP.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use sensormesh_observability::Secret;
use sensormesh_types::{Error, Result};
use serde::{Deserialize, Serialize};

/// How long a mail server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How mail is sent, and what it says of this system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A file with the address of the mail server: `smtps://user:password@mail.example:465`, or
    /// `smtp://…:587?tls=required` for STARTTLS. Without it no mail is sent.
    pub smtp_url_file: Option<PathBuf>,
    /// From whom mail is: `sensormesh <noreply@example.org>`.
    pub from: String,
    /// Where people reach the dashboard: `https://sensors.example.org`. What a request says of its host is not believed.
    pub public_url: String,
}

/// Sends mail.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    public_url: String,
}

impl Mailer {
    /// Reads the server's address; `None` where none is set. Connects when there is something to send.
    pub fn new(config: &Config) -> Result<Option<Self>> {
        let Some(file) = &config.smtp_url_file else { return Ok(None) };
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::precondition("NOT_READABLE", format!("auth.mail.smtp_url_file: {}: {error}", file.display()))
        })?;
        let url = Secret::new(text.trim().to_owned());
        // what is wrong with it may show the password
        let wrong = |_| Error::invalid("auth.mail.smtp_url_file", "does not hold an address smtp://… or smtps://…");
        if !is_private(url.reveal()) {
            let message = "would send mail and the password of the mail server in the clear; use smtps://…, or \
                           smtp://…?tls=required for STARTTLS";
            return Err(Error::invalid("auth.mail.smtp_url_file", message));
        }
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.reveal()).map_err(wrong)?;
        let from = config.from.parse().map_err(|_| Error::invalid("auth.mail.from", "is no address of mail"))?;
        let public_url = config.public_url.trim_end_matches('/').to_owned();
        if !public_url.starts_with("https://") && !public_url.starts_with("http://") {
            return Err(Error::invalid("auth.mail.public_url", "must be https://…, where people reach the dashboard"));
        }
        Ok(Some(Self { transport: transport.timeout(Some(PATIENCE)).build(), from, public_url }))
    }

    /// Tells a user how to set another password.
    pub async fn password_reset(&self, to: &str, username: &str, secret: &Secret<String>, minutes: u64) -> Result<()> {
        let body = format!(
            "Somebody, probably you, has forgotten the password of {username}.\n\n\
             Set another one within {minutes} minutes:\n{}/#/reset/{}\n\n\
             If it was not you, nothing has changed, and nothing is to be done.\n",
            self.public_url,
            secret.reveal(),
        );
        let to = address(to).ok_or_else(|| Error::invalid("email", "is no address of mail"))?;
        let mail = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject("Set another password")
            .header(ContentType::TEXT_PLAIN)
            .body(body)
            .map_err(Error::internal)?;
        let wait = Duration::from_secs(60);
        let failed = |error| Error::unavailable("MAIL", "the mail server takes no mail", wait).caused_by(error);
        self.transport.send(mail).await.map(drop).map_err(failed)
    }
}

/// Whether nobody on the way reads what is sent there: over TLS, or on this machine.
fn is_private(url: &str) -> bool {
    let plain = url.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case("smtp"));
    let Some((_, rest)) = plain else { return true };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let host = place.rsplit('@').next().unwrap_or(place).split('/').next().unwrap_or_default();
    let local = ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .any(|name| host.strip_prefix(name).is_some_and(|port| port.is_empty() || port.starts_with(':')));
    local || query.split('&').any(|part| part == "tls=required")
}

/// An address of mail, if it is one.
pub fn address(text: &str) -> Option<Address> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // its pool of connections lives in a runtime
    #[tokio::test]
    async fn what_is_wrong_is_named_and_shows_no_password() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("smtp");
        let config = Config {
            smtp_url_file: Some(file.clone()),
            from: "sensormesh <noreply@example.org>".into(),
            public_url: "https://sensors.example.org/".into(),
        };
        assert!(Mailer::new(&config).is_err_and(|error| error.to_string().contains("smtp")));
        std::fs::write(&file, "http://u:hidden@mail").expect("written");
        let error = Mailer::new(&config).err().expect("no mail server").to_string();
        assert!(error.contains("smtp_url_file") && !error.contains("hidden"), "{error}");
        for clear in ["smtp://u:hidden@mail.example:587", "smtp://u:hidden@localhost.example?tls=opportunistic"] {
            std::fs::write(&file, clear).expect("written");
            let error = Mailer::new(&config).err().expect("in the clear").to_string();
            assert!(error.contains("smtp_url_file") && !error.contains("hidden"), "{error}");
        }
        for private in ["smtp://127.0.0.1:2525", "smtp://u:hidden@mail.example:587?tls=required"] {
            std::fs::write(&file, private).expect("written");
            assert!(Mailer::new(&config).expect(private).is_some());
        }
        std::fs::write(&file, "smtps://u:hidden@mail.example:465\n").expect("written");
        assert!(Mailer::new(&config).expect("good").is_some());
        assert!(Mailer::new(&Config { from: "nobody".into(), ..config.clone() }).is_err());
        assert!(Mailer::new(&Config { public_url: "sensors.example.org".into(), ..config }).is_err());
        assert!(Mailer::new(&Config::default()).expect("none is needed").is_none());
    }
}
