//! Tenants with a schema each, on one pool.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;

use crate::client::HOST;
use crate::place::{DATABASE, PASSWORD, Place, ROLE};
use crate::target::SERVER;

/// What they ask: for a row of their own.
pub(crate) const QUESTION: &str = "SELECT note FROM notes WHERE id = 7";
/// Connections of the pool.
const POOL_SIZE: usize = 20;

pub(crate) struct Crowd {
    tenants: usize,
}

impl Crowd {
    /// Makes their schemas, each with a table of a hundred rows.
    pub(crate) async fn make(place: &Place, tenants: usize) -> Result<Self> {
        let make = format!(
            "DO $$ BEGIN FOR n IN 0..{last} LOOP
                EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION {ROLE}', 'crowd_' || n);
                EXECUTE format('CREATE TABLE IF NOT EXISTS %I.notes (id int PRIMARY KEY, note text)', 'crowd_' || n);
                EXECUTE format('INSERT INTO %I.notes SELECT i, ''note '' || i FROM generate_series(1, 100) AS i
                    ON CONFLICT DO NOTHING', 'crowd_' || n);
                EXECUTE format('GRANT SELECT ON %I.notes TO {ROLE}', 'crowd_' || n);
            END LOOP; END $$",
            last = tenants - 1
        );
        let admin = place.cluster.connect(DATABASE).await?;
        admin.batch_execute(&make).await?;
        admin.batch_execute("VACUUM ANALYZE").await?;
        Ok(Self { tenants })
    }

    /// The user name of one of them.
    pub(crate) fn user(&self, tenant: usize) -> String {
        format!("app@crowd_{}", tenant % self.tenants)
    }

    /// The registry file, for a server that is met on this port.
    pub(crate) fn registry(&self, place: &Place, port: u16) -> Result<String> {
        let mut registry = format!(
            "[[server]]\nname = '{SERVER}'\nhost = '{HOST}'\nport = {port}\nsslmode = 'disable'\napp_secret = 'file:{secret}'\n\
             [[module]]\nname = '{DATABASE}'\nisolation = 'schema'\npooling = 'shared'\nserver = '{SERVER}'\n\
             database = '{DATABASE}'\npool_size = {POOL_SIZE}\n",
            secret = service_secret(place)?.display(),
        );
        for tenant in 0..self.tenants {
            write!(
                registry,
                "[[tenant]]\nid = '0190b5a0-0000-7000-8000-{tenant:012}'\nslug = 'crowd_{tenant}'\n\
                 [[tenant.placement]]\nmodule = '{DATABASE}'\nschema = 'crowd_{tenant}'\n\
                 [[tenant.login]]\nlogin = 'app'\nrole = 'crowd_{tenant}'\nverifier = '{verifier}'\n",
                verifier = place.verifier,
            )?;
        }
        Ok(registry)
    }
}

/// The file with which pools that tenants have in common are opened.
pub(crate) fn service_secret(place: &Place) -> Result<PathBuf> {
    place.write("service.json", &format!(r#"{{"app_username": "{ROLE}", "app_password": "{PASSWORD}"}}"#))
}
