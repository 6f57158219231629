//! Connections to the registry database: a pool whose `search_path` is `pg_catalog` and that no client's parameter reaches.

use std::path::PathBuf;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::NoTls;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::RegistryError;
use crate::net::tls::client_config;
use crate::tenant::{NameError, SslMode};

/// How to reach the registry database.
#[derive(Clone)]
pub(super) struct Target {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
}

impl Target {
    /// Reads a connection URL or `key=value` string; `sslmode` and `sslrootcert` mean what they mean to libpq.
    pub(super) fn parse(url: &str, timeout: Duration) -> Result<Self, RegistryError> {
        let (mut config, mode, authorities) = connection_settings(url)?;
        config.ssl_mode(match mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        });
        // Last, so that it wins over whatever the URL's own options say.
        let options = config.get_options().unwrap_or_default().to_owned();
        config.options(format!("{options} -c search_path=pg_catalog").trim_start());
        if config.get_application_name().is_none() {
            config.application_name("pgtenant registry");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(timeout);
        }
        config.keepalives_idle(Duration::from_secs(15)).tcp_user_timeout(timeout.max(Duration::from_secs(10)));
        let tls = client_config(mode, authorities.as_deref()).map_err(RegistryError::Tls)?;
        Ok(Self { config, tls: tls.map(|tls| MakeRustlsConnect::new((*tls).clone())) })
    }

    pub(super) const fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub(super) fn tls(&self) -> Option<MakeRustlsConnect> {
        self.tls.clone()
    }

    /// Which database it is: hosts, ports and name, without user and password.
    pub(super) fn identity(&self) -> String {
        let dbname = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!(
            "{:?} {:?} {:?} {dbname}",
            self.config.get_hosts(),
            self.config.get_hostaddrs(),
            self.config.get_ports()
        )
    }

    /// A pool of at most `size` connections.
    pub(super) fn pool(&self, size: usize, timeout: Duration) -> Result<Pool, RegistryError> {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match &self.tls {
            Some(tls) => Manager::from_config(self.config.clone(), tls.clone(), recycling),
            None => Manager::from_config(self.config.clone(), NoTls, recycling),
        };
        Pool::builder(manager)
            .max_size(size.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(timeout))
            .create_timeout(Some(timeout))
            .recycle_timeout(Some(timeout))
            .build()
            .map_err(RegistryError::Build)
    }
}

/// Whether a connection string is well-formed; connects to nothing and reads no file.
///
/// # Errors
/// What is wrong with it, without its text, which may hold a password.
pub fn check_url(url: &str) -> Result<(), RegistryError> {
    connection_settings(url).map(drop)
}

/// What a connection string says: TLS mode and authorities apart from the rest.
///
/// # Errors
/// As [`check_url`].
pub fn connection_settings(url: &str) -> Result<(tokio_postgres::Config, SslMode, Option<PathBuf>), RegistryError> {
    let (rest, ssl) = split_ssl(url);
    let mode = match &ssl.mode {
        // "allow" asks for TLS only where plain is refused; "prefer" is never less safe.
        Some(word) if word == "allow" => SslMode::Prefer,
        Some(word) => word
            .parse::<SslMode>()
            .map_err(|source: NameError| RegistryError::UrlParameter { parameter: "sslmode", source })?,
        None => SslMode::Prefer,
    };
    Ok((rest.parse().map_err(RegistryError::Url)?, mode, ssl.root_certificates))
}

/// libpq's TLS parameters, more of them than tokio-postgres reads.
#[derive(Default)]
struct Ssl {
    mode: Option<String>,
    root_certificates: Option<PathBuf>,
}

impl Ssl {
    /// Takes a parameter that is its own.
    fn take(&mut self, key: &str, value: &str) -> bool {
        match key {
            "sslmode" => self.mode = Some(value.to_owned()),
            "sslrootcert" => self.root_certificates = (value != "system").then(|| PathBuf::from(value)),
            _ => return false,
        }
        true
    }
}

/// Takes `sslmode` and `sslrootcert` out of a connection string of either form.
fn split_ssl(url: &str) -> (String, Ssl) {
    let mut ssl = Ssl::default();
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), ssl) };
        let keep = |pair: &&str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            !ssl.take(key, &percent_decoded(value))
        };
        let rest: Vec<&str> = query.split('&').filter(keep).collect();
        let rest = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        return (rest, ssl);
    }
    let keep = |word: &&str| match word.split_once('=') {
        Some((key, value)) => !ssl.take(key.trim(), value.trim().trim_matches('\'')),
        None => true,
    };
    let rest: Vec<&str> = words(url).into_iter().filter(keep).collect();
    (rest.join(" "), ssl)
}

/// The `key=value` words of a connection string; quotes and backslashes may hold spaces together.
fn words(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                words.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    words.push(&text[start..]);
    words.retain(|word| !word.is_empty());
    words
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libpqs_tls_parameters_are_read_in_both_forms() {
        let (rest, ssl) =
            split_ssl("postgres://u:p@h/d?sslmode=verify-full&application_name=x&sslrootcert=%2Fa%20b.pem");
        assert_eq!(rest, "postgres://u:p@h/d?application_name=x");
        assert_eq!(ssl.mode.as_deref(), Some("verify-full"));
        assert_eq!(ssl.root_certificates, Some(PathBuf::from("/a b.pem")));
        let (rest, ssl) = split_ssl("host=h password='a b\\' c' sslmode=require");
        assert_eq!(rest, "host=h password='a b\\' c'");
        assert_eq!(ssl.mode.as_deref(), Some("require"));
    }

    #[test]
    fn the_search_path_is_pg_catalog_whatever_the_url_says() {
        let target = Target::parse("postgres://h/d?options=-c%20search_path%3Devil", Duration::from_secs(1)).unwrap();
        assert_eq!(target.config.get_options(), Some("-c search_path=evil -c search_path=pg_catalog"));
        assert!(Target::parse("postgres://h/d?sslmode=perhaps", Duration::from_secs(1)).is_err());
    }
}
