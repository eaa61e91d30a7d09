//! Who may call: the contract's policy, and nothing else.

use sensormesh_proto::Policy;
use sensormesh_types::{DEFAULT_TENANT, Error, Principal, Result, Role, Scope};

use crate::{Bearer, Identity, OPERATOR};

/// Decides whether a call may be made, and as whom.
///
/// A user's token decides by role, whichever authenticated peer forwards it; a device's or a bridge's by the contract. Without one the peer decides: the operator's
/// certificate as a user with the role `platform_admin`, a service by the contract's list. A public method takes anybody.
pub fn authorize(policy: &Policy, peer: Option<&Identity>, bearer: Option<&Bearer>) -> Result<(Principal, Scope)> {
    match bearer {
        Some(Bearer::User(user)) if policy.admits_role(user.role) => return Ok((user.principal(), user.scope())),
        Some(Bearer::User(user)) => return Err(too_little(policy, user.role)),
        Some(Bearer::Machine(machine)) if policy.devices => return Ok((machine.principal(), machine.scope())),
        Some(Bearer::Machine(_)) => return Err(Error::forbidden("no device may do this")),
        None => {}
    }
    let own = Scope::tenant_of(DEFAULT_TENANT);
    match peer {
        Some(peer) if peer.is_operator() => {
            if policy.admits_role(Role::PlatformAdmin) {
                let name = OPERATOR.to_owned();
                let role = Role::PlatformAdmin;
                Ok((Principal::User { id: name.clone(), name, role, session: String::new() }, own))
            } else {
                Err(too_little(policy, Role::PlatformAdmin))
            }
        }
        Some(peer) if policy.admits_service(&peer.service) => {
            Ok((Principal::Service { name: peer.service.clone() }, Scope::system()))
        }
        _ if policy.public => Ok((Principal::Anonymous, own)),
        Some(peer) if policy.min_role.is_none() => {
            Err(Error::forbidden(format!("the service {:?} may not call this", peer.service)))
        }
        // a service without a user's token stands where a user has to be; the caller behind the edge is told to log in
        Some(peer) if peer.service == "edge" => Err(Error::unauthenticated("a token is needed; log in first")),
        Some(peer) => Err(Error::forbidden(format!("the service {:?} may not call this without a user", peer.service))),
        None => Err(Error::unauthenticated("a token or a certificate is needed")),
    }
}

fn too_little(policy: &Policy, role: Role) -> Error {
    match policy.min_role {
        Some(least) => Error::forbidden(format!("the role {role} may not do this; it takes {least}")),
        None => Error::forbidden("no user may do this; it is for services"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::Claims;
    use crate::token::machine::tests::{bridge, machine};
    use sensormesh_proto::METHODS;
    use sensormesh_types::Code;

    const ROLES: [Role; 4] = [Role::Viewer, Role::Operator, Role::Admin, Role::PlatformAdmin];

    fn claims(role: Role) -> Claims {
        Claims {
            iss: String::new(),
            aud: String::new(),
            sub: "u1".into(),
            name: "ada".into(),
            role,
            tenant: "acme".into(),
            sites: vec!["north".into()],
            sid: "s1".into(),
            jti: String::new(),
            iat: 0,
            exp: 0,
        }
    }

    /// Every method, every kind of caller: what is decided is what the contract says, read here in another way.
    #[test]
    fn every_method_admits_exactly_whom_its_contract_names() {
        let services: Vec<&str> =
            ["auth", "devices", "telemetry", "rooms", "adapters", "edge", "stranger"].into_iter().collect();
        for method in METHODS {
            let policy = &method.policy;
            for role in ROLES {
                let may = policy.public || policy.min_role.is_some_and(|least| role as i32 >= least as i32);
                for peer in [None, Some(Identity::new("d", "n", "edge")), Some(Identity::new("d", "n", "stranger"))] {
                    let decided = authorize(policy, peer.as_ref(), Some(&Bearer::User(Arc::new(claims(role)))));
                    assert_eq!(decided.is_ok(), may, "{} as {role}", method.path);
                    if let Ok((principal, scope)) = decided {
                        assert_eq!(principal.role(), Some(role));
                        assert_eq!((scope.tenant(), scope.sites()), ("acme", &["north".to_owned()][..]));
                    }
                }
            }
            for service in &services {
                let named = policy.services.contains(service) || policy.services.contains(&"*");
                match authorize(policy, Some(&Identity::new("d", "n", *service)), None) {
                    Ok((Principal::Service { name }, scope)) => {
                        assert!(named && name == *service && scope.is_system(), "{} by {service}", method.path);
                    }
                    Ok((principal, _)) => {
                        assert!(!named && policy.public && principal == Principal::Anonymous, "{}", method.path);
                    }
                    Err(error) => {
                        assert!(!named && !policy.public, "{} by {service}: {error}", method.path);
                        let code = if *service == "edge" && policy.min_role.is_some() {
                            Code::Unauthenticated
                        } else {
                            Code::Forbidden
                        };
                        assert_eq!(error.code(), code, "{} by {service}", method.path);
                    }
                }
            }
            let operator = authorize(policy, Some(&Identity::new("d", "n", OPERATOR)), None);
            assert_eq!(operator.is_ok(), policy.public || policy.min_role.is_some(), "{} by the operator", method.path);
            for machine in [machine("smd_a_1", "north", None), bridge(&["gw-"])] {
                let bearer = Bearer::Machine(Arc::new(machine));
                let name = bearer.principal().actor();
                for peer in [None, Some(Identity::new("d", "n", "edge")), Some(Identity::new("d", "n", OPERATOR))] {
                    let decided = authorize(policy, peer.as_ref(), Some(&bearer));
                    assert_eq!(decided.is_ok(), policy.devices, "{} by {name}", method.path);
                    if let Ok((principal, _)) = decided {
                        assert_eq!(principal.actor(), name);
                    }
                }
            }
            let nobody = authorize(policy, None, None);
            assert_eq!(nobody.is_ok(), policy.public, "{} by nobody", method.path);
        }
    }
}
