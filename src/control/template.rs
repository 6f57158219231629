//! A database made as a copy of a template: what it brought belongs to the place's owner from then on.

use super::connection::{Connection, Step, in_step};
use super::error::Error;
use super::place::Place;

/// Statements that give everything in the database to a role but what is PostgreSQL's, an extension's, pgtenant's, or goes with its
/// table by itself.
const GIVE_AWAY: &str = "
    WITH heir AS (SELECT oid, rolname FROM pg_roles WHERE rolname = $1),
         spaces AS (SELECT oid, nspname, nspowner FROM pg_namespace
                    WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pgtenant')),
         bound AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
                   UNION SELECT classid, objid FROM pg_depend
                         WHERE deptype IN ('a', 'i') AND classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
                           AND refobjsubid > 0)
    SELECT format('ALTER SCHEMA %I OWNER TO %I', s.nspname, h.rolname) FROM spaces s CROSS JOIN heir h
        WHERE s.nspowner <> h.oid AND s.nspname <> 'public' AND ('pg_namespace'::regclass, s.oid) NOT IN (SELECT * FROM bound)
    UNION ALL
    SELECT format('ALTER %s %s OWNER TO %I',
                  CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                                 WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, c.oid::regclass, h.rolname)
        FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace CROSS JOIN heir h
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relowner <> h.oid
          AND ('pg_class'::regclass, c.oid) NOT IN (SELECT * FROM bound)
    UNION ALL
    SELECT format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, h.rolname)
        FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace CROSS JOIN heir h
        WHERE p.proowner <> h.oid AND ('pg_proc'::regclass, p.oid) NOT IN (SELECT * FROM bound)
    UNION ALL
    SELECT format('ALTER TYPE %s OWNER TO %I', t.oid::regtype, h.rolname)
        FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace CROSS JOIN heir h
        WHERE t.typowner <> h.oid AND ('pg_type'::regclass, t.oid) NOT IN (SELECT * FROM bound)
          AND (t.typtype IN ('d', 'e', 'r') OR t.typtype = 'c' AND EXISTS (SELECT FROM pg_class r WHERE r.oid = t.typrelid AND r.relkind = 'c'))";

/// Makes the place's owner the owner of what its template brought; finds nothing to do the second time.
pub(super) async fn take_over(connection: &mut Connection, place: &Place) -> Result<(), Error> {
    in_step!(connection, "take over what the template brought", &place.lock(), |step| take_over_in(&step, place))
}

async fn take_over_in(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    for row in step.query(GIVE_AWAY, &[&place.owner()]).await? {
        let statement: String = row.try_get(0).map_err(|source| step.failed(source))?;
        step.run(&statement).await?;
    }
    Ok(())
}
