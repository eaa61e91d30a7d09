//! Users: who can log in, and who may change whom.

use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::mask::{self, Fields};
use sensormesh_types::{Caller, Changes, Code, Error, Result, Role, Scope, time};

/// Fields of a user that an update may take.
const FIELDS: &[&str] = &["role", "display_name", "disabled", "site_ids", "email"];
/// Fields that an update may name and that never change.
const FIXED: &[&str] = &["user_id", "username", "create_time", "last_login_time", "totp_enabled"];

/// Somebody who can log in. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The tenant.
    pub tenant: String,
    /// The opaque id.
    pub user_id: String,
    /// What the user logs in with, as it was registered.
    pub username: String,
    /// What people see; the user name where empty.
    pub display_name: String,
    /// Where mail for the user goes; empty = nowhere.
    pub email: String,
    /// What the user may do.
    pub role: Role,
    /// The sites the role is narrowed to; empty = the whole tenant.
    pub sites: Vec<String>,
    /// Cannot log in.
    pub disabled: bool,
    /// The password was made by us and stands in a file.
    pub one_time: bool,
    /// Tokens issued in or before this second of the Unix epoch are revoked.
    pub revoked_second: i64,
    /// When the account was made.
    pub create_time: i64,
    /// When the user last logged in.
    pub last_login_time: Option<i64>,
    /// A log-in needs a code as well as the password.
    pub totp_enabled: bool,
}

impl Default for User {
    fn default() -> Self {
        Self {
            tenant: sensormesh_types::DEFAULT_TENANT.to_owned(),
            user_id: String::new(),
            username: String::new(),
            display_name: String::new(),
            email: String::new(),
            role: Role::Viewer,
            sites: Vec::new(),
            disabled: false,
            one_time: false,
            revoked_second: 0,
            create_time: 0,
            last_login_time: None,
            totp_enabled: false,
        }
    }
}

/// User names are compared without case.
pub fn key_of(username: &str) -> String {
    username.trim().to_lowercase()
}

/// How a role travels in the contract.
pub fn role_number(role: Role) -> i32 {
    role as i32
}

/// A role of the contract; `field` is where it stands in the request.
pub fn role_of(number: i32, field: &str) -> Result<Role> {
    Role::from_i32(number)
        .ok_or_else(|| Error::invalid(field, "must be ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMIN or ROLE_PLATFORM_ADMIN"))
}

impl User {
    /// The user as the contract has it.
    pub fn to_proto(&self) -> proto::User {
        let display_name = if self.display_name.is_empty() { &self.username } else { &self.display_name };
        proto::User {
            user_id: self.user_id.clone(),
            username: self.username.clone(),
            display_name: display_name.clone(),
            role: role_number(self.role),
            site_ids: self.sites.clone(),
            disabled: self.disabled,
            create_time: Some(time::from_micros(self.create_time)),
            last_login_time: self.last_login_time.map(time::from_micros),
            totp_enabled: self.totp_enabled,
            email: self.email.clone(),
        }
    }

    /// What differs in another state of the account, for the audit.
    pub fn changes(&self, after: &Self) -> String {
        Changes::default()
            .field("display_name", &self.display_name, &after.display_name)
            .field("email", &self.email, &after.email)
            .field("role", &self.role.as_str(), &after.role.as_str())
            .field("site_ids", &self.sites, &after.sites)
            .field("disabled", &self.disabled, &after.disabled)
            .text()
    }

    /// The user name as it is compared.
    pub fn username_key(&self) -> String {
        key_of(&self.username)
    }

    /// Whether this user can still do everything in the tenant: somebody must.
    pub fn governs(&self) -> bool {
        self.role >= Role::Admin && self.sites.is_empty() && !self.disabled
    }

    /// Whether a caller of this scope may know the user: narrowed to sites, only those with no other sites than these.
    pub fn is_within(&self, scope: &Scope) -> bool {
        let own = scope.sites();
        own.is_empty() || (!self.sites.is_empty() && self.sites.iter().all(|site| own.contains(site)))
    }

    /// Whether tokens issued to `self` allow something that `changed` may not do any more.
    pub fn exceeds(&self, changed: &User) -> bool {
        let narrowed = !changed.sites.is_empty()
            && (self.sites.is_empty() || self.sites.iter().any(|site| !changed.sites.contains(site)));
        changed.role < self.role || narrowed || (changed.disabled && !self.disabled)
    }
}

