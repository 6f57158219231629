//! The server, with a role and a schema for each of two tenants in one database, and a directory for the proxies' files.

use std::path::PathBuf;

use anyhow::Result;
use pgtenant::cluster::Cluster;

use crate::owner::{self, Owner};

pub(crate) const DATABASE: &str = "bench";
pub(crate) const PASSWORD: &str = "bench password";

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tenant {
    Crowd,
    Quiet,
}

impl Tenant {
    pub(crate) const ALL: [Self; 2] = [Self::Crowd, Self::Quiet];

    /// Its slug, its role and its schema.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Crowd => "crowd",
            Self::Quiet => "quiet",
        }
    }
}

/// Where everything happens.
pub(crate) struct Place {
    pub(crate) cluster: Cluster,
    /// What the server stores of each tenant's password.
    pub(crate) verifiers: [String; 2],
    pub(crate) version: String,
    pub(crate) dir: PathBuf,
    /// User and group that the proxies run as, where we are root (PgBouncer refuses root).
    pub(crate) owner: Owner,
}

impl Place {
    /// A server with room for what each of the three proxies may open and keeps, and for hardly more.
    pub(crate) async fn make(connections: u32) -> Result<Self> {
        let most = (3 * connections + 10).to_string();
        let cluster = Cluster::builder().setting("max_connections", &most).start().await?;
        let admin = cluster.connect("postgres").await?;
        admin.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        let inside = cluster.connect(DATABASE).await?;
        let mut verifiers = [String::new(), String::new()];
        for (tenant, verifier) in Tenant::ALL.into_iter().zip(&mut verifiers) {
            let name = tenant.name();
            inside.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")).await?;
            inside.batch_execute(&format!("CREATE SCHEMA {name} AUTHORIZATION {name}")).await?;
            let stored = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1";
            *verifier = inside.query_one(stored, &[&name]).await?.get(0);
        }
        let version = admin.query_one("SHOW server_version", &[]).await?.get(0);
        let owner = owner::owner()?;
        let dir = owner::directory(&cluster, owner)?;
        Ok(Self { cluster, verifiers, version, dir, owner })
    }

    /// Writes a file for the proxies.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<()> {
        owner::write(&self.dir, self.owner, name, content).map(drop)
    }
}
