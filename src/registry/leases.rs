//! What the instances over one registry have of the connections of servers with a bound, written down there.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::admin::Parameter;
use super::database::Database;
use super::error::RegistryError;
use super::queries;
use crate::tenant::ServerName;

/// What an instance says of all servers that it has pools for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// New with each start.
    pub instance: Uuid,
    /// Higher each time: what arrives after a later one does nothing.
    pub turn: i64,
    /// It drains.
    pub leaving: bool,
    /// Of each server.
    pub wishes: Vec<Wish>,
}

/// What an instance says of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The server.
    pub server: ServerName,
    /// Connections that it has or may open before it hears the answer.
    pub held: u32,
    /// Connections that it has use for.
    pub need: u32,
    /// Connections that it would like to have.
    pub ask: u32,
}

/// What all instances have of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leases {
    /// The server.
    pub server: ServerName,
    /// Most connections of all together.
    pub most: u32,
    /// The same for all who ask within the same few seconds, and another afterwards.
    pub period: u64,
    /// By instance.
    pub all: Vec<Lease>,
}

/// What one instance has of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub instance: Uuid,
    /// Most connections.
    pub connections: u32,
    /// What it last had use for.
    pub need: u32,
    /// It drains.
    pub leaving: bool,
}

impl Database {
    /// Renews leases for this long; what all instances have of these servers. A server that has no bound, or is not there, is left out.
    pub(super) async fn lease(&self, ask: &Ask, ttl: Duration) -> Result<Vec<Leases>, RegistryError> {
        let doing = "lease connections of servers";
        let number = |of: fn(&Wish) -> u32| -> Vec<i32> {
            ask.wishes.iter().map(|wish| i32::try_from(of(wish)).unwrap_or(i32::MAX)).collect()
        };
        let servers: Vec<_> = ask.wishes.iter().map(|wish| wish.server.as_str()).collect();
        let (held, needs, asks) = (number(|wish| wish.held), number(|wish| wish.need), number(|wish| wish.ask));
        let seconds = ttl.as_secs_f64();
        let parameters: [Parameter<'_>; 8] = [
            (&ask.instance, Type::UUID),
            (&ask.turn, Type::INT8),
            (&seconds, Type::FLOAT8),
            (&ask.leaving, Type::BOOL),
            (&servers, Type::TEXT_ARRAY),
            (&held, Type::INT4_ARRAY),
            (&needs, Type::INT4_ARRAY),
            (&asks, Type::INT4_ARRAY),
        ];
        // Whoever is not heard for longer than the lease holds has none any more.
        let deadline = Instant::now() + self.timeout().min(ttl / 3);
        let rows = self.query(deadline, doing, queries::LEASE, &parameters).await?;
        let read = |row| read(ask, row).map_err(|source| RegistryError::Query { doing, source });
        let mut servers: Vec<Leases> = Vec::new();
        for (server, lease) in rows.iter().map(read).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
            match servers.last_mut().filter(|last| last.server == server.server) {
                Some(last) => last.all.push(lease),
                None => servers.push(Leases { all: vec![lease], ..server }),
            }
        }
        Ok(servers)
    }

    /// Gives an instance's leases back.
    pub(super) async fn end_leases(&self, id: Uuid) -> Result<(), RegistryError> {
        let deadline = Instant::now() + self.timeout();
        self.query(deadline, "give leases back", queries::END_LEASES, &[(&id, Type::UUID)]).await.map(drop)
    }
}

/// One lease, of one of the servers that were asked for.
fn read(ask: &Ask, row: &Row) -> Result<Option<(Leases, Lease)>, tokio_postgres::Error> {
    let number = |at| row.try_get::<_, i32>(at).map(|number| u32::try_from(number).unwrap_or(0));
    let (server, period): (&str, i64) = (row.try_get(0)?, row.try_get(2)?);
    let Some(wish) = ask.wishes.iter().find(|wish| wish.server.as_str() == server) else { return Ok(None) };
    let of_all =
        Leases { server: wish.server.clone(), most: number(1)?, period: period.unsigned_abs(), all: Vec::new() };
    let lease =
        Lease { instance: row.try_get(3)?, connections: number(4)?, need: number(5)?, leaving: row.try_get(6)? };
    Ok(Some((of_all, lease)))
}
