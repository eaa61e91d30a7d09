//! The loops of a connection: reading its source, and delivering what was read.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sensormesh_mesh::Shutdown;
use sensormesh_types::{Clock, Error, Result};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::source::Measured;

/// In nanoseconds.
const MILLISECOND: i64 = 1_000_000;

/// How long reading a source may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The processor's load is a mean: the first one needs a moment to be taken over.
const FIRST: Duration = Duration::from_millis(250);

/// A source that is read from time to time. Reading may block.
pub type Source = Arc<Mutex<dyn FnMut() -> Measured + Send>>;

/// Reads a source at the connection's interval until stopping is asked for.
pub async fn read(connection: Arc<Connection>, source: Source, clock: Clock, shutdown: Shutdown) -> Result<()> {
    let mut settings = connection.settings();
    let mut next = Instant::now() + FIRST;
    loop {
        let set = *settings.borrow_and_update();
        next = next.min(Instant::now() + set.interval);
        tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(()),
            _ = settings.changed() => continue,
            () = tokio::time::sleep_until(next), if set.enabled => {}
        }
        // a late start does not make the next one late; what was missed is not made up for
        next = (next + set.interval).max(Instant::now());
        let reading = Arc::clone(&source);
        let mut reading = tokio::task::spawn_blocking(move || (reading.lock())());
        let measured = match tokio::time::timeout(PATIENCE, &mut reading).await {
            Ok(done) => done,
            Err(_) => {
                connection.unreadable("reading takes too long");
                match shutdown.cut(reading).await {
                    Some(done) => done,
                    None => return Ok(()),
                }
            }
        };
        let measured = measured.map_err(Error::internal)?;
        if measured.is_empty() {
            connection.unreadable("nothing can be read");
        } else {
            // no source is more exact than a millisecond, and times of so many digits would be most of what is stored
            connection.take(clock.now_nanos() / MILLISECOND * MILLISECOND, &measured);
        }
    }
}
