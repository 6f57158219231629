//! An old registry: the table `public.tenant_registry` of a service's database, as it was before there was a common one.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::config::Host;
use tokio_postgres::types::Type;

use super::super::connection::Connection;
use super::super::error::Error;
use super::error::ImportError;
use crate::auth::{Credentials, Part, Secret, SecretRef};
use crate::registry::{RegistryError, connection_settings};
use crate::tenant::{ModuleName, Server, ServerName, SslMode, quote_ident};

/// Most tenants of one old registry.
const ROWS_MAX: usize = 200_000;
/// Longest text that is read of one column, in characters; what is longer is refused where it is made sense of.
const TEXT_MAX: usize = 1024;
/// Most modules that one tenant is read to be subscribed to.
const MODULES_MAX: usize = 1000;
/// How long one statement may take there.
const STATEMENT_TIMEOUT: &str = "60s";

/// Where an old registry is, and whose it is.
#[derive(Debug, Clone)]
pub struct Source {
    /// The module whose tenants it knows.
    pub module: ModuleName,
    server: Arc<Server>,
    credentials: Credentials,
    database: String,
}

impl Source {
    /// Makes sense of a connection URL, or of `env:NAME` or `file:PATH` where one is, or JSON with the same.
    ///
    /// # Errors
    /// [`ImportError`] and its like; never the text, which may hold a password.
    pub async fn parse(place: &str, module: ModuleName) -> Result<Self, Error> {
        let what = module.to_string();
        if place.starts_with("env:") || place.starts_with("file:") || place.starts_with("vault:") {
            let failed = |source| ImportError::Secret { module: what.clone(), source };
            let secret = place.parse::<SecretRef>().map_err(failed)?.resolve(Part::Admin).await.map_err(failed)?;
            let host = secret.host.clone().ok_or_else(|| ImportError::Host { module: what.clone() })?;
            let database = secret.database.clone().unwrap_or_else(|| secret.user.clone());
            let port = secret.port.unwrap_or(5432);
            let server = server(host, port, SslMode::Prefer, None)?;
            return Ok(Self { module, server, credentials: secret, database });
        }
        let (config, mode, authorities) = connection_settings(place).map_err(|error| match error {
            RegistryError::Url(source) => Error::from(ImportError::Url { module: what.clone(), source }),
            RegistryError::UrlParameter { source, .. } => Error::Name(source),
            other => Error::Registry(other),
        })?;
        let host = match config.get_hosts() {
            [Host::Tcp(host)] => host.clone(),
            [Host::Unix(path)] => path.display().to_string(),
            _ => return Err(ImportError::Host { module: what }.into()),
        };
        let user = config.get_user().ok_or_else(|| ImportError::User { module: what.clone() })?.to_owned();
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        let password = config.get_password().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let server = server(host, port, mode, authorities.map(|path| path.display().to_string()))?;
        let credentials =
            Credentials { user, password: password.map(Secret::new), host: None, port: None, database: None };
        Ok(Self { module, server, credentials, database })
    }

    /// The server that it is on, if the registry has it under this very address.
    pub(super) fn find_server<'a>(&self, servers: &'a [Server]) -> Option<&'a Server> {
        servers.iter().find(|known| known.host == self.server.host && known.port == self.server.port)
    }

    /// Reads it, in one snapshot, changing nothing.
    pub(super) async fn read(&self) -> Result<OldRegistry, Error> {
        let connection = Connection::open(&self.server, &self.credentials, &self.database).await?;
        let reader = Reader { connection, module: &self.module };
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"
        );
        reader.connection.client.batch_execute(&begin).await.map_err(|source| reader.failed(source))?;
        let columns = reader.columns().await?;
        let (names_schemas, sql) = reader.statement(&columns)?;
        let rows = reader.rows(&sql).await?;
        let (database, schemas) = reader.schemas().await?;
        Ok(OldRegistry {
            module: self.module.clone(),
            host: self.server.host.clone(),
            port: self.server.port,
            database,
            names_schemas,
            rows,
            schemas,
        })
    }
}

