//! Which start-up settings of clients may reach a backend: all but a few on a tenant's own connections, a few on shared ones.

use crate::protocol::{Report, SqlState};
use crate::tenant::{Isolation, Placement, Pooling};

/// Settings that say who a session is, or load code into it.
const DENIED: [&str; 5] = [
    "role",
    "session_authorization",
    "session_preload_libraries",
    "local_preload_libraries",
    "shared_preload_libraries",
];
/// The namespace of pgtenant's own settings, on which row policies may depend.
const OWN_PREFIX: &str = "pgtenant.";
/// Settings that the proxy can carry from one connection to another and that cannot reach past a tenant's wall.
const CARRIED: [&str; 25] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "escape_string_warning",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "plan_cache_mode",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_timeout",
    "xmlbinary",
    "xmloption",
];

/// Looks at the client's start-up settings, which all go on to a placement's backends, or the client is refused.
/// Names are in lower case, as [`super::Request::settings`] has them.
///
/// # Errors
/// A FATAL report for the client: 42501 for a setting that nobody may set, 0A000 for one that shared pools cannot carry.
pub fn check_settings(settings: &[(String, String)], placement: &Placement) -> Result<(), Report> {
    settings.iter().try_for_each(|(name, _)| check(name, placement))
}

fn check(name: &str, placement: &Placement) -> Result<(), Report> {
    let shared_rows = placement.terms.isolation == Isolation::Shared || placement.terms.pooling == Pooling::Shared;
    let names_tenant = placement.terms.tenant_parameter.as_ref().is_some_and(|p| p.eq_ignore_ascii_case(name));
    if DENIED.contains(&name) || name.starts_with(OWN_PREFIX) || names_tenant || (shared_rows && name == "row_security")
    {
        let message = format!("permission denied to set parameter \"{name}\"");
        return Err(Report::fatal(SqlState::INSUFFICIENT_PRIVILEGE, message));
    }
    if placement.terms.pooling == Pooling::Shared && !CARRIED.contains(&name) {
        let message = format!("parameter \"{name}\" cannot be set at start-up with shared pooling");
        let report = Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, message);
        return Err(report
            .detail("Connections are shared between tenants; they carry only settings that are known to be safe."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::frontend::testing::tenant;

    fn placement(pooling: Pooling, isolation: Isolation) -> Placement {
        let mut acme = tenant("acme", &["finance"]);
        let mut placement = Arc::unwrap_or_clone(acme.placements.remove(0));
        let terms = Arc::make_mut(&mut placement.terms);
        (terms.pooling, terms.isolation) = (pooling, isolation);
        terms.tenant_parameter = Some("app.Tenant_Id".to_owned());
        placement
    }

    fn verdict(name: &str, placement: &Placement) -> Option<&'static str> {
        check_settings(&[(name.to_owned(), "x".to_owned())], placement).err().map(|report| report.sqlstate.0)
    }

    #[test]
    fn settings_that_change_who_a_session_is_are_denied_everywhere() {
        for pooling in [Pooling::PerTenant, Pooling::Shared] {
            let placement = placement(pooling, Isolation::Schema);
            for name in
                ["role", "session_authorization", "local_preload_libraries", "pgtenant.tenant_id", "app.tenant_id"]
            {
                assert_eq!(verdict(name, &placement), Some("42501"), "{name}");
            }
        }
    }

    #[test]
    fn a_tenants_own_connections_take_all_other_settings() {
        let placement = placement(Pooling::PerTenant, Isolation::Schema);
        for name in ["search_path", "work_mem", "my.setting", "row_security", "nonsense"] {
            assert_eq!(verdict(name, &placement), None, "{name}");
        }
    }

    #[test]
    fn shared_connections_take_only_what_can_be_carried() {
        let placement = placement(Pooling::Shared, Isolation::Schema);
        for name in ["application_name", "timezone", "extra_float_digits", "statement_timeout"] {
            assert_eq!(verdict(name, &placement), None, "{name}");
        }
        for name in ["search_path", "work_mem", "my.setting", "nonsense"] {
            assert_eq!(verdict(name, &placement), Some("0A000"), "{name}");
        }
    }

    #[test]
    fn row_security_stays_on_where_rows_are_the_wall() {
        for (pooling, isolation) in [(Pooling::PerTenant, Isolation::Shared), (Pooling::Shared, Isolation::Schema)] {
            assert_eq!(verdict("row_security", &placement(pooling, isolation)), Some("42501"));
        }
    }
}
