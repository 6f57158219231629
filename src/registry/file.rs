//! The registry in a TOML file: the embedded default for one machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use rapidhash::RapidHashMap;

use super::cache::names_of;
use super::contents::Contents;
use super::error::RegistryError;
use super::toml_format::Document;
use crate::tenant::{Tenant, TenantId, TenantName};

impl Contents {
    /// Reads a registry file and checks all that a database would.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML of this shape, or contradicts itself.
    pub async fn read(path: &Path) -> Result<Self, RegistryError> {
        let text = tokio::fs::read_to_string(path).await.map_err(|source| RegistryError::File {
            doing: "read the registry file",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// The same from text; `path` is for messages only.
    ///
    /// # Errors
    /// As [`Contents::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, RegistryError> {
        let document: Document =
            toml::from_str(text).map_err(|source| RegistryError::Toml { path: path.to_owned(), source })?;
        let wrong = |source| RegistryError::Contents { path: path.to_owned(), source };
        let contents = document.into_contents().map_err(wrong)?;
        contents.check().map_err(wrong)?;
        Ok(contents)
    }

    /// The text of a registry file with this content.
    ///
    /// # Errors
    /// Content that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, RegistryError> {
        toml::to_string(&Document::from(self)).map_err(RegistryError::WriteToml)
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// Content that JSON cannot hold.
    pub fn to_json(&self) -> Result<String, RegistryError> {
        let text = serde_json::to_string_pretty(&Document::from(self));
        let text = text.map_err(|source| RegistryError::Malformed { doing: "write the registry as JSON", source })?;
        Ok(text + "\n")
    }
}

/// A registry file, and what it said when it was last right.
pub(super) struct FileStore {
    path: PathBuf,
    index: ArcSwap<Index>,
    /// One at a time.
    replacing: Mutex<()>,
}

#[derive(Default)]
struct Index {
    by_name: RapidHashMap<TenantName, Arc<Tenant>>,
    by_id: BTreeMap<TenantId, Arc<Tenant>>,
    /// The generation of what the last reload changed; it only ever rises.
    generation: i64,
}

impl FileStore {
    pub(super) async fn open(path: &Path) -> Result<Self, RegistryError> {
        let contents = Contents::read(path).await?;
        let (index, _) = Index::default().with(&contents);
        Ok(Self { path: path.to_owned(), index: ArcSwap::from_pointee(index), replacing: Mutex::new(()) })
    }

    pub(super) fn tenant(&self, name: &TenantName) -> Option<Arc<Tenant>> {
        self.index.load().by_name.get(name).cloned()
    }

    pub(super) fn tenants(&self) -> Vec<Arc<Tenant>> {
        self.index.load().by_id.values().cloned().collect()
    }

    /// Reads the file again.
    pub(super) async fn read(&self) -> Result<Contents, RegistryError> {
        Contents::read(&self.path).await
    }

    /// Puts new contents in the place of the old; gives the tenants that are new, changed or gone.
    pub(super) fn replace(&self, contents: &Contents) -> Vec<TenantId> {
        let _one = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, changed) = self.index.load().with(contents);
        self.index.store(Arc::new(index));
        changed
    }
}

impl Index {
    /// The index of new contents, and which tenants differ from this one's. What has not changed stays the same tenant of the
    /// same generation; what has gets a generation that none ever had.
    fn with(&self, contents: &Contents) -> (Self, Vec<TenantId>) {
        let mut index = Self { generation: self.generation + 1, ..Self::default() };
        let mut changed = Vec::new();
        for mut tenant in contents.resolve() {
            let tenant = match self.by_id.get(&tenant.id) {
                Some(old) if same(old, &mut tenant) => Arc::clone(old),
                _ => {
                    changed.push(tenant.id);
                    Arc::new(Tenant { generation: index.generation, ..tenant })
                }
            };
            index.by_name.extend(names_of(&tenant).into_iter().map(|name| (name, Arc::clone(&tenant))));
            index.by_id.insert(tenant.id, tenant);
        }
        changed.extend(self.by_id.keys().filter(|id| !index.by_id.contains_key(id)));
        (index, changed)
    }
}

/// Whether nothing but the generation tells them apart.
fn same(old: &Tenant, new: &mut Tenant) -> bool {
    new.generation = old.generation;
    old == new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::{Isolation, TenantStatus};

    const FILE: &str = r#"
[[server]]
name = "main"
host = "db.example.com"
port = 5433
sslmode = "verify-full"
max_connections = 90
admin_secret = "env:ADMIN"
app_secret = "file:/run/app.json"

[[module]]
name = "operations"
isolation = "schema"
server = "main"
database = "operations"
pooling = "per-tenant"
pool_mode = "transaction"
schema_pattern = "tenant_{slug}"
database_pattern = "x"
role_pattern = "{slug}_app"
search_path_extra = ["common"]
migrations = "migrations/operations"

[[module]]
name = "crm"
isolation = "database"
server = "main"

[[tenant]]
id = "0190b5a0-0000-7000-8000-00000000000a"
slug = "acme"
name = "Acme"
status = "active"
aliases = ["krn:acme:client:prod-001"]
allow = ["10.0.0.0/8", "192.0.2.1/32"]
default_module = "operations"
limits = { max_clients = 3, statement = "30s" }
  [[tenant.placement]]
  module = "operations"
  [[tenant.placement]]
  module = "crm"
  isolation = "database"
  server = "main"
  database = "acme"
  schema = "public"
  role = "acme_app"
  pooling = "per-tenant"
  pool_mode = "session"
  pool_size = 3
  [[tenant.login]]
  login = "app"
  role = "acme_app"

[[tenant]]
id = "0190b5a0-0000-7000-8000-00000000000b"
slug = "beta"
  [[tenant.placement]]
  module = "operations"
  [[tenant.login]]
  login = "app"
"#;

    fn parse(text: &str) -> Result<Contents, RegistryError> {
        Contents::parse(text, Path::new("tenants.toml"))
    }

    /// The one change to the file makes it wrong in this way.
    fn refused(from: &str, to: &str) -> String {
        assert!(FILE.contains(from), "{from}");
        match parse(&FILE.replacen(from, to, 1)) {
            Err(RegistryError::Contents { source, .. }) => source.to_string(),
            Err(RegistryError::Toml { source, .. }) => source.to_string(),
            other => panic!("{from} -> {to}: {other:?}"),
        }
    }

    #[test]
    fn a_file_gives_whole_tenants_with_what_it_leaves_out_filled_in() {
        let tenants = parse(FILE).unwrap().resolve();
        let (acme, beta) = (&tenants[0], &tenants[1]);
        assert_eq!(acme.default_placement().unwrap().schema.as_deref(), Some("tenant_acme"));
        assert!(acme.allows("10.1.2.3".parse().ok()) && !acme.allows("192.0.2.2".parse().ok()) && !acme.allows(None));
        assert!(beta.allows(None));
        assert_eq!(acme.placement("crm").unwrap().terms.pool_size, Some(3));
        assert_eq!((acme.limits.max_clients, beta.limits.is_empty()), (Some(3), true));
        assert_eq!(beta.placements[0].schema.as_deref(), Some("tenant_beta"));
        assert_eq!(beta.placements[0].database.as_str(), "operations");
        assert_eq!(beta.placements[0].terms.isolation, Isolation::Schema);
        assert_eq!(beta.placements[0].terms.search_path_extra, ["common"]);
        assert_eq!(beta.logins[0].role, "beta_app");
        assert_eq!((beta.name.as_str(), beta.status), ("beta", TenantStatus::Active));
        assert!(beta.placements[0].ready);
    }

    #[test]
    fn what_is_written_reads_as_the_same() {
        let contents = parse(FILE).unwrap();
        let text = contents.to_toml().unwrap();
        assert_eq!(parse(&text).unwrap(), contents);
    }

    #[test]
    fn unknown_keys_are_refused_on_every_level() {
        for key in ["port = 5433", "pooling = \"per-tenant\"", "name = \"Acme\"", "pool_size = 3", "login = \"app\""] {
            let message = refused(key, &format!("{key}\ncolour = 1"));
            assert!(message.contains("unknown field `colour`"), "{message}");
        }
    }

    #[test]
    fn no_name_place_or_role_belongs_to_two_tenants() {
        let aliased = refused("slug = \"beta\"", "slug = \"beta\"\naliases = [\"acme\"]");
        assert!(aliased.contains("the name \"acme\" belongs to tenant"), "{aliased}");
        let twice = refused("00000000000b", "00000000000a");
        assert!(twice.contains("is there twice"), "{twice}");
        let uuid = refused("slug = \"beta\"", "slug = \"beta\"\naliases = [\"0190B5A000007000800000000000000C\"]");
        assert!(uuid.contains("shape of a UUID"), "{uuid}");
        let placed = |line: &str| {
            let beta = "slug = \"beta\"\n  [[tenant.placement]]\n  module = \"operations\"";
            refused(beta, &format!("{beta}\n  {line}"))
        };
        assert!(placed("schema = \"tenant_acme\"").contains("schema \"tenant_acme\" in database \"operations\""));
        assert!(placed("role = \"acme_app\"").contains("role \"acme_app\" belongs to"));
        assert!(placed("database = \"acme\"").contains("database \"acme\" on server \"main\" belongs to tenant"));
        assert!(placed("isolation = \"database\"\n  database = \"operations\"").contains("common to several tenants"));
    }

    #[test]
    fn what_is_not_there_or_not_allowed_is_named() {
        assert!(refused("module = \"crm\"", "module = \"nope\"").contains("names module \"nope\", which is not there"));
        assert!(refused("server = \"main\"", "server = \"far\"").contains("names server \"far\", which is not there"));
        assert!(refused("env:ADMIN", "hunter2").contains("admin_secret must say where the secret is"));
        assert!(refused("role = \"acme_app\"", "role = \"postgres\"").contains("reserved"));
        assert!(
            refused("login = \"app\"", "login = \"app\"\n  verifier = \"md5abc\"").contains("not one of SCRAM-SHA-256")
        );
    }

    #[test]
    fn a_reload_tells_what_changed_and_generations_only_rise() {
        let (first, all) = Index::default().with(&parse(FILE).unwrap());
        assert_eq!(all.len(), 2);
        let changed_file = FILE.replacen("status = \"active\"", "status = \"suspended\"", 1);
        let (second, changed) = first.with(&parse(&changed_file).unwrap());
        let acme = TenantName::parse("acme").unwrap();
        assert_eq!(changed, [second.by_name[&acme].id]);
        assert!(second.by_name[&acme].generation > first.by_name[&acme].generation);
        let beta = TenantName::parse("beta").unwrap();
        assert!(Arc::ptr_eq(&first.by_name[&beta], &second.by_name[&beta]));
        let (third, gone) = second.with(&Contents::default());
        assert_eq!(gone.len(), 2);
        let (fourth, _) = third.with(&parse(FILE).unwrap());
        assert!(fourth.by_name[&acme].generation > second.by_name[&acme].generation);
    }
}
