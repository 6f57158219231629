//! A whole tenant as the registry tells it to the data plane, in JSON: the answer of a look-up and a line of the snapshot.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::rows::epoch;
use crate::address::Network;
use crate::limits::Own;
use crate::tenant::{
    Alias, DatabaseName, Isolation, Login, ModuleName, Placement, PoolMode, Pooling, Server, SessionsEnd, Slug, Tenant,
    TenantId, TenantStatus, Terms,
};

/// A [`Tenant`] as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TenantRecord {
    id: TenantId,
    slug: Slug,
    name: String,
    status: TenantStatus,
    #[serde(default, with = "epoch")]
    sessions_end_at: Option<SystemTime>,
    /// Seconds until then, by the same clock.
    #[serde(default)]
    sessions_end_in: Option<f64>,
    /// Plain text: one that this program finds malformed must not hide the tenant.
    aliases: Vec<String>,
    #[serde(default)]
    allow: Vec<Network>,
    default_module: Option<ModuleName>,
    #[serde(default)]
    limits: Own,
    placements: Vec<PlacementRecord>,
    logins: Vec<Login>,
    generation: i64,
}

/// A [`Placement`] as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct PlacementRecord {
    module: ModuleName,
    module_aliases: Vec<String>,
    isolation: Isolation,
    server: Server,
    database: DatabaseName,
    schema: Option<String>,
    role: Option<String>,
    pooling: Pooling,
    pool_mode: Option<PoolMode>,
    pool_size: Option<u32>,
    search_path_extra: Vec<String>,
    tenant_parameter: Option<String>,
    set_role: bool,
    ready: bool,
}

impl From<TenantRecord> for Tenant {
    fn from(r: TenantRecord) -> Self {
        // A registry's tenants are kept by the thousand: none is to keep the room that was made while it was read.
        let mut placements: Vec<_> = r.placements.into_iter().map(|p| Arc::new(Placement::from(p))).collect();
        placements.shrink_to_fit();
        let mut logins = r.logins;
        logins.shrink_to_fit();
        Self {
            id: r.id,
            slug: r.slug,
            name: r.name,
            status: r.status,
            sessions_end: r
                .sessions_end_at
                .map(|at| Box::new(SessionsEnd::new(at, r.sessions_end_in.unwrap_or_default()))),
            allow: r.allow,
            aliases: r.aliases.iter().filter_map(|alias| Alias::parse(alias).ok()).collect(),
            default_module: r.default_module,
            limits: r.limits.into_shared(),
            placements,
            logins,
            generation: r.generation,
        }
    }
}

impl From<PlacementRecord> for Placement {
    fn from(r: PlacementRecord) -> Self {
        let terms = Terms {
            module: r.module,
            module_aliases: r.module_aliases,
            isolation: r.isolation,
            pooling: r.pooling,
            pool_mode: r.pool_mode,
            pool_size: r.pool_size,
            search_path_extra: r.search_path_extra,
            tenant_parameter: r.tenant_parameter,
            set_role: r.set_role,
        };
        Self {
            terms: Arc::new(terms),
            server: Arc::new(r.server),
            database: r.database,
            schema: r.schema.map(String::into_boxed_str),
            role: r.role.map(String::into_boxed_str),
            ready: r.ready,
        }
    }
}

impl From<&Tenant> for TenantRecord {
    fn from(t: &Tenant) -> Self {
        Self {
            id: t.id,
            slug: t.slug.clone(),
            name: t.name.clone(),
            status: t.status,
            sessions_end_at: t.sessions_end.as_ref().map(|end| end.at),
            // Kept for a process that has no sessions yet.
            sessions_end_in: None,
            allow: t.allow.clone(),
            aliases: t.aliases.iter().map(|alias| alias.as_str().to_owned()).collect(),
            default_module: t.default_module.clone(),
            limits: Own::clone(&t.limits),
            placements: t.placements.iter().map(|p| PlacementRecord::from(&**p)).collect(),
            logins: t.logins.clone(),
            generation: t.generation,
        }
    }
}

impl From<&Placement> for PlacementRecord {
    fn from(p: &Placement) -> Self {
        Self {
            module: p.terms.module.clone(),
            module_aliases: p.terms.module_aliases.clone(),
            isolation: p.terms.isolation,
            server: (*p.server).clone(),
            database: p.database.clone(),
            schema: p.schema.as_deref().map(str::to_owned),
            role: p.role.as_deref().map(str::to_owned),
            pooling: p.terms.pooling,
            pool_mode: p.terms.pool_mode,
            pool_size: p.terms.pool_size,
            search_path_extra: p.terms.search_path_extra.clone(),
            tenant_parameter: p.terms.tenant_parameter.clone(),
            set_role: p.terms.set_role,
            ready: p.ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn end(record: &str) -> SessionsEnd {
        let whole = format!(
            r#"{{"id": "00000000-0000-0000-0000-000000000001", "slug": "acme", "name": "", "status": "suspended", "aliases": [],
                "default_module": null, "placements": [], "logins": [], "generation": 1, {record}}}"#
        );
        Tenant::from(serde_json::from_str::<TenantRecord>(&whole).unwrap()).sessions_end.map(|end| *end).unwrap()
    }

    #[test]
    fn how_long_sessions_go_on_is_the_registrys_word_whatever_the_time_is_here() {
        let minute = Duration::from_secs(60);
        // The one is long past by this machine's clock, the other far away.
        for at in ["10.5", "99999999999.5"] {
            let before = Instant::now();
            let end = end(&format!(r#""sessions_end_at": {at}, "sessions_end_in": 60.0"#));
            assert!(end.by >= before + minute && end.by <= Instant::now() + minute, "{at}");
        }
        for over in [r#", "sessions_end_in": -3.5"#, r#", "sessions_end_in": 1e300"#, ""] {
            assert!(end(&format!(r#""sessions_end_at": 99999999999.5{over}"#)).by <= Instant::now(), "{over}");
        }
    }

    #[test]
    fn an_end_that_is_read_again_is_the_same() {
        let one = end(r#""sessions_end_at": 10.5, "sessions_end_in": 60.0"#);
        let again = end(r#""sessions_end_at": 10.5, "sessions_end_in": 59.0"#);
        assert!(one == again && one != end(r#""sessions_end_at": 11.5, "sessions_end_in": 60.0"#));
    }
}
