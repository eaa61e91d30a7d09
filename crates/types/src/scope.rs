//! What a piece of work may see: a tenant and, within it, sites.

/// The tenant of a fresh system. A single user never meets the word.
pub const DEFAULT_TENANT: &str = "default";

/// The part of the data that a transaction may touch. The only way to a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    tenant: Option<String>,
    sites: Vec<String>,
}

impl Scope {
    /// One whole tenant.
    pub fn tenant_of(tenant: impl Into<String>) -> Self {
        Self { tenant: Some(tenant.into()), sites: Vec::new() }
    }

    /// Some sites of a tenant; an empty list is the whole tenant.
    pub fn sites_of(tenant: impl Into<String>, sites: Vec<String>) -> Self {
        Self { tenant: Some(tenant.into()), sites }
    }

    /// Every tenant: for the service's own tasks, never for a user's call.
    pub fn system() -> Self {
        Self { tenant: None, sites: Vec::new() }
    }

    /// The tenant; that of a fresh system where the scope is the system's own.
    pub fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or(DEFAULT_TENANT)
    }

    /// Whether every tenant may be seen.
    pub fn is_system(&self) -> bool {
        self.tenant.is_none()
    }

    /// The sites it is narrowed to; empty = none, the whole tenant.
    pub fn sites(&self) -> &[String] {
        &self.sites
    }

    /// Whether a row of this tenant and site may be seen. A row without a site belongs to the whole tenant.
    pub fn admits(&self, tenant: &str, site: &str) -> bool {
        self.tenant.as_deref().is_none_or(|t| t == tenant)
            && (self.sites.is_empty() || self.sites.iter().any(|s| s == site))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_narrowed_to_a_site_hides_the_rest_of_the_tenant() {
        let scope = Scope::sites_of("acme", vec!["north".into()]);
        assert!(scope.admits("acme", "north"));
        assert!(!scope.admits("acme", "south"));
        assert!(!scope.admits("acme", ""));
        assert!(!scope.admits("other", "north"));
    }

    #[test]
    fn the_system_scope_sees_every_tenant() {
        assert!(Scope::system().admits("acme", "north"));
    }
}
