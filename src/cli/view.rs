//! A tenant as it is shown: the JSON that programs rely on, tables for people, and connection strings.

use serde::Serialize;

use super::output::{or_dash, print, table};
use crate::auth::Secret;
use crate::control::default_login;
use crate::limits::Own;
use crate::registry::{Activity, PlacementRow, TenantDetails};

/// A tenant in JSON, as `create` prints it.
#[derive(Serialize)]
pub(super) struct CreatedView {
    tenant_id: String,
    slug: String,
    login: Option<String>,
    password: Option<String>,
    modules: Vec<ModuleView>,
}

/// A tenant in JSON, as `show` and `list` print it.
#[derive(Serialize)]
pub(super) struct TenantView {
    tenant_id: String,
    slug: String,
    name: String,
    status: &'static str,
    aliases: Vec<String>,
    allow: Vec<String>,
    login: Option<String>,
    modules: Vec<ModuleView>,
    limits: Own,
    last_used: Option<String>,
    login_count: u64,
}

/// One of a tenant's modules in JSON.
#[derive(Serialize)]
struct ModuleView {
    module: String,
    isolation: &'static str,
    server: String,
    database: String,
    schema: Option<String>,
    role: Option<String>,
    status: &'static str,
    url: String,
}

impl CreatedView {
    /// The tenant, with the password that was made for it.
    pub(super) fn new(tenant: &TenantDetails, password: Option<&Secret>, proxy: &str) -> Self {
        Self {
            tenant_id: tenant.tenant.id.to_string(),
            slug: tenant.tenant.slug.to_string(),
            login: default_login(tenant).map(|login| login.login.clone()),
            password: password.map(|password| password.expose().to_owned()),
            modules: modules(tenant, password, proxy),
        }
    }
}

impl TenantView {
    /// The tenant, without any password.
    pub(super) fn new(tenant: &TenantDetails, used: Activity, proxy: &str) -> Self {
        Self {
            tenant_id: tenant.tenant.id.to_string(),
            slug: tenant.tenant.slug.to_string(),
            name: tenant.tenant.name.clone(),
            status: tenant.tenant.status.as_str(),
            aliases: tenant.aliases.iter().map(ToString::to_string).collect(),
            allow: tenant.allow.iter().map(ToString::to_string).collect(),
            login: default_login(tenant).map(|login| login.login.clone()),
            modules: modules(tenant, None, proxy),
            limits: tenant.tenant.limits.clone(),
            last_used: last_used(used),
            login_count: used.logins,
        }
    }
}

/// When a tenant was last used, as ISO 8601 has it.
pub(super) fn last_used(used: Activity) -> Option<String> {
    used.last_used.map(|at| humantime::format_rfc3339_seconds(at).to_string())
}

fn modules(tenant: &TenantDetails, password: Option<&Secret>, proxy: &str) -> Vec<ModuleView> {
    let view = |placement: &PlacementRow| ModuleView {
        module: placement.module.to_string(),
        isolation: placement.isolation.as_str(),
        server: placement.server.to_string(),
        database: placement.database.to_string(),
        schema: placement.schema.clone(),
        role: placement.role.as_ref().map(ToString::to_string),
        status: placement.status.as_str(),
        url: url(tenant, placement.module.as_str(), password, proxy),
    };
    tenant.placements.iter().map(view).collect()
}

/// The connection string of a tenant's module: `postgresql://login%40tenant@proxy/module`.
pub(super) fn url(tenant: &TenantDetails, module: &str, password: Option<&Secret>, proxy: &str) -> String {
    let login = default_login(tenant).map(|login| format!("{}@", login.login)).unwrap_or_default();
    let user = percent_encoded(&format!("{login}{}", tenant.tenant.slug));
    let password = password.map(|password| format!(":{}", percent_encoded(password.expose()))).unwrap_or_default();
    format!("postgresql://{user}{password}@{proxy}/{}", percent_encoded(module))
}

/// Shows a tenant to a person.
pub(super) fn print_tenant(tenant: &TenantDetails, password: Option<&Secret>, proxy: &str) -> anyhow::Result<()> {
    let row = &tenant.tenant;
    print(format_args!("{} \"{}\" ({}) is {}", row.slug, row.name, row.id, row.status))?;
    if !tenant.aliases.is_empty() {
        let aliases: Vec<_> = tenant.aliases.iter().map(crate::tenant::Alias::as_str).collect();
        print(format_args!("also known as {}", aliases.join(", ")))?;
    }
    if !tenant.allow.is_empty() {
        let networks: Vec<_> = tenant.allow.iter().map(ToString::to_string).collect();
        print(format_args!("clients may come from {}", networks.join(", ")))?;
    }
    let logins: Vec<_> = tenant.logins.iter().map(|login| format!("{} (role {})", login.login, login.role)).collect();
    print(format_args!("logins: {}", or_dash((!logins.is_empty()).then(|| logins.join(", ")))))?;
    if !row.limits.is_empty() {
        print(format_args!("limits: {}", own_limits(&row.limits)?))?;
    }
    let mut rows = table(["module", "isolation", "server", "database", "schema", "role", "status", "own limits"]);
    for placement in &tenant.placements {
        rows.add_row([
            placement.module.to_string(),
            placement.isolation.to_string(),
            placement.server.to_string(),
            placement.database.to_string(),
            or_dash(placement.schema.as_ref()),
            or_dash(placement.role.as_ref()),
            placement.status.as_str().to_owned(),
            or_dash(limits(placement)),
        ]);
    }
    print(rows)?;
    for placement in &tenant.placements {
        print(format_args!("  {}", url(tenant, placement.module.as_str(), password, proxy)))?;
    }
    Ok(())
}

/// What a tenant may take of its own, as `tenant limits` takes it.
fn own_limits(limits: &Own) -> anyhow::Result<String> {
    let object = serde_json::to_value(limits)?;
    let words = object.as_object().into_iter().flatten().map(|(key, value)| match value.as_str() {
        Some(text) => format!("{key}={text}"),
        None => format!("{key}={value}"),
    });
    Ok(words.collect::<Vec<_>>().join(", "))
}

/// What differs from the module's settings.
fn limits(placement: &PlacementRow) -> Option<String> {
    let size = placement.pool_size.map(|size| format!("pool {size}"));
    let words: Vec<_> = size.into_iter().chain(placement.pool_mode.map(|mode| mode.to_string())).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// A word as a part of a URL: whatever is not unreserved (RFC 3986, 2.3) is escaped.
fn percent_encoded(word: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    word.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_survives_any_name_and_password() {
        assert_eq!(percent_encoded("app@acme"), "app%40acme");
        assert_eq!(percent_encoded("a/b?c#é"), "a%2Fb%3Fc%23%C3%A9");
        assert_eq!(percent_encoded("x-y_z.~9"), "x-y_z.~9");
    }
}
