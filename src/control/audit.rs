//! Audit: whether rights, policies and roles that are there keep a module's tenants apart. It reads the catalogs and changes nothing.

use std::sync::Arc;

use super::connection::{Connection, admin_credentials};
use super::error::Error;
use super::place::TENANT_COLUMN;
use super::provision::{app_login, maintenance_of};
use crate::registry::ModuleRow;
use crate::tenant::{Isolation, Server};

/// What one look at a module came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// What was looked at.
    pub check: &'static str,
    /// Objects that were looked at; `None` where there is nothing of the kind.
    pub count: Option<i64>,
    /// What lets one tenant reach another; some of it, if it is much.
    pub breaches: Vec<String>,
}

/// Most breaches that are told of one check.
const TOLD_MAX: i64 = 10;

/// Schemas in the connected database with their tenants, roles with theirs.
const MARKED: &str = "
    roles AS (SELECT oid, rolname, substring(shobj_description(oid, 'pg_authid') FROM '^pgtenant:([0-9a-f-]{36})') AS tenant FROM pg_roles),
    spaces AS (SELECT oid, nspname, nspacl, nspowner,
                      substring(obj_description(oid, 'pg_namespace') FROM '^pgtenant:([0-9a-f-]{36}):') AS tenant FROM pg_namespace)";

/// Looks at what is there of a module on a server.
///
/// # Errors
/// The server cannot be reached, or asked.
pub async fn audit(server: &Arc<Server>, module: &ModuleRow) -> Result<Vec<Audited>, Error> {
    let admin = admin_credentials(server).await?;
    let maintenance = maintenance_of(server, &admin).await?;
    let roles = maintenance.audit_roles(app_login(server).await?.as_deref()).await?;
    let database = match (&module.database, module.isolation) {
        (Some(database), Isolation::Schema | Isolation::Shared) => database,
        _ => return Ok(vec![maintenance.audit_databases(module).await?, roles]),
    };
    if !maintenance.has_database(database.as_str()).await? {
        return Ok(vec![Audited { check: RIGHTS, count: None, breaches: Vec::new() }, roles]);
    }
    let connection = Connection::open(server, &admin, database.as_str()).await?;
    let places = match module.isolation {
        Isolation::Shared => connection.audit_policies(module.schema_pattern.as_deref().unwrap_or_default()).await?,
        Isolation::Database | Isolation::Schema => connection.audit_schemas().await?,
    };
    Ok(vec![places, roles])
}

const RIGHTS: &str = "rights between the tenants that are there";
const POLICIES: &str = "row policies of the tables that are there";
const ROLES: &str = "powers and memberships of the roles that are there";

