//! All SQL of this service.

pub mod invitation;
pub mod key;
pub mod personal;
pub mod reset;
pub mod revocation;
pub mod session;
pub mod totp;
pub mod user;

use prost::Message as _;
use sensormesh_store::Entry;
use sensormesh_types::{Author, Error, Result};

use crate::user::User;

/// An audit entry about a user. Its payload is the user as the contract shows it, which has no secrets.
pub fn user_entry(kind: &str, user: &User, author: Author) -> Entry {
    Entry {
        kind: kind.to_owned(),
        subject: user.user_id.clone(),
        author,
        payload: user.to_proto().encode_to_vec(),
        ..Entry::default()
    }
}

fn sites_text(sites: &[String]) -> Result<String> {
    serde_json::to_string(sites).map_err(Error::internal)
}

fn sites_of(text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).map_err(Error::internal)
}

fn role_of(number: i32) -> Result<sensormesh_types::Role> {
    sensormesh_types::Role::from_i32(number).ok_or_else(|| Error::internal("a stored role is unknown"))
}
