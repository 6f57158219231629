//! Tenants, requests and TLS for this folder's tests.

use std::io;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::identify::Request;
use super::names::Source;
use crate::net::{ServerTls, Stream, server_name, tls};
use crate::tenant::{
    Alias, Isolation, Login, Placement, Pooling, Server, Slug, SslMode, Tenant, TenantId, TenantStatus, Terms,
};

/// An active tenant with a login `app` and a place for each module, which also goes by `old_<module>`.
pub(crate) fn tenant(slug: &str, modules: &[&str]) -> Tenant {
    let server = Arc::new(Server {
        name: "main".parse().unwrap(),
        host: "localhost".to_owned(),
        port: 5432,
        sslmode: SslMode::Disable,
        ca_file: None,
        max_connections: None,
        admin_secret: None,
        app_secret: None,
    });
    let place = |module: &&str| {
        let terms = Terms {
            module: module.parse().unwrap(),
            module_aliases: vec![format!("old_{module}")],
            isolation: Isolation::Schema,
            pooling: Pooling::PerTenant,
            pool_mode: None,
            pool_size: None,
            search_path_extra: Vec::new(),
            tenant_parameter: None,
            set_role: false,
        };
        Arc::new(Placement {
            terms: Arc::new(terms),
            server: Arc::clone(&server),
            database: "tenants".parse().unwrap(),
            schema: Some(format!("{slug}_{module}").into()),
            role: None,
            ready: true,
        })
    };
    Tenant {
        id: TenantId(Uuid::new_v4()),
        slug: Slug::parse(slug).unwrap(),
        name: slug.to_owned(),
        status: TenantStatus::Active,
        sessions_end: None,
        aliases: vec![Alias::parse(&format!("krn:{slug}:prod")).unwrap()],
        allow: Vec::new(),
        default_module: None,
        placements: modules.iter().map(place).collect(),
        limits: Arc::default(),
        logins: vec![login(slug, "app")],
        generation: 1,
    }
}

/// A login whose password nobody knows.
pub(crate) fn login(slug: &str, login: &str) -> Login {
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let verifier = Some(format!("SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==${zeros}:{zeros}"));
    Login { login: login.to_owned(), role: format!("{slug}_{login}"), verifier }
}

/// A request of a login, with nothing else in it.
pub(crate) fn request(login: &str) -> Request {
    Request {
        login: login.to_owned(),
        user: login.to_owned(),
        database: String::new(),
        settings: Vec::new(),
        replication: None,
        source: Source::User,
    }
}

/// The server side's TLS, for `localhost`.
pub(crate) fn certificate() -> Arc<ServerTls> {
    let directory = tempfile::tempdir().unwrap();
    let [certificate_path, key_path] = ["crt", "key"].map(|name| directory.path().join(name));
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(&certificate_path, certificate.pem()).unwrap();
    std::fs::write(&key_path, key.serialize_pem()).unwrap();
    tls::server_config(&certificate_path, &key_path, None).unwrap()
}

/// A client's side of TLS, with or without ALPN.
pub(crate) async fn encrypt(client: TcpStream, alpn: Option<&[u8]>) -> io::Result<Stream> {
    let mut config = (*tls::client_config(SslMode::Require, None).unwrap().unwrap()).clone();
    config.alpn_protocols = alpn.into_iter().map(<[u8]>::to_vec).collect();
    Stream::from_tcp(client).connect_tls(server_name("localhost").unwrap(), Arc::new(config)).await
}