fn server(host: String, port: u16, sslmode: SslMode, ca_file: Option<String>) -> Result<Arc<Server>, Error> {
    // A label for messages; it may be longer than a name.
    let label: String = format!("{host}:{port}").chars().take(60).collect();
    Ok(Arc::new(Server {
        name: ServerName::parse(&label)?,
        host,
        port,
        sslmode,
        ca_file,
        max_connections: None,
        admin_secret: None,
        app_secret: None,
    }))
}

/// What an old registry says.
#[derive(Debug, Clone)]
pub(super) struct OldRegistry {
    pub(super) module: ModuleName,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
    /// Whether it has a column with schemas at all.
    pub(super) names_schemas: bool,
    pub(super) rows: Vec<OldRow>,
    /// The schemas that there are in its database.
    pub(super) schemas: HashSet<String>,
}

/// A tenant of an old registry. What has no column is absent, like what is NULL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OldRow {
    pub(super) id: Option<String>,
    pub(super) slug: Option<String>,
    pub(super) name: Option<String>,
    pub(super) active: Option<bool>,
    pub(super) modules: Option<Vec<String>>,
    pub(super) schema: Option<String>,
}

impl OldRow {
    /// How it is spoken of.
    pub(super) fn label(&self) -> String {
        let name = self.slug.as_ref().or(self.id.as_ref()).or(self.name.as_ref());
        name.map_or_else(|| "-".to_owned(), |name| name.chars().take(80).collect())
    }
}

struct Column {
    name: String,
    /// PostgreSQL's category of the type: `S` text, `B` boolean, `A` array.
    category: String,
    /// The category of an array's elements.
    element: Option<String>,
    is_uuid: bool,
    type_name: String,
}

/// What a column is to be read as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Id,
    Text,
    Boolean,
    Texts,
}

impl Wanted {
    fn fits(self, column: &Column) -> bool {
        match self {
            Self::Id => column.is_uuid || column.category == "S",
            Self::Text => column.category == "S",
            Self::Boolean => column.category == "B",
            Self::Texts => column.category == "A" && column.element.as_deref() == Some("S"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Id => "uuid or text",
            Self::Text => "text",
            Self::Boolean => "boolean",
            Self::Texts => "text[]",
        }
    }

    /// The column as this, or NULL.
    fn expression(self, column: Option<&Column>) -> String {
        let name = column.map_or_else(|| "NULL".to_owned(), |column| format!("r.{}", quote_ident(&column.name)));
        match self {
            Self::Id | Self::Text => format!("pg_catalog.left({name}::pg_catalog.text, {})", TEXT_MAX + 1),
            Self::Boolean => format!("{name}::pg_catalog.bool"),
            Self::Texts => format!(
                "CASE WHEN {name} IS NOT NULL THEN ARRAY(SELECT pg_catalog.left(m::pg_catalog.text, {TEXT_MAX}) \
                 FROM pg_catalog.unnest({name}::pg_catalog.text[]) AS m WHERE m IS NOT NULL LIMIT {MODULES_MAX}) END"
            ),
        }
    }
}

/// A connection to the old registry, in a transaction that only reads.
struct Reader<'a> {
    connection: Connection,
    module: &'a ModuleName,
}

