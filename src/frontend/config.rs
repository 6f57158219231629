//! Settings of the side that faces clients.

use std::path::PathBuf;

use serde::Deserialize;

use crate::address::Network;
use crate::net::EngineChoice;

/// Whether clients may, or must, use TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientTls {
    /// SSLRequest is answered with `N`.
    Disable,
    /// TLS for those who ask.
    Prefer,
    /// Clients without TLS are refused (TCP only; Unix sockets never use TLS).
    Require,
}

/// `[listen]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenConfig {
    /// TCP address and port; port 0 takes a free one. Empty: no TCP.
    pub address: String,
    /// Directory for a Unix socket `.s.PGSQL.<port>`; none when absent.
    pub unix_socket_dir: Option<PathBuf>,
    /// Most client connections at one time, logins in progress included.
    pub max_clients: u32,
    /// Whether clients may use TLS. `prefer` without a certificate means none.
    pub tls: ClientTls,
    /// Certificate chain (PEM).
    pub tls_certificate: Option<PathBuf>,
    /// Private key (PEM).
    pub tls_key: Option<PathBuf>,
    /// Certificate authorities for client certificates (PEM).
    pub client_ca: Option<PathBuf>,
    /// Threads that relay; 0 means one a core.
    pub threads: usize,
    /// What moves their bytes.
    pub engine: EngineChoice,
    /// Balancers, which must begin each connection with a header of the PROXY protocol, version 2; nobody else's is believed.
    pub proxy_protocol_from: Vec<Network>,
    /// Whether another process may listen on the same address and port, as its successor.
    pub reuse_port: bool,
    /// Where the other instances over the same registry reach this one, to pass on cancel requests; they do not when absent.
    pub peer_address: Option<String>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:6432".to_owned(),
            unix_socket_dir: None,
            max_clients: 10_000,
            tls: ClientTls::Prefer,
            tls_certificate: None,
            tls_key: None,
            client_ca: None,
            threads: 0,
            engine: EngineChoice::Auto,
            proxy_protocol_from: Vec::new(),
            reuse_port: false,
            peer_address: None,
        }
    }
}

/// What happens to clients that name no tenant, where a default tenant is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultTenantPhase {
    /// They are the default tenant's.
    Allow,
    /// The same, with a NOTICE to the client, a log line and a counter.
    Warn,
    /// They are refused.
    Refuse,
}

/// `[identify]` of the configuration file: how a connection names its tenant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentifyConfig {
    /// Startup parameters (and names inside `options`) that name the tenant; `pgtenant.tenant` always does.
    pub parameters: Vec<String>,
    /// What separates login and tenant in a user name, in the order tried.
    pub separators: Vec<String>,
    /// Domain under which the first label of the TLS server name is a tenant; off when absent.
    pub sni_suffix: Option<String>,
    /// What separates tenant and module in a database name; off when absent.
    pub database_separator: Option<String>,
    /// The tenant of clients that name none.
    pub default_tenant: Option<String>,
    /// What happens to clients that name none.
    pub default_tenant_phase: DefaultTenantPhase,
    /// Whether `replication` may be asked for (on per-tenant placements, in session mode).
    pub allow_replication: bool,
}

impl Default for IdentifyConfig {
    fn default() -> Self {
        Self {
            parameters: vec!["tenant".to_owned()],
            separators: vec!["@".to_owned(), ".".to_owned()],
            sni_suffix: None,
            database_separator: None,
            default_tenant: None,
            default_tenant_phase: DefaultTenantPhase::Allow,
            allow_replication: false,
        }
    }
}
