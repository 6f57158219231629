//! Probes: tenants that are made to try the walls of a server and dropped again. No registry knows of them; their names do.

use std::sync::Arc;

use super::connection::{Connection, admin_credentials, in_step};
use super::database;
use super::error::Error;
use super::place::Place;
use super::provision::{Provisioned, ROLES, app_login, maintenance_of, provision};
use super::removal::{drop_place, drop_roles};
use super::roles;
use super::schema::{self, Grantees};
use super::steps::Steps;
use crate::tenant::{Isolation, Pooling, Server, Slug, TenantId, quote_ident, quote_literal};

/// What the names of all that is made for probes begin with; a run's number follows in eight hexadecimal digits.
const PREFIX: &str = "pgtenant_verify_";
/// The first half of the advisory locks by which runs show that they are still there: "pgtv".
const LOCK_CLASS: i32 = 0x7067_7476;
/// The trap in schema `public` of databases that are made for probes: whoever reads it has lost its way.
const TRAP: &str = "nobody's note";

/// One run of probes: its number is in the names of everything that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeRun(u32);

impl ProbeRun {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// What the names of its databases, roles and tables begin with.
    #[must_use]
    pub fn prefix(self) -> String {
        format!("{PREFIX}{:08x}", self.0)
    }

    /// The slug of one of its tenants: `a`, `b`.
    ///
    /// # Errors
    /// [`Error::Name`]: never, for a letter.
    pub fn slug(self, letter: char) -> Result<Slug, Error> {
        Ok(Slug::parse(&format!("{}_{letter}", self.prefix()))?)
    }

    /// The id of that tenant, from which the marks on its objects are made: a later run can tell them, too.
    #[must_use]
    pub fn tenant_id(self, letter: char) -> TenantId {
        const CUSTOM_VERSION: u128 = 0x7e57_8000_8000_0000_0000_0000;
        TenantId(uuid::Uuid::from_u128(u128::from(self.0) << 96 | CUSTOM_VERSION | u128::from(u32::from(letter))))
    }

    /// The table that each of its tenants has.
    #[must_use]
    pub fn table(self) -> String {
        self.prefix()
    }
}

/// A server on which a run has probes: while this is there, no other run takes them for leftovers.
pub struct ProbeServer {
    server: Arc<Server>,
    connection: Connection,
    /// The service login was there before.
    had_service: bool,
}

