//! The instances over one registry, as they know of each other: each says now and then where it is, and hears where the others are.

use std::net::SocketAddr;

use tokio::time::Instant;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::admin::Parameter;
use super::database::Database;
use super::error::RegistryError;
use super::queries;

/// A running proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// New with each start.
    pub id: Uuid,
    /// Where the others reach it.
    pub address: SocketAddr,
}

impl Database {
    /// Says that an instance is there; where the others are.
    pub(super) async fn meet(&self, own: &Instance) -> Result<Vec<SocketAddr>, RegistryError> {
        let address = own.address.to_string();
        let parameters: [Parameter<'_>; 2] = [(&own.id, Type::UUID), (&address, Type::TEXT)];
        let doing = "meet the other instances";
        let rows = self.query(Instant::now() + self.timeout(), doing, queries::MEET, &parameters).await?;
        let others = rows.iter().map(|row| row.try_get::<_, &str>(0));
        let others = others.collect::<Result<Vec<_>, _>>().map_err(|source| RegistryError::Query { doing, source })?;
        Ok(others.iter().filter_map(|address| address.parse().ok()).collect())
    }

    /// Says that an instance is no more.
    pub(super) async fn leave(&self, id: Uuid) -> Result<(), RegistryError> {
        let deadline = Instant::now() + self.timeout();
        self.query(deadline, "leave the other instances", queries::LEAVE, &[(&id, Type::UUID)]).await.map(drop)
    }
}
