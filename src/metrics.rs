//! Every metric, declared once.

use metrics::Unit;

/// Logins that ended before the session began, by kind.
pub const LOGIN_FAILURES: &str = "pgtenant_login_failures_total";
/// Logins of clients that named no tenant, by login, address and result.
pub const DEFAULT_TENANT_LOGINS: &str = "pgtenant_default_tenant_logins_total";
/// Logins of clients that named their tenant where there is a default one, by login and address.
pub const NAMED_TENANT_LOGINS: &str = "pgtenant_named_tenant_logins_total";
/// Sessions that kept their server connection beyond a transaction, by reason.
pub const PINS: &str = "pgtenant_pins_total";

/// Tells the recorder what the metrics are.
pub fn describe() {
    metrics::describe_counter!(LOGIN_FAILURES, Unit::Count, "Logins that ended before the session began");
    metrics::describe_counter!(DEFAULT_TENANT_LOGINS, Unit::Count, "Logins of clients that named no tenant");
    metrics::describe_counter!(
        NAMED_TENANT_LOGINS,
        Unit::Count,
        "Logins of clients that named their tenant, where there is a default one"
    );
    metrics::describe_counter!(PINS, Unit::Count, "Sessions that kept their server connection beyond a transaction");
}
