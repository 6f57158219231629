//! References to secrets kept elsewhere (`env:NAME`, `file:PATH`), and what is read from them.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Map, Value};
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::error::SecretError;
use super::keys::Secret;

/// Longest content of a secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Where a secret is kept; holds nothing of it, and may be stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// An environment variable of this process.
    Env(String),
    /// A file, read anew each time.
    File(PathBuf),
    /// A path in Vault; not served yet.
    Vault(String),
}

/// Whose credentials of a database are meant. The data plane asks for `App` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The service's own login, with rights on data only.
    App,
    /// The login that may change schemas and roles.
    Admin,
}

impl Part {
    const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a secret says about one part: how to log in, and perhaps where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The role to log in as.
    pub user: String,
    /// Its password, if it needs one.
    pub password: Option<Secret>,
    /// The server's host name, address or socket directory.
    pub host: Option<String>,
    /// The server's port.
    pub port: Option<u16>,
    /// The database to connect to.
    pub database: Option<String>,
}

impl FromStr for SecretRef {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            Some(("vault", path)) if !path.is_empty() => Ok(Self::Vault(path.to_owned())),
            _ => Err(SecretError::Form),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Vault(path) => write!(f, "vault:{path}"),
        }
    }
}

impl SecretRef {
    /// Reads the secret and takes one part out of it. The content is a `postgres://user:password@…` URL (the same for both
    /// parts), or JSON: `{"app_username", "app_password", "admin_username", "admin_password", "host", "port", "database"}`,
    /// the parts also as `{"app": {"username", "password"}, "admin": {…}}`.
    ///
    /// # Errors
    /// A [`SecretError`]; it holds the reference and nothing of the content.
    pub async fn resolve(&self, part: Part) -> Result<Credentials, SecretError> {
        let content = match self {
            Self::Env(name) => {
                // Not `env::var`, whose error would hold the content.
                let content = std::env::var_os(name).ok_or_else(|| SecretError::Environment { name: name.clone() })?;
                let content = Zeroizing::new(content.into_string().map_err(|_| self.content())?);
                if content.len() as u64 > SECRET_BYTES_MAX { Err(self.too_long()) } else { Ok(content) }
            }
            Self::File(path) => self.read(path).await,
            Self::Vault(_) => Err(SecretError::Vault { reference: self.to_string() }),
        }?;
        let content = content.trim();
        if content.starts_with("postgres://") || content.starts_with("postgresql://") {
            self.parse_url(content, part)
        } else {
            self.parse_json(content, part)
        }
    }

