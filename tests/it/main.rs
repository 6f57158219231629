//! Everything that needs real PostgreSQL, or more than one room, in one binary: a file per subject.

#[cfg(test)]
mod addresses;
#[cfg(test)]
mod backend;
#[cfg(test)]
mod balancer;
#[cfg(test)]
mod cancel;
#[cfg(test)]
mod carried;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod console;
#[cfg(test)]
mod conversation;
#[cfg(test)]
mod copy;
#[cfg(test)]
mod default_tenant;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod edges;
#[cfg(test)]
mod fairness;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod hazards;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http;
#[cfg(test)]
mod instances;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod migrate;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod plays;
#[cfg(test)]
mod pooling;
#[cfg(test)]
mod prepared;
#[cfg(test)]
mod provision;
#[cfg(test)]
mod psql;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod registry_e2e;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod shared_pool;
#[cfg(test)]
mod startup;
#[cfg(test)]
mod support;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod tenant_limits;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod unnamed;
#[cfg(test)]
mod verify;
