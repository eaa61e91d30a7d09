//! A tenant's own profiles, and the built-in ones beside them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use prost::Message as _;
use sensormesh_proto::devices::v1::QualityTests;
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use super::written;
use crate::profile::{self, Profile};
use crate::rules::Stamp;

const SELECT: &str = "SELECT tenant, profile_id, name, quantity, unit, range_min, range_max, expected_interval, \
                      quality_tests, retention_days, decimals, update_time, version FROM profile";

fn read_profile(row: &Row) -> Result<Profile> {
    let update_time = row.get("update_time")?;
    Ok(Profile {
        profile_id: row.get("profile_id")?,
        name: row.get("name")?,
        quantity: row.get("quantity")?,
        unit: row.get("unit")?,
        range_min: row.get("range_min")?,
        range_max: row.get("range_max")?,
        interval: row.get("expected_interval")?,
        tests: row.get::<Option<Vec<u8>>>("quality_tests")?.as_deref().map(read_tests).transpose()?,
        retention_days: row.get("retention_days")?,
        decimals: row.get("decimals")?,
        builtin: false,
        stamp: Stamp { create_time: update_time, update_time, version: row.get("version")? },
    })
}

fn read_tests(bytes: &[u8]) -> Result<QualityTests> {
    QualityTests::decode(bytes).map_err(Error::internal)
}

/// Adds a profile; false where the id is taken.
pub async fn insert(tx: &mut Tx, profile: &Profile) -> Result<bool> {
    let tenant = tx.tenant();
    let done = tx
        .query(
            "INSERT INTO profile (tenant, profile_id, name, quantity, unit, range_min, range_max, expected_interval, \
             quality_tests, retention_days, decimals, update_time, version) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
             ON CONFLICT (tenant, profile_id) DO NOTHING",
        )
        .bind(tenant)
        .bind(&profile.profile_id)
        .bind(&profile.name)
        .bind(&profile.quantity)
        .bind(&profile.unit)
        .bind(profile.range_min)
        .bind(profile.range_max)
        .bind(profile.interval)
        .bind(profile.tests.map(|tests| tests.encode_to_vec()))
        .bind(profile.retention_days)
        .bind(profile.decimals)
        .bind(profile.stamp.update_time)
        .bind(profile.stamp.version)
        .execute()
        .await?;
    Ok(done == 1)
}

/// The profile with this id: a built-in one or the tenant's own.
pub async fn find(read: &mut Read, profile_id: &str) -> Result<Option<Profile>> {
    let tenant = read.tenant();
    find_of(read, &tenant, profile_id).await
}

async fn find_of(read: &mut Read, tenant: &str, profile_id: &str) -> Result<Option<Profile>> {
    if let Some(builtin) = profile::builtin(profile_id) {
        return Ok(Some(builtin));
    }
    let query = read.query_built(format!("{SELECT} WHERE tenant = $1 AND profile_id = $2"));
    query.bind(tenant).bind(profile_id).fetch_optional().await?.as_ref().map(read_profile).transpose()
}

/// The profile with this id, kept from changing until the transaction ends.
pub async fn lock(tx: &mut Tx, profile_id: &str) -> Result<Option<Profile>> {
    if let Some(builtin) = profile::builtin(profile_id) {
        return Ok(Some(builtin));
    }
    let tenant = tx.tenant();
    let query = tx.query("UPDATE profile SET version = version WHERE tenant = $1 AND profile_id = $2");
    query.bind(tenant).bind(profile_id).execute().await?;
    find(tx, profile_id).await
}

/// The tenant's own profiles after an id, by id.
pub async fn list(read: &mut Read, after: &str, limit: u32) -> Result<Vec<Profile>> {
    let tenant = read.tenant();
    let sql = format!("{SELECT} WHERE tenant = $1 AND profile_id > $2 ORDER BY profile_id LIMIT $3");
    let query = read.query_built(sql).bind(tenant).bind(after).bind(limit);
    query.fetch_all().await?.iter().map(read_profile).collect()
}