    async fn read(&self, path: &Path) -> Result<Zeroizing<String>, SecretError> {
        let failed = |source| SecretError::File { path: path.to_owned(), source };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let mode = file.metadata().await.map_err(failed)?.permissions().mode();
        if mode & 0o007 != 0 {
            tracing::warn!(path = %path.display(), mode = %format_args!("{:o}", mode & 0o777), "secret file is open to others");
        }
        let mut content = Zeroizing::new(String::new());
        file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut content).await.map_err(failed)?;
        if content.len() as u64 > SECRET_BYTES_MAX { Err(self.too_long()) } else { Ok(content) }
    }

    fn parse_url(&self, url: &str, part: Part) -> Result<Credentials, SecretError> {
        use tokio_postgres::config::Host;
        // The parser's error may quote the URL, so it is dropped.
        let config: tokio_postgres::Config = url.parse().map_err(|_| self.content())?;
        let password = match config.get_password() {
            None => None,
            Some(bytes) => Some(std::str::from_utf8(bytes).map_err(|_| self.content())?.to_owned().into()),
        };
        Ok(Credentials {
            user: config.get_user().ok_or_else(|| self.no_user(part))?.to_owned(),
            password,
            host: config.get_hosts().first().map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(directory) => directory.display().to_string(),
            }),
            port: config.get_ports().first().copied(),
            database: config.get_dbname().map(str::to_owned),
        })
    }

    fn parse_json(&self, json: &str, part: Part) -> Result<Credentials, SecretError> {
        let root: Map<String, Value> = serde_json::from_str(json).map_err(|_| self.content())?;
        let nested = root.get(part.as_str()).and_then(Value::as_object);
        let word = part.as_str();
        let of_part = |names: [&str; 2]| {
            let nested = nested.and_then(|nested| names.iter().find_map(|name| nested.get(*name)));
            nested.or_else(|| root.get(&format!("{word}_{}", names[0])))
        };
        let common = |name: &str| nested.and_then(|nested| nested.get(name)).or_else(|| root.get(name));
        Ok(Credentials {
            user: self.text(of_part(["username", "user"]))?.ok_or_else(|| self.no_user(part))?,
            password: self.text(of_part(["password", "password"]))?.map(Secret::new),
            host: self.text(common("host"))?,
            port: self.port(common("port"))?,
            database: self.text(common("database"))?,
        })
    }

    /// A field that is text, or absent; an empty one counts as absent.
    fn text(&self, value: Option<&Value>) -> Result<Option<String>, SecretError> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok((!text.is_empty()).then(|| text.clone())),
            Some(_) => Err(self.content()),
        }
    }

    /// A port, as a number or (Vault stores strings gladly) as text.
    fn port(&self, value: Option<&Value>) -> Result<Option<u16>, SecretError> {
        let port = match value {
            Some(Value::Number(number)) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
            other => match self.text(other)? {
                None => return Ok(None),
                Some(text) => text.parse().ok(),
            },
        };
        port.filter(|port| *port != 0).map(Some).ok_or_else(|| self.content())
    }

    fn content(&self) -> SecretError {
        SecretError::Content { reference: self.to_string() }
    }

    fn no_user(&self, part: Part) -> SecretError {
        SecretError::NoUser { reference: self.to_string(), part }
    }

    fn too_long(&self) -> SecretError {
        SecretError::TooLong { reference: self.to_string(), max: SECRET_BYTES_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resolves a file with this content.
    async fn resolve(content: &str, part: Part) -> Result<Credentials, SecretError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, content).unwrap();
        let reference: SecretRef = format!("file:{}", path.display()).parse().unwrap();
        reference.resolve(part).await
    }

    #[test]
    fn a_reference_is_a_word_and_a_place() {
        for text in ["env:PG_ADMIN", "file:/run/secrets/pg", "vault:database/shared"] {
            assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
        }
        for text in ["", "env:", "env:A=B", "file:", "plain", "postgres://u:p@h/d", "s3:bucket"] {
            assert!(matches!(text.parse::<SecretRef>(), Err(SecretError::Form)), "{text}");
        }
    }

    #[tokio::test]
    async fn flat_json_has_both_parts_and_the_place() {
        let json = r#"{"admin_username": "boss", "admin_password": "a", "app_username": "svc", "app_password": "b",
            "host": "db.example", "port": "5433", "database": "erp"}"#;
        let admin = resolve(json, Part::Admin).await.unwrap();
        assert_eq!((admin.user.as_str(), admin.password.unwrap().expose()), ("boss", "a"));
        let app = resolve(json, Part::App).await.unwrap();
        assert_eq!((app.user.as_str(), app.password.as_ref().unwrap().expose()), ("svc", "b"));
        assert_eq!(
            (app.host.as_deref(), app.port, app.database.as_deref()),
            (Some("db.example"), Some(5433), Some("erp"))
        );
        assert!(!format!("{app:?}").contains("\"b\""));
    }

    #[tokio::test]
    async fn nested_json_keeps_the_parts_apart() {
        let json =
            r#"{"app": {"user": "svc", "password": "b", "database": "own"}, "port": 5432, "database": "common"}"#;
        let app = resolve(json, Part::App).await.unwrap();
        assert_eq!((app.user.as_str(), app.port, app.database.as_deref()), ("svc", Some(5432), Some("own")));
        assert!(matches!(resolve(json, Part::Admin).await, Err(SecretError::NoUser { part: Part::Admin, .. })));
    }

    #[tokio::test]
    async fn a_url_serves_both_parts_and_is_decoded() {
        let url = "postgres://svc:p%40ss@db.example:5433/erp?connect_timeout=3\n";
        for part in [Part::App, Part::Admin] {
            let found = resolve(url, part).await.unwrap();
            assert_eq!((found.user.as_str(), found.password.unwrap().expose()), ("svc", "p@ss"));
            assert_eq!((found.host.as_deref(), found.port), (Some("db.example"), Some(5433)));
        }
        assert!(matches!(resolve("postgres://db.example/erp", Part::App).await, Err(SecretError::NoUser { .. })));
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_without_the_content() {
        for content in ["", "hunter2", "[]", r#"{"app_username": 7}"#, r#"{"app_username": "hunter2", "port": 70000}"#]
        {
            let error = resolve(content, Part::App).await.unwrap_err();
            assert!(matches!(error, SecretError::Content { .. }), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let error = resolve("postgres://u:hunter2@h:notaport/d", Part::App).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let long = " ".repeat(usize::try_from(SECRET_BYTES_MAX).unwrap() + 1);
        assert!(matches!(resolve(&long, Part::App).await, Err(SecretError::TooLong { .. })));
        let nowhere = SecretRef::File("/nonexistent/secret".into()).resolve(Part::App).await.unwrap_err();
        assert!(matches!(nowhere, SecretError::File { .. }));
        let unset = SecretRef::Env("PGTENANT_TEST_UNSET_VARIABLE".to_owned()).resolve(Part::App).await.unwrap_err();
        assert!(matches!(unset, SecretError::Environment { .. }));
        let vault = SecretRef::Vault("database/shared".to_owned()).resolve(Part::App).await.unwrap_err();
        assert!(matches!(vault, SecretError::Vault { .. }));
    }
}
