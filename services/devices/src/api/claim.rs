//! Claim codes, and the devices that use them.

use std::time::Duration;

use prost::Message as _;
use sensormesh_proto::devices::v1 as proto;
use sensormesh_store::Entry;
use sensormesh_types::{Caller, Code, Error, Principal, Result, Scope, random};

use super::Api;
use super::credential::{end, issue};
use super::device::append_device;
use crate::credential::{ClaimCode, Credential, Wanted, digest_of_code, new_code};
use crate::db;
use crate::device::{CLAIM, Device, site_for};
use crate::rules;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// For how many days a code is good where nobody says.
const USUAL_DAYS: u32 = 7;
/// For how long a device may use the same code again that has not used its credential yet, microseconds.
const AGAIN: i64 = 10 * 60 * 1_000_000;
/// Codes that are listed.
const LISTED: u32 = 1000;

/// One text for a code that is unknown, used up or ended.
fn wrong() -> Error {
    Error::new(Code::Unauthenticated, "INVALID_CLAIM_CODE", "the claim code is not valid")
}

impl Api {
    pub(super) async fn make_claim_code(
        &self,
        caller: &Caller,
        request: proto::CreateClaimCodeRequest,
    ) -> Result<proto::CreateClaimCodeResponse> {
        if !request.prefix.is_empty() {
            rules::device_id(&request.prefix, "prefix")?;
        }
        let now = self.clock.now_micros();
        let days = if request.days == 0 { USUAL_DAYS } else { request.days };
        let life = i64::try_from((DAY * days).as_micros()).unwrap_or(i64::MAX);
        let made = ClaimCode {
            tenant: caller.tenant().to_owned(),
            claim_code_id: random::id(now),
            name: request.name,
            site: site_for(&request.site_id, &caller.scope, "site_id")?,
            prefix: request.prefix,
            uses_left: request.uses.max(1),
            create_time: now,
            expire_time: now.saturating_add(life),
        };
        let code = new_code();
        let mut tx = self.store.tx(&caller.scope).await?;
        db::credential::delete_ended(&mut tx, now).await?;
        db::credential::insert_claim_code(&mut tx, &made, digest_of_code(&code)).await?;
        tx.append(entry("claim_code.created", caller, &made));
        tx.commit().await?;
        Ok(proto::CreateClaimCodeResponse { code, claim_code: Some(made.to_proto()) })
    }

    pub(super) async fn claim_codes(&self, caller: &Caller) -> Result<Vec<proto::ClaimCode>> {
        let mut read = self.store.read(&caller.scope).await?;
        let found = db::credential::claim_codes(&mut read, self.clock.now_micros(), LISTED).await?;
        Ok(found.iter().map(ClaimCode::to_proto).collect())
    }

    pub(super) async fn end_claim_code(&self, caller: &Caller, claim_code_id: &str) -> Result<()> {
        let mut tx = self.store.tx(&caller.scope).await?;
        let ended = db::credential::delete_claim_code(&mut tx, claim_code_id).await?;
        let ended = ended.ok_or_else(|| Error::not_found("claim code", claim_code_id))?;
        tx.append(entry("claim_code.deleted", caller, &ended));
        tx.commit().await?;
        Ok(())
    }

    /// Registers a device unless it is, and makes its credential.
    pub(super) async fn claim(
        &self,
        caller: &Caller,
        request: proto::ClaimDeviceRequest,
    ) -> Result<proto::ClaimDeviceResponse> {
        rules::device_id(&request.device_id, "device_id")?;
        let now = self.clock.now_micros();
        let mut read = self.store.read(&Scope::system()).await?;
        let code = db::credential::find_claim_code(&mut read, digest_of_code(&request.code), now).await?;
        drop(read);
        let code = code.ok_or_else(wrong)?;
        if !request.device_id.starts_with(&code.prefix) {
            return Err(Error::invalid("device_id", format!("must begin with {}", code.prefix)));
        }
        let sites = if code.site.is_empty() { Vec::new() } else { vec![code.site.clone()] };
        let caller = &Caller {
            principal: Principal::Device { id: request.device_id.clone() },
            scope: Scope::sites_of(&code.tenant, sites),
            ..caller.clone()
        };
        let mut tx = self.store.tx(&caller.scope).await?;
        let new = proto::Device {
            device_id: request.device_id,
            manufacturer: request.manufacturer,
            model: request.model,
            origin: CLAIM.to_owned(),
            ..proto::Device::default()
        };
        let new = Device::from_proto(new, &caller.scope, now)?;
        let device = if db::device::insert(&mut tx, &new).await? {
            append_device(&mut tx, caller, "device.created", &new);
            new
        } else {
            let found = db::device::lock(&mut tx, &new.device_id).await?;
            // one that somebody else has registered is for a code that was made for such
            let admits = |device: &Device| {
                (code.site.is_empty() || device.site == code.site)
                    && (!code.prefix.is_empty() || device.origin == CLAIM)
            };
            found.filter(admits).ok_or_else(|| Error::exists("device", &new.device_id))?
        };
        let holder = device.holder();
        // whose answer was lost asks again, and may: nobody has the token that was in it
        let unused = |one: &Credential| {
            let lately = now.saturating_sub(one.create_time) < AGAIN && one.use_time.is_none();
            lately && one.claim_code_id == code.claim_code_id
        };
        match db::credential::of(&mut tx, &holder.subject, now).await?.as_slice() {
            [] => {
                if !db::credential::use_claim_code(&mut tx, &code.claim_code_id, now).await? {
                    return Err(wrong());
                }
            }
            [one] if unused(one) => end(&mut tx, caller, &holder, one).await?,
            // of a code that is used up nothing more is told
            _ if code.uses_left == 0 => return Err(wrong()),
            _ => {
                let message = "the device has a credential; an operator deletes it or makes another one";
                return Err(Error::precondition("DEVICE_HAS_CREDENTIAL", message));
            }
        }
        let wanted = Wanted { name: code.name.clone(), life: None, claim_code_id: code.claim_code_id.clone() };
        let (token, credential) = issue(&mut tx, caller, &holder, wanted, now).await?;
        tx.append(entry("claim_code.used", caller, &code));
        tx.commit().await?;
        Ok(proto::ClaimDeviceResponse { token, credential: Some(credential) })
    }
}

fn entry(kind: &str, caller: &Caller, code: &ClaimCode) -> Entry {
    Entry {
        site: code.site.clone(),
        kind: kind.to_owned(),
        subject: code.claim_code_id.clone(),
        author: caller.author(),
        payload: code.to_proto().encode_to_vec(),
        ..Entry::default()
    }
}
