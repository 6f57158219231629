//! What TLS costs the proxy: for each query, and for each login.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use pgtenant::net::tls::client_config;
use pgtenant::tenant::SslMode;
use rustls::ClientConfig;

use crate::client::{self, Client};
use crate::load;
use crate::place::Place;
use crate::report::{Found, Row, micros_each};
use crate::target::{Settings, Target};

const CLIENTS: usize = 16;
/// Queries of each client in one round.
const TIMES: usize = 1_000;
/// Logins in one round, by so many clients at a time.
const LOGINS: usize = 800;
const LOGINS_TOGETHER: usize = 4;

/// CPU of either way, and of how many.
#[derive(Default)]
struct Used {
    cpu: Duration,
    count: u64,
}

impl Used {
    fn add(&mut self, target: &Target, work: impl FnOnce() -> Result<u64>) -> Result<()> {
        let before = target.cpu()?;
        self.count += work().with_context(|| target.said())?;
        self.cpu += target.cpu()?.saturating_sub(before);
        Ok(())
    }

    fn micros(&self) -> f64 {
        micros_each(self.cpu, self.count)
    }
}

/// pgtenant, then PgBouncer: the same with TLS and without, in turn.
pub(crate) fn measure(place: &Place, pgbouncer: &Path, rounds: usize) -> Result<Found> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).context("make a certificate")?;
    let certificate = place.write("certificate.pem", &made.cert.pem())?;
    let key = place.write("key.pem", &made.signing_key.serialize_pem())?;
    let (certificate, key) = (certificate.display(), key.display());
    let listen = format!("tls_certificate = '{certificate}'\ntls_key = '{key}'\n");
    let more =
        format!("client_tls_sslmode = allow\nclient_tls_cert_file = {certificate}\nclient_tls_key_file = {key}\n");
    let targets = [
        Target::pgtenant(place, "pgtenant", &Settings { listen: &listen, ..Settings::default() })?,
        Target::pgbouncer(place, pgbouncer, &more)?,
    ];
    let tls = client_config(SslMode::Require, None)?.context("TLS for clients")?;
    let mut found = Found::default();
    for target in &targets {
        found.rows.extend(compared(target, &tls, rounds)?);
    }
    found.notes.push(
        "TLS 1.3, an ECDSA certificate on P-256. Sessions are never resumed, as PostgreSQL's own are not (src/net/tls.rs), so that each login is \
         a whole handshake."
            .to_owned(),
    );
    Ok(found)
}

fn compared(target: &Target, tls: &Arc<ClientConfig>, rounds: usize) -> Result<[Row; 2]> {
    let ways = [None, Some(tls)];
    let query = client::query("SELECT abalance FROM pgbench_accounts WHERE aid = 7");
    let mut clients = [Vec::new(), Vec::new()];
    for (clients, tls) in clients.iter_mut().zip(ways) {
        for _ in 0..CLIENTS {
            clients.push(Client::login(&target.login, tls).with_context(|| target.said())?);
        }
        load::ask(clients, CLIENTS, TIMES / 10, &query).with_context(|| target.said())?;
    }
    let (mut queries, mut logins) = <([Used; 2], [Used; 2])>::default();
    for round in 0..rounds {
        for way in if round.is_multiple_of(2) { [0, 1] } else { [1, 0] } {
            queries[way].add(target, || load::ask(&mut clients[way], CLIENTS, TIMES, &query))?;
            logins[way].add(target, || log_in_and_out(target, ways[way]))?;
        }
        eprintln!("TLS, {}: round {} of {rounds}", target.name, round + 1);
    }
    let row = |what: &str, [clear, encrypted]: &[Used; 2]| {
        let what = format!("CPU of {} for {what} under TLS, µs", target.name);
        Row::alone(what, encrypted.micros(), 1, "–").beside("in clear", clear.micros(), 1)
    };
    Ok([row("a query", &queries), row("a login", &logins)])
}

fn log_in_and_out(target: &Target, tls: Option<&Arc<ClientConfig>>) -> Result<u64> {
    let each = |share: usize| (0..share).try_for_each(|_| Client::login(&target.login, tls)?.leave());
    load::by_threads(vec![LOGINS / LOGINS_TOGETHER; LOGINS_TOGETHER], each)?;
    Ok(u64::try_from(LOGINS)?)
}
