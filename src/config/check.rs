//! What a configuration must fulfil beyond the types of its values.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::file::Config;
use crate::frontend::ClientTls;
use crate::registry;
use crate::telemetry;
use crate::tenant::TenantName;

/// A suspended tenant is out within a second only if changes are looked for at least this often.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(500);
/// Leases are renewed every second: shorter ones would end whenever the registry takes a moment.
const LEASE_TTL_MIN: Duration = Duration::from_secs(3);

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as `section.key`.
    pub key: &'static str,
    /// What is asked of its value.
    pub text: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.text)
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn unless(&mut self, holds: bool, key: &'static str, text: &'static str) {
        if !holds {
            self.0.push(Problem { key, text });
        }
    }

    fn positive<T: PartialEq + Default>(&mut self, key: &'static str, value: &T) {
        self.unless(*value != T::default(), key, "must be greater than zero");
    }
}

/// Everything that is wrong; empty when all is well.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    listen(config, &mut problems);
    registry(config, &mut problems);
    identify(config, &mut problems);
    limits(config, &mut problems);
    administration(config, &mut problems);
    problems.0
}

fn listen(config: &Config, problems: &mut Problems) {
    let listen = &config.listen;
    let socket = listen.unix_socket_dir.is_some();
    problems.unless(!listen.address.is_empty() || socket, "listen.address", "must be given, or listen.unix_socket_dir");
    let address = listen.address.is_empty() || is_address(&listen.address);
    problems.unless(address, "listen.address", "must be HOST:PORT, such as 127.0.0.1:6432 or [::]:6432");
    problems.positive("listen.max_clients", &listen.max_clients);
    let everywhere = |address: &str| ["0.0.0.0:", "[::]:", "*:"].iter().any(|host| address.starts_with(host));
    let reachable = listen.peer_address.as_deref().is_none_or(|address| is_address(address) && !everywhere(address));
    problems.unless(
        reachable,
        "listen.peer_address",
        "must be an address of this machine that the others reach, and a port, such as 10.0.0.5:0",
    );
    let (certificate, key) = (listen.tls_certificate.is_some(), listen.tls_key.is_some());
    problems.unless(certificate == key, "listen.tls_certificate", "and listen.tls_key must be given together");
    let possible = listen.tls != ClientTls::Require || certificate;
    problems.unless(possible, "listen.tls", "= \"require\" needs listen.tls_certificate and listen.tls_key");
    let authority = listen.client_ca.is_none() || certificate;
    problems.unless(authority, "listen.client_ca", "needs listen.tls_certificate and listen.tls_key");
    readable(problems, "listen.tls_certificate", listen.tls_certificate.as_deref());
    readable(problems, "listen.tls_key", listen.tls_key.as_deref());
    readable(problems, "listen.client_ca", listen.client_ca.as_deref());
    let is_dir = listen.unix_socket_dir.as_deref().is_none_or(Path::is_dir);
    problems.unless(is_dir, "listen.unix_socket_dir", "must be a directory that exists");
}

fn registry(config: &Config, problems: &mut Problems) {
    let registry = &config.registry;
    let chosen = registry.url.is_some() || registry.file.is_some();
    problems.unless(chosen, "registry.url", "or registry.file must be given (or PGTENANT_REGISTRY, a URL or a file)");
    let both = registry.url.is_some() && registry.file.is_some();
    problems.unless(!both, "registry.url", "and registry.file exclude each other; give one");
    let url = registry.url.as_deref().is_none_or(|url| registry::check_url(url).is_ok());
    problems.unless(
        url,
        "registry.url",
        "must be a connection URL such as postgres://user:password@host:5432/registry",
    );
    problems.positive("registry.cache_size", &registry.cache_size);
    problems.positive("registry.pool_size", &registry.pool_size);
    problems.positive("registry.timeout", &registry.timeout);
    problems.positive("registry.poll_interval", &registry.poll_interval);
    let reconciled = registry.reconcile_interval.is_zero() || registry.url.is_some();
    problems.unless(
        reconciled,
        "registry.reconcile_interval",
        "needs registry.url: a registry file is changed by nobody",
    );
    let often = registry.poll_interval <= POLL_INTERVAL_MAX;
    problems.unless(
        often,
        "registry.poll_interval",
        "must be at most 500ms, so that a suspension holds within a second",
    );
    let lasting = registry.lease_ttl >= LEASE_TTL_MIN;
    problems.unless(lasting, "registry.lease_ttl", "must be at least 3s: leases are renewed every second");
}

