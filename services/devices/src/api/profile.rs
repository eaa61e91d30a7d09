//! Profiles through the contract.

use prost::Message as _;
use sensormesh_proto::devices::v1 as proto;
use sensormesh_proto::devices::v1::watch_devices_response::Event;
use sensormesh_types::{Caller, Code, Error, Result, page};

use super::sensor::{append_sensor, restamped};
use super::{Api, append, append_changed, body_of, page_size, recall, required};
use crate::db;
use crate::profile::{self, Profile};
use crate::rules::Stamp;

/// Sensors of every site take from a profile, so nobody who is narrowed to some sites changes one.
fn whole_tenant(caller: &Caller) -> Result<()> {
    if caller.scope.sites().is_empty() {
        return Ok(());
    }
    let message =
        "a profile belongs to the whole tenant, and you are narrowed to sites; set what differs on the sensor";
    Err(Error::new(Code::Forbidden, "WHOLE_TENANT", message))
}

impl Api {
    pub(super) async fn find_profile(&self, caller: &Caller, profile_id: &str) -> Result<proto::Profile> {
        let mut read = self.store.read(&caller.scope).await?;
        let found = db::profile::find(&mut read, profile_id).await?;
        found.map(|profile| profile.to_proto()).ok_or_else(|| Error::not_found("profile", profile_id))
    }

    pub(super) async fn page_of_profiles(
        &self,
        caller: &Caller,
        request: &proto::ListProfilesRequest,
    ) -> Result<proto::ListProfilesResponse> {
        let size = page_size(request.page_size)?;
        let query = format!("profiles/{}", caller.tenant());
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let mut read = self.store.read(&caller.scope).await?;
        let mut profiles = db::profile::list(&mut read, &after, size as u32 + 1).await?;
        profiles.extend(profile::builtins().filter(|builtin| builtin.profile_id > after));
        profiles.sort_by(|one, other| one.profile_id.cmp(&other.profile_id));
        let more = profiles.len() > size;
        profiles.truncate(size);
        let last = profiles.last().filter(|_| more);
        let next_page_token = last.map(|profile| page::token(&query, &profile.profile_id)).unwrap_or_default();
        Ok(proto::ListProfilesResponse { profiles: profiles.iter().map(Profile::to_proto).collect(), next_page_token })
    }

    pub(super) async fn make_profile(
        &self,
        caller: &Caller,
        request: proto::CreateProfileRequest,
    ) -> Result<proto::CreateProfileResponse> {
        let profile = Profile::from_proto(&required(request.profile, "profile")?, self.clock.now_micros())?;
        if profile::builtin(&profile.profile_id).is_some() {
            return Err(Error::exists("profile", &profile.profile_id));
        }
        let body = body_of(&Profile { stamp: Stamp::default(), ..profile.clone() });
        let mut tx = self.store.tx(&caller.scope).await?;
        if let Some(answer) = recall(&mut tx, "CreateProfile", &request.request_id, &body).await? {
            return Ok(answer);
        }
        if !db::profile::insert(&mut tx, &profile).await? {
            return Err(Error::exists("profile", &profile.profile_id));
        }
        let shown = profile.to_proto();
        append(&mut tx, caller, "", "profile.created", &profile.profile_id, Event::Profile(shown.clone()));
        let answer = proto::CreateProfileResponse { profile: Some(shown) };
        tx.remember_request("CreateProfile", &request.request_id, &body, &answer.encode_to_vec()).await?;
        tx.commit().await?;
        Ok(answer)
    }

    /// Changes a profile and with it every sensor that takes something from it.
    pub(super) async fn change_profile(
        &self,
        caller: &Caller,
        request: proto::UpdateProfileRequest,
    ) -> Result<proto::Profile> {
        let brought = required(request.profile, "profile")?;
        profile::refuse_builtin(&brought.profile_id)?;
        whole_tenant(caller)?;
        let fields = profile::fields(request.update_mask.as_ref(), &brought)?;
        let mut tx = self.store.tx(&caller.scope).await?;
        let found = db::profile::lock(&mut tx, &brought.profile_id).await?;
        let profile = found.ok_or_else(|| Error::not_found("profile", &brought.profile_id))?;
        profile.stamp.check("profile", &profile.profile_id, &brought.etag)?;
        let mut changed = profile.updated(&brought, &fields)?;
        if changed == profile {
            return Ok(profile.to_proto());
        }
        let now = self.clock.now_micros();
        changed.stamp = profile.stamp.changed(now);
        db::profile::update(&mut tx, &changed).await?;
        let shown = changed.to_proto();
        let told = (Event::Profile(shown.clone()), profile.changes(&changed));
        append_changed(&mut tx, caller, "", "profile.updated", &changed.profile_id, told);
        if changed.effective() != profile.effective() {
            for sensor in db::sensor::of_profile(&mut tx, &changed.profile_id).await? {
                let sensor = restamped(&sensor, now);
                db::sensor::update(&mut tx, &sensor).await?;
                append_sensor(&mut tx, caller, "sensor.updated", &sensor, sensor.to_proto(Some(&changed)));
            }
        }
        tx.commit().await?;
        Ok(shown)
    }

    pub(super) async fn remove_profile(&self, caller: &Caller, profile_id: &str) -> Result<()> {
        profile::refuse_builtin(profile_id)?;
        whole_tenant(caller)?;
        let mut tx = self.store.tx(&caller.scope).await?;
        if db::profile::lock(&mut tx, profile_id).await?.is_none() {
            return Err(Error::not_found("profile", profile_id));
        }
        let users = db::sensor::of_profile(&mut tx, profile_id).await?.len();
        if users > 0 {
            let message = format!("{users} sensors use the profile; give them another one first");
            return Err(Error::precondition("PROFILE_IN_USE", message));
        }
        db::profile::delete(&mut tx, profile_id).await?;
        append(&mut tx, caller, "", "profile.deleted", profile_id, Event::DeletedProfileId(profile_id.to_owned()));
        tx.commit().await?;
        Ok(())
    }
}