impl Connection {
    async fn has_database(&self, name: &str) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
        let failed = |source| self.failed("look for a database", source);
        self.client.query_one(sql, &[&name]).await.and_then(|row| row.try_get(0)).map_err(failed)
    }

    /// Rights on databases of tenants' own: nobody else may connect.
    async fn audit_databases(&self, module: &ModuleRow) -> Result<Audited, Error> {
        let sql = format!(
            "WITH {MARKED}, own AS (
                 SELECT datname, datdba, datacl, substring(mark FROM '^pgtenant:([0-9a-f-]{{36}}):') AS tenant
                 FROM (SELECT *, shobj_description(oid, 'pg_database') AS mark FROM pg_database) d
                 WHERE mark ~ '^pgtenant:[0-9a-f-]{{36}}:' AND substr(mark, 47) = $1),
             found AS (
                 SELECT format('%s may connect to database %I', coalesce(r.rolname, 'PUBLIC'), o.datname) AS breach
                 FROM own o CROSS JOIN aclexplode(coalesce(o.datacl, acldefault('d', o.datdba))) a LEFT JOIN roles r ON r.oid = a.grantee
                 WHERE a.privilege_type = 'CONNECT' AND (a.grantee = 0 OR r.tenant <> o.tenant))
             SELECT (SELECT count(*) FROM own), ARRAY(SELECT breach::text FROM found ORDER BY 1 LIMIT {TOLD_MAX})"
        );
        self.audited(RIGHTS, &sql, &[&module.name.as_str()]).await
    }

    /// Rights on schemas of tenants' own and what is in them.
    async fn audit_schemas(&self) -> Result<Audited, Error> {
        let sql = format!(
            "WITH {MARKED}, granted AS (
                 SELECT s.oid, s.tenant, format('schema %I', s.nspname) AS object, a.grantee, a.privilege_type
                 FROM spaces s CROSS JOIN aclexplode(s.nspacl) a WHERE s.tenant IS NOT NULL
                 UNION ALL
                 SELECT s.oid, s.tenant, format('%I.%I', s.nspname, c.relname), a.grantee, a.privilege_type
                 FROM spaces s JOIN pg_class c ON c.relnamespace = s.oid CROSS JOIN aclexplode(c.relacl) a WHERE s.tenant IS NOT NULL),
             found AS (
                 SELECT format('%s has %s on %s', coalesce(r.rolname, 'PUBLIC'), g.privilege_type, g.object) AS breach
                 FROM granted g LEFT JOIN roles r ON r.oid = g.grantee
                 WHERE (g.grantee = 0 OR r.tenant <> g.tenant)
                   AND CASE WHEN g.grantee = 0 THEN has_schema_privilege('public', g.oid, 'USAGE')
                            ELSE has_schema_privilege(g.grantee, g.oid, 'USAGE') END)
             SELECT (SELECT count(*) FROM spaces WHERE tenant IS NOT NULL), ARRAY(SELECT breach::text FROM found ORDER BY 1 LIMIT {TOLD_MAX})"
        );
        self.audited(RIGHTS, &sql, &[]).await
    }

    /// The walls of common tables: on every table with a tenant column, forced, restrictive, for everyone; and nothing that looks past them.
    async fn audit_policies(&self, schema: &str) -> Result<Audited, Error> {
        let sql = format!(
            "WITH here AS (SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1),
             walled AS (
                 SELECT h.oid, h.relname, h.relrowsecurity, h.relforcerowsecurity,
                        EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = h.oid AND NOT p.polpermissive AND p.polcmd = '*' AND p.polroles = '{{0}}'
                            AND pg_get_expr(p.polqual, p.polrelid) LIKE '%pgtenant.current_tenant()%'
                            AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'pgtenant.current_tenant()') LIKE '%pgtenant.current_tenant()%') AS policy
                 FROM here h JOIN pg_attribute a ON a.attrelid = h.oid AND a.attname = $2 AND NOT a.attisdropped
                 WHERE h.relkind IN ('r', 'p')),
             found AS (
                 SELECT format('table %I has no row policy of pgtenant''s', relname) AS breach FROM walled WHERE NOT policy
                 UNION ALL SELECT format('row policies of table %I are not forced', relname) FROM walled
                     WHERE policy AND NOT (relrowsecurity AND relforcerowsecurity)
                 UNION ALL SELECT format('view %I is read as %I, who is past all policies', h.relname, o.rolname)
                     FROM here h JOIN pg_roles o ON o.oid = h.relowner CROSS JOIN aclexplode(h.relacl) a
                     WHERE h.relkind IN ('v', 'm') AND (o.rolsuper OR o.rolbypassrls) AND a.grantee <> h.relowner AND a.privilege_type = 'SELECT'
                       AND NOT coalesce(h.reloptions @> '{{security_invoker=true}}', false)
                 UNION ALL SELECT format('PUBLIC has %s on %I', a.privilege_type, h.relname)
                     FROM here h CROSS JOIN aclexplode(h.relacl) a JOIN walled w ON w.oid = h.oid
                     WHERE a.grantee = 0 AND a.privilege_type IN ('TRUNCATE', 'TRIGGER', 'REFERENCES'))
             SELECT (SELECT count(*) FROM walled), ARRAY(SELECT DISTINCT breach::text FROM found ORDER BY 1 LIMIT {TOLD_MAX})"
        );
        self.audited(POLICIES, &sql, &[&schema, &TENANT_COLUMN]).await
    }

    /// The server's roles of tenants, and the service login: none is mighty, none is a member of another tenant's.
    async fn audit_roles(&self, service: Option<&str>) -> Result<Audited, Error> {
        let sql = format!(
            "WITH {MARKED}, own AS (SELECT * FROM roles WHERE tenant IS NOT NULL OR rolname = $1),
             found AS (
                 SELECT format('role %I is superuser or has BYPASSRLS, CREATEROLE, CREATEDB or REPLICATION', o.rolname) AS breach
                 FROM own o JOIN pg_roles p ON p.oid = o.oid
                 WHERE p.rolsuper OR p.rolbypassrls OR p.rolcreaterole OR p.rolcreatedb OR p.rolreplication
                 UNION ALL
                 SELECT format('role %I is a member of %I', o.rolname, g.rolname)
                 FROM own o JOIN pg_auth_members m ON m.member = o.oid JOIN roles g ON g.oid = m.roleid
                 WHERE o.tenant <> g.tenant OR g.rolname IN ('pg_read_all_data', 'pg_write_all_data', 'pg_monitor', 'pg_read_all_stats',
                     'pg_signal_backend', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program', 'pg_maintain'))
             SELECT (SELECT count(*) FROM own), ARRAY(SELECT breach::text FROM found ORDER BY 1 LIMIT {TOLD_MAX})"
        );
        self.audited(ROLES, &sql, &[&service]).await
    }

    async fn audited(
        &self,
        check: &'static str,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Audited, Error> {
        let failed = |source| self.failed("audit what is there", source);
        let row = self.client.query_one(sql, parameters).await.map_err(failed)?;
        let count: i64 = row.try_get(0).map_err(failed)?;
        let breaches = row.try_get(1).map_err(failed)?;
        Ok(Audited { check, count: (count > 0).then_some(count), breaches })
    }
}