fn identify(config: &Config, problems: &mut Problems) {
    let identify = &config.identify;
    let parameters = identify.parameters.iter().all(|name| !name.is_empty());
    problems.unless(parameters, "identify.parameters", "must not hold an empty name");
    let separators = identify.separators.iter().all(|separator| !separator.is_empty());
    problems.unless(separators, "identify.separators", "must not hold an empty separator");
    let suffix = identify.sni_suffix.as_deref().is_none_or(|suffix| !suffix.trim_matches('.').is_empty());
    problems.unless(suffix, "identify.sni_suffix", "must be a domain such as db.example.com");
    let separator = identify.database_separator.as_deref().is_none_or(|separator| !separator.is_empty());
    problems.unless(separator, "identify.database_separator", "must not be empty");
    let tenant = identify.default_tenant.as_deref().is_none_or(|name| TenantName::parse(name).is_ok());
    problems.unless(tenant, "identify.default_tenant", "must be the id, slug or an alias of a tenant");
}

fn limits(config: &Config, problems: &mut Problems) {
    let pool = &config.pool;
    problems.positive("pool.size", &pool.size);
    problems.positive("pool.max_pools", &pool.max_pools);
    problems.positive("pool.checkout_timeout", &pool.checkout_timeout);
    problems.positive("pool.health_check_interval", &pool.health_check_interval);
    problems.positive("pool.connect_timeout", &pool.connect_timeout);
    problems.positive("pool.connect_concurrency", &pool.connect_concurrency);
    problems.positive("pool.queue_length_max", &pool.queue_length_max);
    problems.positive("limits.weight", &config.limits.weight);
    problems.positive("timeouts.login", &config.timeouts.login);
}

fn administration(config: &Config, problems: &mut Problems) {
    let users = &config.console.users;
    let named = users.iter().all(|user| !user.name.is_empty());
    problems.unless(named, "console.users", "must not hold an empty name");
    let distinct = users.iter().map(|user| &user.name).collect::<HashSet<_>>().len() == users.len();
    problems.unless(distinct, "console.users", "must not hold the same name twice");
    let address = config.http.address.is_empty() || is_address(&config.http.address);
    problems.unless(address, "http.address", "must be HOST:PORT, such as 127.0.0.1:9432, or empty for none");
    let token = config.http.token.as_ref().is_none_or(|token| !token.expose().is_empty());
    problems.unless(token, "http.token", "must not be empty; leave it out for none");
    problems.unless(
        telemetry::is_level(&config.log.level),
        "log.level",
        "must be error, warn, info, debug, trace or a filter such as info,pgtenant::pool=debug",
    );
}

/// Whether it is `host:port`; the host itself is looked at when it is bound.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
    })
}

fn readable(problems: &mut Problems, key: &'static str, path: Option<&Path>) {
    let opens = path.is_none_or(|path| std::fs::File::open(path).is_ok());
    problems.unless(opens, key, "must be a file that pgtenant can read");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Verifier;

    fn keys(text: &str) -> Vec<&'static str> {
        problems(&toml::from_str(text).unwrap()).iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn exactly_one_registry_must_be_given() {
        assert_eq!(keys(""), ["registry.url"]);
        assert_eq!(keys("registry = { url = 'postgres://h/d', file = 'x' }"), ["registry.url"]);
        assert_eq!(keys("registry = { file = 'x' }"), [""; 0]);
        assert_eq!(keys("registry = { file = 'x', reconcile_interval = '5s' }"), ["registry.reconcile_interval"]);
        assert_eq!(keys("registry = { url = 'postgres://h:port/d' }"), ["registry.url"]);
    }

    #[test]
    fn tls_needs_a_certificate_with_its_key() {
        assert_eq!(keys("registry.file = 'x'\nlisten.tls = 'require'"), ["listen.tls"]);
        let missing = "registry.file = 'x'\n[listen]\ntls_certificate = '/nowhere/c'\nclient_ca = '/'";
        assert_eq!(keys(missing), ["listen.tls_certificate", "listen.tls_certificate"]);
    }

    #[test]
    fn sizes_and_waits_are_not_zero() {
        let text = "[registry]\nfile = 'x'\npoll_interval = '1s'\npool_size = 0\n\
                    [pool]\nsize = 0\nconnect_timeout = '0s'\n[timeouts]\nlogin = '0s'\nstatement = '0s'";
        let expected =
            ["registry.pool_size", "registry.poll_interval", "pool.size", "pool.connect_timeout", "timeouts.login"];
        assert_eq!(keys(text), expected);
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["127.0.0.1:0", "[::1]:6432", "localhost:6432"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["6432", ":6432", "::1:6432", "localhost", "localhost:65536", "localhost:"] {
            assert!(!is_address(bad), "{bad}");
        }
        assert_eq!(keys("registry.file = 'x'\nlisten.address = ''"), ["listen.address"]);
    }

    #[test]
    fn console_users_are_distinct() {
        let verifier = Verifier::generate("x", 4096);
        let user = format!("[[console.users]]\nname = 'a'\nverifier = '{verifier}'\nrole = 'admin'\n");
        assert_eq!(keys(&format!("registry.file = 'x'\n{user}")), [""; 0]);
        assert_eq!(keys(&format!("registry.file = 'x'\n{user}{user}")), ["console.users"]);
    }
}