impl ProbeServer {
    /// Announces a run on a server.
    ///
    /// # Errors
    /// The server cannot be reached with its admin secret.
    pub async fn open(server: Arc<Server>, run: ProbeRun) -> Result<Self, Error> {
        let connection = maintenance_of(&server, &admin_credentials(&server).await?).await?;
        let failed = |source| connection.failed("announce probes", source);
        let lock = format!("SELECT pg_advisory_lock({LOCK_CLASS}, {})", run.0.cast_signed());
        connection.client.batch_execute(&lock).await.map_err(failed)?;
        let had_service = match app_login(&server).await? {
            None => true,
            Some(login) => {
                let sql = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";
                let row = connection.client.query_one(sql, &[&login]).await.map_err(failed)?;
                row.try_get(0).map_err(failed)?
            }
        };
        Ok(Self { server, connection, had_service })
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Runs whose probes are there though they themselves are not: they were killed.
    ///
    /// # Errors
    /// The queries'.
    pub async fn leftovers(&self) -> Result<Vec<ProbeRun>, Error> {
        let failed = |source| self.connection.failed("look for probes that were left", source);
        let sql = format!(
            "SELECT DISTINCT found.run FROM ( \
                 SELECT substring(rolname::text FROM '^{PREFIX}([0-9a-f]{{8}})_') AS run FROM pg_roles \
                 UNION SELECT substring(datname::text FROM '^{PREFIX}([0-9a-f]{{8}})_') FROM pg_database) found \
             WHERE found.run IS NOT NULL AND NOT EXISTS ( \
                 SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid = {LOCK_CLASS} \
                    AND lpad(to_hex(objid::bigint), 8, '0') = found.run)"
        );
        let rows = self.connection.client.query(&sql, &[]).await.map_err(failed)?;
        let run = |row: &tokio_postgres::Row| {
            let text: String = row.try_get(0).map_err(failed)?;
            Ok(u32::from_str_radix(&text, 16).ok().map(ProbeRun))
        };
        rows.iter().filter_map(|row| run(row).transpose()).collect()
    }

    /// Takes a run's probes off the server: their places in modules that are there without them, then every database and role that
    /// bears the run's number. What is gone already is no error; each is tried whatever became of the others.
    ///
    /// # Errors
    /// The first that could not be dropped.
    pub async fn sweep(&mut self, run: ProbeRun, places: &[Place]) -> Result<(), Error> {
        let mut outcome = self.end_statements(run).await;
        for place in places {
            outcome = outcome.and(take_away(place, run).await);
        }
        outcome = outcome.and(self.drop_databases(run).await);
        for place in places {
            outcome = outcome.and(drop_roles(place).await);
        }
        outcome.and(self.drop_marked_roles(run).await)
    }

    /// Takes away the service login, if it is there only for the probes.
    ///
    /// # Errors
    /// It has come into use meanwhile.
    pub async fn forget_service(&mut self) -> Result<(), Error> {
        let Some(login) = app_login(&self.server).await?.filter(|_| !self.had_service) else { return Ok(()) };
        let connection = &mut self.connection;
        in_step!(connection, "drop the service login", ROLES, |step| roles::drop_service(&step, &login))
    }

    /// Ends what is still being made: a server goes on with a statement whose client was killed.
    async fn end_statements(&self, run: ProbeRun) -> Result<(), Error> {
        let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                   WHERE pid <> pg_backend_pid() AND usename = current_user AND state = 'active' AND strpos(query, $1) > 0";
        let ended = self.connection.client.query(sql, &[&run.prefix()]).await;
        ended.map(drop).map_err(|source| self.connection.failed("end statements of probes", source))
    }

    async fn drop_databases(&self, run: ProbeRun) -> Result<(), Error> {
        let failed = |source| self.connection.failed("drop the probes' databases", source);
        let sql = "SELECT datname::text FROM pg_database WHERE starts_with(datname::text, $1) \
                   AND coalesce(shobj_description(oid, 'pg_database'), 'pgtenant:') LIKE 'pgtenant:%'";
        for row in self.connection.client.query(sql, &[&format!("{}_", run.prefix())]).await.map_err(failed)? {
            let name: String = row.try_get(0).map_err(failed)?;
            self.connection.drop_database("drop the probes' databases", &name).await?;
        }
        Ok(())
    }

    async fn drop_marked_roles(&mut self, run: ProbeRun) -> Result<(), Error> {
        let prefix = format!("{}_", run.prefix());
        let connection = &mut self.connection;
        in_step!(connection, "drop the probes' roles", ROLES, |step| roles::drop_all_marked(&step, &prefix))
    }
}

/// Makes a probe's place whole and puts in it what probes work with: a table of notes, a function that leaves state behind, one that reads.
///
/// # Errors
/// What stopped it.
pub async fn make_probe(place: &Place, run: ProbeRun, is_own_module: bool, drifts: bool) -> Result<Provisioned, Error> {
    let made = provision(place, &mut Steps::unrecorded()).await?;
    let mut connection =
        Connection::open(&place.server, &admin_credentials(&place.server).await?, place.database.as_str()).await?;
    let service = app_login(&place.server).await?.filter(|_| place.pooling == Pooling::Shared);
    let grantees = Grantees::of(place, service.as_deref());
    let sql = furniture(place, run, &grantees, drifts);
    let lock = place.lock();
    in_step!(connection, "furnish a probe's place", &lock, |step| step.run(&sql))?;
    if is_own_module && place.schema.is_some() {
        in_step!(connection, "set a trap in schema public", &lock, |step| step.run(&trap(run)))?;
    }
    Ok(made)
}

fn furniture(place: &Place, run: ProbeRun, grantees: &Grantees, drifts: bool) -> String {
    let (table, owner, schema) = (run.table(), quote_ident(&place.owner()), quote_ident(place.schema_name()));
    let tenant = match place.isolation {
        Isolation::Shared => format!("{} uuid NOT NULL, ", quote_ident(&place.tenant_column)),
        Isolation::Database | Isolation::Schema => String::new(),
    };
    let drift = match drifts {
        true => format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS drift bigint; "),
        false => String::new(),
    };
    // A tenant's own connection may still have what this left there before.
    let leave = format!(
        "BEGIN \
           CREATE TEMP TABLE IF NOT EXISTS leftover AS SELECT secret AS note; \
           PERFORM set_config('verify.leftover', secret, false); \
           IF NOT EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'leftover') THEN \
             EXECUTE 'PREPARE leftover AS SELECT ' || quote_literal(secret) || '::text'; \
           END IF; \
           EXECUTE 'LISTEN leftover'; \
           PERFORM pg_advisory_lock(hashtextextended(secret, 0)); \
           PERFORM nextval('{table}_id_seq'); \
         END"
    );
    format!(
        "SET LOCAL ROLE {owner}; SET LOCAL search_path = {schema}, pg_temp; \
         CREATE TABLE IF NOT EXISTS {table} ({tenant}id serial PRIMARY KEY, note text NOT NULL); {drift}\
         CREATE OR REPLACE FUNCTION {table}_leave(secret text) RETURNS void LANGUAGE plpgsql AS {}; \
         CREATE OR REPLACE FUNCTION {table}_read() RETURNS text LANGUAGE plpgsql AS {}; \
         RESET ROLE; SET LOCAL search_path = pg_catalog; {}",
        quote_literal(&leave),
        quote_literal(&format!("BEGIN RETURN (SELECT string_agg(note, ',') FROM {table}); END")),
        schema::grant_again(place, &place.owner(), grantees),
    )
}

/// A table of the same name where nobody should look for it, open to all.
fn trap(run: ProbeRun) -> String {
    let table = run.table();
    format!(
        "CREATE TABLE IF NOT EXISTS public.{table} (note text); GRANT SELECT, INSERT ON public.{table} TO PUBLIC; \
         INSERT INTO public.{table} VALUES ({})",
        quote_literal(TRAP)
    )
}

/// Takes a probe's place away; common tables keep all but its rows and what was put there for it.
async fn take_away(place: &Place, run: ProbeRun) -> Result<(), Error> {
    let admin = admin_credentials(&place.server).await?;
    let maintenance = maintenance_of(&place.server, &admin).await?;
    if !database::is_there(&maintenance, place).await? {
        return Ok(());
    }
    if place.isolation != Isolation::Database {
        let mut connection = Connection::open(&place.server, &admin, place.database.as_str()).await?;
        if !has_traces(&connection, place, run).await? {
            return Ok(());
        }
        if place.isolation == Isolation::Shared {
            let (schema, table) = (quote_ident(place.schema_name()), run.table());
            let sql = format!(
                "DROP TABLE IF EXISTS {schema}.{table}; DROP FUNCTION IF EXISTS {schema}.{table}_leave(text), {schema}.{table}_read()"
            );
            let lock = place.lock();
            in_step!(connection, "take away what probes work with", &lock, |step| step.run(&sql))?;
        }
    }
    drop_place(place, true).await
}

/// Whether a run has been in a database that is there without it.
async fn has_traces(connection: &Connection, place: &Place, run: ProbeRun) -> Result<bool, Error> {
    let failed = |source| connection.failed("look for probes", source);
    let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') LIKE $1 || ':%') \
                   OR EXISTS (SELECT FROM pg_class WHERE relname = $2) \
                   OR EXISTS (SELECT FROM pg_proc WHERE proname = $2 || '_read')";
    let row = connection.client.query_one(sql, &[&place.tenant_mark(), &run.table()]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_makes_can_be_told_from_its_number() {
        let run = ProbeRun(0x00c0_ffee);
        assert_eq!(run.slug('a').unwrap().as_str(), "pgtenant_verify_00c0ffee_a");
        assert_eq!(run.tenant_id('a').to_string(), "00c0ffee-7e57-8000-8000-000000000061");
        assert_ne!(run.tenant_id('a'), run.tenant_id('b'));
    }
}
