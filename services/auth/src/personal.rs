//! Personal access tokens: what a program acts with for a user.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::{Error, Result, Role, random, time};

use crate::user::{User, role_number};

/// What every one begins with; the edge knows them by it.
const PREFIX: &str = "smp_";
/// What the ids of them begin with, and no session's does.
const ID_PREFIX: &str = "personal-";

/// Tokens of one user at once.
pub const MOST_TOKENS: usize = 100;

/// A personal access token. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonalToken {
    /// The tenant of the user.
    pub tenant: String,
    /// The id (`sid` in the access tokens that it is exchanged for).
    pub token_id: String,
    /// Whose it is.
    pub user_id: String,
    /// What the user calls it.
    pub name: String,
    /// The most that it allows.
    pub role: Role,
    /// The sites it is narrowed to; empty = all of the user's.
    pub sites: Vec<String>,
    /// When it was made.
    pub create_time: i64,
    /// When it was last exchanged.
    pub use_time: Option<i64>,
    /// When it ends.
    pub expire_time: i64,
}

impl PersonalToken {
    /// As the contract shows it.
    pub fn to_proto(&self) -> proto::PersonalToken {
        proto::PersonalToken {
            token_id: self.token_id.clone(),
            name: self.name.clone(),
            role: role_number(self.role),
            site_ids: self.sites.clone(),
            create_time: Some(time::from_micros(self.create_time)),
            last_use_time: self.use_time.map(time::from_micros),
            expire_time: Some(time::from_micros(self.expire_time)),
        }
    }

    /// The user as far as the token lets a program be: no more than the user may now, no more than the token ever allowed. `None`
    /// where nothing is left.
    pub fn narrow(&self, user: User) -> Option<User> {
        let role = user.role.min(self.role);
        let sites = match (self.sites.is_empty(), user.sites.is_empty()) {
            (true, _) => user.sites.clone(),
            (false, true) => self.sites.clone(),
            (false, false) => self.sites.iter().filter(|site| user.sites.contains(site)).cloned().collect(),
        };
        let nothing = sites.is_empty() && !self.sites.is_empty();
        (!nothing && !user.disabled).then_some(User { role, sites, ..user })
    }

    /// That it allows no more than its owner may. INVALID, naming the field, where it does.
    pub fn check(&self, role: Role, sites: &[String]) -> Result<()> {
        if self.role > role {
            return Err(Error::invalid("role", format!("must not be more than your own, {role}")));
        }
        if !sites.is_empty() && self.sites.iter().any(|site| !sites.contains(site)) {
            return Err(Error::invalid("site_ids", "must be among your own"));
        }
        Ok(())
    }
}

/// A new one: 256 bits nobody can guess.
pub fn new_secret() -> Secret<String> {
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::bytes::<32>())))
}

/// A new id.
pub fn new_id(now: i64) -> String {
    format!("{ID_PREFIX}{}", random::id(now))
}

/// Whether what stands in an access token as its session is a personal access token.
pub fn is_id(session: &str) -> bool {
    session.starts_with(ID_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(role: Role, sites: &[&str]) -> PersonalToken {
        PersonalToken {
            tenant: "default".into(),
            token_id: new_id(0),
            user_id: "u".into(),
            name: "a script".into(),
            role,
            sites: sites.iter().map(|site| (*site).to_owned()).collect(),
            create_time: 0,
            use_time: None,
            expire_time: 1,
        }
    }

    fn user(role: Role, sites: &[&str]) -> User {
        User { role, sites: sites.iter().map(|site| (*site).to_owned()).collect(), ..User::default() }
    }

    #[test]
    fn it_allows_no_more_than_its_user_may_now_and_no_more_than_it_was_made_for() {
        for (of_token, of_user, left) in [
            ((Role::Viewer, &[][..]), (Role::Admin, &[][..]), Some((Role::Viewer, vec![]))),
            ((Role::Admin, &[]), (Role::Viewer, &["a"]), Some((Role::Viewer, vec!["a"]))),
            ((Role::Operator, &["a", "b"]), (Role::Admin, &[]), Some((Role::Operator, vec!["a", "b"]))),
            ((Role::Operator, &["a", "b"]), (Role::Admin, &["b", "c"]), Some((Role::Operator, vec!["b"]))),
            // an empty list would be the whole tenant
            ((Role::Operator, &["a"]), (Role::Admin, &["b"]), None),
        ] {
            let narrowed = token(of_token.0, of_token.1).narrow(user(of_user.0, of_user.1));
            let narrowed = narrowed.map(|user| (user.role, user.sites));
            let left = left.map(|(role, sites)| (role, sites.into_iter().map(str::to_owned).collect::<Vec<_>>()));
            assert_eq!(narrowed, left, "{of_token:?} of {of_user:?}");
        }
        let disabled = User { disabled: true, ..user(Role::Admin, &[]) };
        assert_eq!(token(Role::Viewer, &[]).narrow(disabled), None);
    }

    #[test]
    fn it_is_not_made_for_more_than_its_user_may() {
        let of = |token: PersonalToken| token.check(Role::Operator, &["a".to_owned()]);
        assert!(of(token(Role::Operator, &["a"])).is_ok() && of(token(Role::Viewer, &[])).is_ok());
        assert!(of(token(Role::Admin, &["a"])).expect_err("more").to_string().contains("role"));
        assert!(of(token(Role::Viewer, &["a", "b"])).expect_err("elsewhere").to_string().contains("site_ids"));
    }
}
