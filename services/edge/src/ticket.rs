//! Tickets: what stands for a token once, where a browser cannot send headers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_types::{Error, Result, random};
use tokio::time::Instant;

/// How long a ticket works.
pub const LIFETIME: Duration = Duration::from_secs(30);

/// Tickets held at once, so that nobody fills the memory with them.
const MOST: usize = 10_000;

/// The tickets that were given and not used yet. Clones share them.
#[derive(Clone, Default)]
pub struct Tickets(Arc<Mutex<HashMap<String, Ticket>>>);

struct Ticket {
    authorization: String,
    until: Instant,
}

impl Tickets {
    /// Gives a ticket for an `authorization` header.
    pub fn give(&self, authorization: &str) -> Result<String> {
        let now = Instant::now();
        let mut tickets = self.0.lock();
        if tickets.len() >= MOST {
            tickets.retain(|_, ticket| ticket.until > now);
        }
        if tickets.len() >= MOST {
            return Err(Error::exhausted("TOO_MANY_TICKETS", "too many tickets are out at once", LIFETIME));
        }
        let secret = random::secret();
        tickets.insert(secret.clone(), Ticket { authorization: authorization.to_owned(), until: now + LIFETIME });
        Ok(secret)
    }

    /// Takes a ticket back for what it stands for. It never works again.
    pub fn take(&self, secret: &str) -> Result<String> {
        let ticket = self.0.lock().remove(secret);
        match ticket {
            Some(ticket) if ticket.until > Instant::now() => Ok(ticket.authorization),
            _ => Err(Error::unauthenticated("the ticket was used already, is older than 30 s or was never given")),
        }
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tickets({})", self.0.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ticket_works_once_and_for_half_a_minute() {
        let tickets = Tickets::default();
        let one = tickets.give("Bearer a").expect("a ticket");
        assert_eq!(tickets.take(&one).expect("works"), "Bearer a");
        assert!(tickets.take(&one).is_err());
        let late = tickets.give("Bearer b").expect("a ticket");
        tokio::time::advance(LIFETIME).await;
        assert!(tickets.take(&late).is_err());
        assert!(tickets.take("").is_err());
    }
}