impl Reader<'_> {
    fn failed(&self, source: tokio_postgres::Error) -> Error {
        self.connection.failed("read public.tenant_registry", source)
    }

    async fn columns(&self) -> Result<Vec<Column>, Error> {
        let sql = "SELECT a.attname::text, t.typcategory::text, e.typcategory::text, coalesce(b.typname, t.typname) = 'uuid', \
                          format_type(a.atttypid, a.atttypmod) \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid \
                   JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype \
                   LEFT JOIN pg_type e ON e.oid = coalesce(nullif(b.typelem, 0), t.typelem) AND t.typcategory = 'A' \
                   WHERE n.nspname = 'public' AND c.relname = 'tenant_registry' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
                     AND a.attnum > 0 AND NOT a.attisdropped";
        let rows = self.connection.client.query(sql, &[]).await.map_err(|source| self.failed(source))?;
        let read = |row: &tokio_postgres::Row| {
            Ok(Column {
                name: row.try_get(0)?,
                category: row.try_get(1)?,
                element: row.try_get(2)?,
                is_uuid: row.try_get(3)?,
                type_name: row.try_get(4)?,
            })
        };
        let columns: Vec<Column> =
            rows.iter().map(read).collect::<Result<_, _>>().map_err(|source| self.failed(source))?;
        if columns.is_empty() {
            let module = self.module.to_string();
            return Err(ImportError::NoTable { module, server: self.connection.server().clone() }.into());
        }
        Ok(columns)
    }

    /// The statement that reads it, and whether it names schemas.
    fn statement(&self, columns: &[Column]) -> Result<(bool, String), Error> {
        let column = |name: &str| columns.iter().find(|column| column.name == name);
        let own = format!("{}_schema", self.module);
        let schema = column(&own).or_else(|| column("schema_name"));
        let (id, slug) = (column("tenant_id"), column("tenant_slug"));
        let wrong =
            |column: String, what: String| ImportError::Column { module: self.module.to_string(), column, what };
        if id.is_none() && slug.is_none() {
            return Err(wrong("tenant_slug".to_owned(), "is missing, and so is tenant_id".to_owned()).into());
        }
        let wanted = [
            (id, Wanted::Id),
            (slug, Wanted::Text),
            (column("tenant_name"), Wanted::Text),
            (column("is_active"), Wanted::Boolean),
            (column("modules_subscribed"), Wanted::Texts),
            (schema, Wanted::Text),
        ];
        for (found, wanted) in &wanted {
            if let Some(found) = found.filter(|found| !wanted.fits(found)) {
                let what = format!("has type {}, not {}", found.type_name, wanted.name());
                return Err(wrong(found.name.clone(), what).into());
            }
        }
        let list: Vec<String> = wanted.iter().map(|(found, wanted)| wanted.expression(*found)).collect();
        let sql =
            format!("SELECT {} FROM public.tenant_registry AS r ORDER BY 2, 1 LIMIT {}", list.join(", "), ROWS_MAX + 1);
        Ok((schema.is_some(), sql))
    }

    async fn rows(&self, sql: &str) -> Result<Vec<OldRow>, Error> {
        let rows = self.connection.client.query(sql, &[]).await.map_err(|source| self.failed(source))?;
        if rows.len() > ROWS_MAX {
            return Err(ImportError::Size { module: self.module.to_string(), max: ROWS_MAX }.into());
        }
        let read = |row: &tokio_postgres::Row| {
            Ok(OldRow {
                id: row.try_get(0)?,
                slug: row.try_get(1)?,
                name: row.try_get(2)?,
                active: row.try_get(3)?,
                modules: row.try_get(4)?,
                schema: row.try_get(5)?,
            })
        };
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|source| self.failed(source))
    }

    /// The database's name, as it calls itself, and its schemas.
    async fn schemas(&self) -> Result<(String, HashSet<String>), Error> {
        let sql = "SELECT nspname::text, current_database()::text FROM pg_namespace";
        let rows =
            self.connection.client.query_typed(sql, &[] as &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)]);
        let rows = rows.await.map_err(|source| self.failed(source))?;
        let (mut database, mut schemas) = (String::new(), HashSet::new());
        for row in &rows {
            schemas.insert(row.try_get(0).map_err(|source| self.failed(source))?);
            database = row.try_get(1).map_err(|source| self.failed(source))?;
        }
        Ok((database, schemas))
    }
}