/// Every own profile that the scope may see, with its tenant: of all tenants for the system.
pub async fn all(read: &mut Read) -> Result<Vec<(String, Profile)>> {
    let (tenant, system) = (read.tenant(), read.scope().is_system());
    let rows = if system {
        read.query_built(format!("{SELECT} ORDER BY tenant, profile_id")).fetch_all().await?
    } else {
        let query = read.query_built(format!("{SELECT} WHERE tenant = $1 ORDER BY profile_id"));
        query.bind(tenant).fetch_all().await?
    };
    rows.iter().map(|row| Ok((row.get("tenant")?, read_profile(row)?))).collect()
}

/// Writes a profile that was read with the version before this one.
pub async fn update(tx: &mut Tx, profile: &Profile) -> Result<()> {
    let tenant = tx.tenant();
    let done = tx
        .query(
            "UPDATE profile SET name = $1, quantity = $2, unit = $3, range_min = $4, range_max = $5, \
             expected_interval = $6, quality_tests = $7, retention_days = $8, decimals = $9, \
             update_time = $10, version = $11 WHERE tenant = $12 AND profile_id = $13 AND version = $14",
        )
        .bind(&profile.name)
        .bind(&profile.quantity)
        .bind(&profile.unit)
        .bind(profile.range_min)
        .bind(profile.range_max)
        .bind(profile.interval)
        .bind(profile.tests.map(|tests| tests.encode_to_vec()))
        .bind(profile.retention_days)
        .bind(profile.decimals)
        .bind(profile.stamp.update_time)
        .bind(profile.stamp.version)
        .bind(tenant)
        .bind(&profile.profile_id)
        .bind(profile.stamp.version - 1)
        .execute()
        .await?;
    written(done, "profile", &profile.profile_id)
}

/// Removes a profile.
pub async fn delete(tx: &mut Tx, profile_id: &str) -> Result<()> {
    let tenant = tx.tenant();
    let query = tx.query("DELETE FROM profile WHERE tenant = $1 AND profile_id = $2");
    query.bind(tenant).bind(profile_id).execute().await?;
    Ok(())
}

/// The profiles of the sensors of one call, each read once.
#[derive(Default)]
pub struct Profiles(HashMap<(String, String), Option<Profile>>);

impl Profiles {
    /// The profile with this id; `None` for an empty id.
    pub async fn get(&mut self, read: &mut Read, profile_id: &str) -> Result<Option<&Profile>> {
        let tenant = read.tenant();
        self.get_of(read, &tenant, profile_id).await
    }

    /// A named tenant's profile with this id; for a transaction that sees several tenants.
    pub async fn get_of(&mut self, read: &mut Read, tenant: &str, profile_id: &str) -> Result<Option<&Profile>> {
        if profile_id.is_empty() {
            return Ok(None);
        }
        match self.0.entry((tenant.to_owned(), profile_id.to_owned())) {
            Entry::Occupied(known) => Ok(known.into_mut().as_ref()),
            Entry::Vacant(unknown) => Ok(unknown.insert(find_of(read, tenant, profile_id).await?).as_ref()),
        }
    }

    /// The profile that a sensor is to have, kept from being deleted until the transaction ends; refuses one that does
    /// not exist.
    pub async fn demand(&mut self, tx: &mut Tx, profile_id: &str) -> Result<Option<&Profile>> {
        if profile_id.is_empty() {
            return Ok(None);
        }
        let found = match self.0.entry((tx.tenant(), profile_id.to_owned())) {
            Entry::Occupied(known) => known.into_mut().as_ref(),
            Entry::Vacant(unknown) => unknown.insert(lock(tx, profile_id).await?).as_ref(),
        };
        found.map(Some).ok_or_else(|| {
            let message = format!("there is no profile {profile_id:?}; make it first, or use one of ListProfiles");
            Error::precondition("PROFILE_UNKNOWN", message)
        })
    }
}
