//! The first packet of a connection, and a balancer's word in front of it: its header, cancel keys, parameters, `options`, and which tenant all that names.

#![no_main]

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pgtenant::frontend::{Directory, IdentifyConfig, identify};
use pgtenant::protocol::{
    Announced, CancelKey, PROXY_HEADER_BYTES, ProxyHeader, STARTUP_BYTES_MAX, STARTUP_HEADER_BYTES, Startup,
    parse_options,
};
use pgtenant::tenant::{Tenant, TenantName};

/// Knows nobody, and answers at once.
struct Nobody;

impl Directory for Nobody {
    type Unavailable = Infallible;

    async fn lookup(&self, _name: &TenantName) -> Result<Option<Arc<Tenant>>, Infallible> {
        Ok(None)
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((first, rest)) = bytes.split_first_chunk::<PROXY_HEADER_BYTES>()
        && let Ok(header) = ProxyHeader::parse(first)
    {
        let _ = header.source(rest);
    }
    let Some((header, rest)) = bytes.split_first_chunk::<STARTUP_HEADER_BYTES>() else { return };
    match Announced::parse(*header) {
        Ok(Announced::Cancel { rest: announced }) => {
            assert!(announced <= STARTUP_BYTES_MAX);
            let _ = CancelKey::parse(rest);
        }
        Ok(Announced::Startup { version, rest: announced }) => {
            assert!(announced <= STARTUP_BYTES_MAX);
            let Ok(startup) = Startup::parse(version, rest) else { return };
            agrees_with_its_encoding(&startup, version);
            names_someone(&startup);
        }
        Ok(Announced::SslRequest | Announced::GssEncRequest) | Err(_) => {}
    }
});

fn agrees_with_its_encoding(startup: &Startup, version: u32) {
    let mut encoded = BytesMut::new();
    startup.encode(&mut encoded);
    assert_eq!(Startup::parse(version, &encoded[STARTUP_HEADER_BYTES..]).as_ref(), Ok(startup));
}

fn names_someone(startup: &Startup) {
    for (_, value) in &startup.parameters {
        let _ = parse_options(value);
    }
    let config = IdentifyConfig {
        sni_suffix: Some("db.example.com".to_owned()),
        database_separator: Some("/".to_owned()),
        ..IdentifyConfig::default()
    };
    let found = pin!(identify(&startup.parameters, startup.get("host"), &config, &Nobody));
    let Poll::Ready(found) = found.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("waits for nothing");
    };
    if let Err(error) = found {
        let _ = error.report().map(|report| report.to_bytes());
    }
}
