//! Requests that carry an id: the same id gives the same answer again (AIP-155).

use sensormesh_types::{Error, Result};

use crate::Tx;

impl Tx {
    /// The answer that was given to this request before, if it was made. `body` is the encoded request: the same id with
    /// another body is refused, naming `request_id`. An empty id is never remembered.
    pub async fn recall_request(&mut self, method: &str, request_id: &str, body: &[u8]) -> Result<Option<Vec<u8>>> {
        if request_id.is_empty() {
            return Ok(None);
        }
        let tenant = self.tenant();
        let row = self
            .query("SELECT digest, answer FROM request WHERE tenant = $1 AND method = $2 AND request_id = $3")
            .bind(tenant)
            .bind(method)
            .bind(request_id)
            .fetch_optional()
            .await?;
        let Some(row) = row else { return Ok(None) };
        if row.get::<Vec<u8>>("digest")? != blake3::hash(body).as_bytes() {
            return Err(Error::invalid("request_id", "was used for another request"));
        }
        row.get("answer").map(Some)
    }

    /// Remembers the encoded answer to a request for a day.
    pub async fn remember_request(&mut self, method: &str, request_id: &str, body: &[u8], answer: &[u8]) -> Result<()> {
        if request_id.is_empty() {
            return Ok(());
        }
        let (tenant, now) = (self.tenant(), self.store().clock().now_micros());
        self.query(
            "INSERT INTO request (tenant, method, request_id, time, digest, answer) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(tenant)
        .bind(method)
        .bind(request_id)
        .bind(now)
        .bind(*blake3::hash(body).as_bytes())
        .bind(answer)
        .execute()
        .await?;
        Ok(())
    }
}