/// Reads which fields an update takes from `brought`.
pub fn fields(mask: Option<&prost_types::FieldMask>, brought: &proto::User) -> Result<Fields> {
    mask::fields(mask, FIELDS, FIXED, |field| match field {
        "role" => brought.role != 0,
        "display_name" => !brought.display_name.is_empty(),
        "disabled" => brought.disabled,
        "email" => !brought.email.is_empty(),
        _ => !brought.site_ids.is_empty(),
    })
}

/// The user after an update.
pub fn update(user: &User, brought: &proto::User, fields: &Fields) -> Result<User> {
    let mut changed = user.clone();
    if fields.takes("role") {
        changed.role = role_of(brought.role, "user.role")?;
    }
    if fields.takes("display_name") {
        brought.display_name.clone_into(&mut changed.display_name);
    }
    if fields.takes("email") {
        brought.email.clone_into(&mut changed.email);
    }
    if fields.takes("disabled") {
        changed.disabled = brought.disabled;
    }
    if fields.takes("site_ids") {
        changed.sites.clone_from(&brought.site_ids);
        changed.sites.sort();
        changed.sites.dedup();
    }
    Ok(changed)
}

/// Refuses a caller who would give more than the caller has: a greater role, or sites that are not the caller's.
pub fn may_grant(caller: &Caller, role: Role, sites: &[String]) -> Result<()> {
    if !caller.has_role(role) {
        return Err(refused("ROLE_ABOVE_OWN", format!("nobody can give or change the role {role} without having it")));
    }
    let own = caller.scope.sites();
    if !own.is_empty() && (sites.is_empty() || sites.iter().any(|site| !own.contains(site))) {
        return Err(refused("SITES_ABOVE_OWN", "nobody can give or change access to other sites than the own ones"));
    }
    Ok(())
}

fn refused(reason: &'static str, message: impl Into<String>) -> Error {
    Error::new(Code::Forbidden, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensormesh_types::Principal;

    fn caller(role: Role, sites: &[&str]) -> Caller {
        Caller {
            principal: Principal::User { id: "c".into(), name: "c".into(), role, session: "s".into() },
            scope: Scope::sites_of("default", sites.iter().map(|s| (*s).to_owned()).collect()),
            peer: None,
            traceparent: String::new(),
            address: String::new(),
            request_id: String::new(),
            accepted_time: None,
        }
    }

    fn user(role: Role, sites: &[&str]) -> User {
        User { role, sites: sites.iter().map(|s| (*s).to_owned()).collect(), ..User::default() }
    }

    #[test]
    fn nobody_gives_more_than_the_own_role_and_sites() {
        assert!(may_grant(&caller(Role::Admin, &[]), Role::Admin, &[]).is_ok());
        let refused = may_grant(&caller(Role::Admin, &[]), Role::PlatformAdmin, &[]).expect_err("above");
        assert_eq!(refused.reason(), "ROLE_ABOVE_OWN");
        let narrow = caller(Role::Admin, &["north"]);
        assert!(may_grant(&narrow, Role::Viewer, &["north".into()]).is_ok());
        assert_eq!(may_grant(&narrow, Role::Viewer, &[]).expect_err("whole tenant").reason(), "SITES_ABOVE_OWN");
        assert!(may_grant(&narrow, Role::Viewer, &["north".into(), "south".into()]).is_err());
    }

    #[test]
    fn losing_a_role_sites_or_the_account_calls_for_new_tokens() {
        assert!(user(Role::Admin, &[]).exceeds(&user(Role::Viewer, &[])));
        assert!(user(Role::Viewer, &[]).exceeds(&user(Role::Viewer, &["north"])));
        assert!(user(Role::Viewer, &["north"]).exceeds(&user(Role::Viewer, &["south"])));
        assert!(user(Role::Viewer, &[]).exceeds(&User { disabled: true, ..User::default() }));
        assert!(!user(Role::Viewer, &["north"]).exceeds(&user(Role::Admin, &[])));
    }

    #[test]
    fn an_update_takes_the_named_fields_only() {
        let brought = proto::User { role: 2, disabled: true, display_name: "Ada".into(), ..proto::User::default() };
        let mask = prost_types::FieldMask { paths: vec!["display_name".into()] };
        let changed = update(&User::default(), &brought, &fields(Some(&mask), &brought).expect("mask")).expect("user");
        assert_eq!((changed.display_name.as_str(), changed.role, changed.disabled), ("Ada", Role::Viewer, false));
        let all = fields(None, &brought).expect("mask");
        assert!(update(&User::default(), &brought, &all).expect("user").disabled);
    }
}
