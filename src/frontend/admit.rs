//! What an authenticated client gets to: whether its tenant is served, and which of its places is meant. Never asked before.

use std::sync::Arc;

use crate::net::Peer;
use crate::protocol::{Report, SqlState};
use crate::tenant::{Placement, Tenant, TenantStatus};

use super::identify::Request;
use super::names::shown;

/// The place that a client asks for, if its tenant is served there.
///
/// # Errors
/// A FATAL report for the client.
pub fn admit(tenant: &Tenant, request: &Request) -> Result<Arc<Placement>, Report> {
    served(tenant)?;
    module(tenant, request)
}

/// Whether a tenant is served now.
///
/// # Errors
/// A FATAL report for the client.
pub fn served(tenant: &Tenant) -> Result<(), Report> {
    let slug = &tenant.slug;
    let unavailable = |why| {
        let message = format!("(PT-UNAVAILABLE) tenant \"{slug}\" is being {why}; try again");
        Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message))
    };
    match tenant.status {
        TenantStatus::Active => Ok(()),
        TenantStatus::Provisioning => unavailable("provisioned"),
        TenantStatus::Moving => unavailable("moved"),
        TenantStatus::Suspended => {
            let message = format!("(PT-SUSPENDED) tenant \"{slug}\" is suspended");
            Err(Report::fatal(SqlState::INVALID_AUTHORIZATION, message))
        }
        // Unknown from the start; this is for one that was archived while its client was proving itself.
        TenantStatus::Archived => {
            let message = format!("(PT-SUSPENDED) tenant \"{slug}\" is no longer served");
            Err(Report::fatal(SqlState::INVALID_AUTHORIZATION, message))
        }
    }
}

/// Whether a tenant's clients may come from there; those of this machine's own socket may.
///
/// # Errors
/// A FATAL report for the client.
pub fn allowed(tenant: &Tenant, peer: Peer) -> Result<(), Report> {
    let address = match peer {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Gone => None,
        Peer::Unix => return Ok(()),
    };
    if tenant.allows(address) {
        return Ok(());
    }
    let from = address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_canonical().to_string());
    let message = format!("(PT-ADDRESS) tenant \"{}\" has no clients at {from}", tenant.slug);
    Err(Report::fatal(SqlState::INVALID_AUTHORIZATION, message))
}

/// The place of the module that a client asks for: by exact name, by alias, or the default one for those who ask for none.
///
/// # Errors
/// A FATAL report for the client.
pub fn module(tenant: &Tenant, request: &Request) -> Result<Arc<Placement>, Report> {
    let database = request.database.as_str();
    // Clients that ask for no database send their user name as its name.
    let asks_for_none = database.is_empty() || database == request.user || database == request.login;
    let placement = tenant.placement(database).or_else(|| tenant.default_placement().filter(|_| asks_for_none));
    let slug = &tenant.slug;
    match placement {
        Some(placement) if placement.ready => Ok(Arc::clone(placement)),
        Some(placement) => {
            let message = format!(
                "(PT-UNAVAILABLE) \"{}\" of tenant \"{slug}\" is being provisioned; try again",
                placement.terms.module
            );
            Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message))
        }
        None => {
            let message = format!("(PT-NOMODULE) tenant \"{slug}\" has no database \"{}\"", shown(database));
            let report = Report::fatal(SqlState::INVALID_CATALOG_NAME, message);
            Err(if asks_for_none {
                report.hint("No database was asked for, and the tenant has no default module.")
            } else {
                report
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::testing::{request, tenant};

    fn asking(database: &str) -> Request {
        Request { user: "app@acme".to_owned(), database: database.to_owned(), ..request("app") }
    }

    fn code(result: Result<impl Sized, Report>) -> (String, &'static str) {
        let report = result.err().unwrap();
        (report.message, report.sqlstate.0)
    }

    #[test]
    fn the_database_name_is_the_module_by_name_first_and_alias_second() {
        let acme = tenant("acme", &["finance", "operations"]);
        for (database, module_name) in
            [("finance", "finance"), ("operations", "operations"), ("old_finance", "finance")]
        {
            assert_eq!(module(&acme, &asking(database)).unwrap().terms.module.as_str(), module_name);
        }
    }

    #[test]
    fn no_database_or_the_user_name_whole_or_stripped_means_the_default_module() {
        let mut acme = tenant("acme", &["finance", "operations"]);
        acme.default_module = Some("operations".parse().unwrap());
        for database in ["", "app@acme", "app"] {
            assert_eq!(module(&acme, &asking(database)).unwrap().terms.module.as_str(), "operations", "{database}");
        }
    }

    #[test]
    fn a_module_called_like_the_login_is_that_module() {
        let mut acme = tenant("acme", &["app", "finance"]);
        acme.default_module = Some("finance".parse().unwrap());
        assert_eq!(module(&acme, &asking("app")).unwrap().terms.module.as_str(), "app");
    }

    #[test]
    fn a_module_that_a_tenant_has_not_is_no_database() {
        let acme = tenant("acme", &["finance", "operations"]);
        let expected = ("(PT-NOMODULE) tenant \"acme\" has no database \"billing\"".to_owned(), "3D000");
        assert_eq!(code(module(&acme, &asking("billing"))), expected);
        assert_eq!(code(module(&acme, &asking(""))).1, "3D000", "two modules and no default");
    }

    #[test]
    fn tenants_that_are_not_served_are_told_why() {
        let mut acme = tenant("acme", &["finance"]);
        let suspended = "(PT-SUSPENDED) tenant \"acme\" is suspended";
        for (status, text, sqlstate) in [
            (TenantStatus::Suspended, suspended, "28000"),
            (TenantStatus::Provisioning, "(PT-UNAVAILABLE) ", "57P03"),
            (TenantStatus::Moving, "(PT-UNAVAILABLE) ", "57P03"),
            (TenantStatus::Archived, "", "28000"),
        ] {
            acme.status = status;
            let told = code(admit(&acme, &asking("nosuch")));
            assert!(told.0.starts_with(text) && told.1 == sqlstate, "{told:?}");
        }
    }

    #[test]
    fn a_place_that_is_not_ready_is_to_be_tried_again() {
        let mut acme = tenant("acme", &["finance"]);
        Arc::get_mut(&mut acme.placements[0]).unwrap().ready = false;
        let told = code(admit(&acme, &asking("finance")));
        assert!(told.0.starts_with("(PT-UNAVAILABLE) ") && told.1 == "57P03", "{told:?}");
    }
}
