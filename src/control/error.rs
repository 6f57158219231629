//! What can go wrong in the control plane.

use std::path::PathBuf;

use super::import::ImportError;
use super::script::ScriptError;
use crate::address::Network;
use crate::auth::{Secret, SecretError};
use crate::net::TlsError;
use crate::registry::RegistryError;
use crate::tenant::{NameError, ServerName, TenantStatus};

/// Why a pattern of names was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing to make a name of.
    #[error("the pattern is empty")]
    Empty,
    /// A brace without its partner.
    #[error("pattern \"{pattern}\" has a brace without its partner")]
    Braces {
        /// The pattern.
        pattern: String,
    },
    /// A placeholder that is none of the three.
    #[error("pattern \"{pattern}\" has {{{placeholder}}}; known are {{slug}}, {{id}} and {{module}}")]
    Placeholder {
        /// The pattern.
        pattern: String,
        /// The unknown word between its braces.
        placeholder: String,
    },
}

/// Why the control plane could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that PostgreSQL or pgtenant does not allow.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A pattern that makes no names.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The registry refused or could not be asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What was to be imported is not as it must be.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Nobody has this name.
    #[error("tenant \"{name}\" not found; see: pgtenant tenant list")]
    NoTenant {
        /// The name as given.
        name: String,
    },
    /// The slug of a new tenant is another name of one that is there.
    #[error("\"{slug}\" is an alias of tenant \"{tenant}\"; choose another slug or remove the alias")]
    SlugIsAlias {
        /// The slug asked for.
        slug: String,
        /// Whose alias it is.
        tenant: String,
    },
    /// An alias names somebody else.
    #[error("\"{alias}\" names another tenant already; see: pgtenant tenant show {alias:?}")]
    AliasTaken {
        /// The alias asked for.
        alias: String,
    },
    /// The tenant is there and not as the command has it.
    #[error("tenant \"{tenant}\" is there already with {what} \"{has}\", not \"{asked}\"; use that, or another slug")]
    Differs {
        /// Its slug.
        tenant: String,
        /// What differs.
        what: &'static str,
        /// What the registry says.
        has: String,
        /// What the command says.
        asked: String,
    },
    /// The login of a tenant that is there has another password than the one that was given for a new one.
    #[error(
        "tenant \"{tenant}\" is there already and its login \"{login}\" has another password; change it with: pgtenant tenant login password {tenant} {login}"
    )]
    OtherPassword {
        /// Its slug.
        tenant: String,
        /// The login.
        login: String,
    },
    /// No module has this name.
    #[error("module \"{module}\" not found; add it with: pgtenant module add {module}")]
    NoModule {
        /// The name as given.
        module: String,
    },
    /// No server has this name.
    #[error("server \"{server}\" not found; add it with: pgtenant server add {server}")]
    NoServer {
        /// The name as given.
        server: String,
    },
    /// A module without a server, and none given.
    #[error("module \"{module}\" names no server; say which with --server")]
    ModuleWithoutServer {
        /// The module.
        module: String,
    },
    /// The tenant does not have this module.
    #[error(
        "tenant \"{tenant}\" is not subscribed to module \"{module}\"; it can be with: pgtenant tenant subscribe {tenant} {module}"
    )]
    NotSubscribed {
        /// Its slug.
        tenant: String,
        /// The module.
        module: String,
    },
    /// The tenant is not served, and would have to be for this.
    #[error("tenant \"{tenant}\" is inactive ({status}); activate it first with: pgtenant tenant activate {tenant}")]
    Inactive {
        /// Its slug.
        tenant: String,
        /// Its status.
        status: TenantStatus,
    },
    /// The tenant does not have this alias.
    #[error("tenant \"{tenant}\" has no alias \"{alias}\"")]
    NoAlias {
        /// Its slug.
        tenant: String,
        /// The alias.
        alias: String,
    },
    /// The tenant's clients may not come from there as it is.
    #[error("{network} is not among the networks from which tenant \"{tenant}\"'s clients may come")]
    NotAllowed {
        /// Its slug.
        tenant: String,
        /// The network.
        network: Network,
    },
    /// The tenant does not have this login.
    #[error("tenant \"{tenant}\" has no login \"{login}\"; add it with: pgtenant tenant login add {tenant} {login}")]
    NoLogin {
        /// Its slug.
        tenant: String,
        /// The login.
        login: String,
    },
    /// A place of a tenant could not be made or dropped; the others were.
    #[error("{doing} module \"{module}\" of tenant \"{tenant}\" (run the same again when that is mended)")]
    Place {
        /// What was asked for.
        doing: &'static str,
        /// Its slug.
        tenant: String,
        /// The module.
        module: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A place that is on its way out can be nothing else meanwhile.
    #[error(
        "module \"{module}\" of tenant \"{tenant}\" is being dropped with its data; finish that first with: pgtenant tenant reconcile {tenant}"
    )]
    BeingDropped {
        /// Its slug.
        tenant: String,
        /// The module.
        module: String,
    },
    /// Work on a tenant ended without an outcome: a defect of pgtenant's.
    #[error("work on a tenant was cut short")]
    Task(#[source] tokio::task::JoinError),
    /// A new tenant was written to the registry, and its places could not all be made.
    #[error("tenant was not made whole")]
    Unfinished {
        /// The password of its login, which nobody will be told again.
        password: Secret,
        /// What stopped it.
        source: Box<Error>,
    },
    /// A login needs a role, and roles are named by modules.
    #[error(
        "tenant \"{tenant}\" has no module yet, which its role would be named by; subscribe it first with: pgtenant tenant subscribe {tenant} MODULE"
    )]
    NoPlaces {
        /// Its slug.
        tenant: String,
    },
    /// A role that is there without pgtenant having made it.
    #[error(
        "role \"{role}\" on server {server} was adopted, not made by pgtenant; change it there, then run: pgtenant tenant subscribe … --existing"
    )]
    Adopted {
        /// The role.
        role: String,
        /// The server.
        server: ServerName,
    },
    /// Something that is to be adopted is not as it is said to be.
    #[error("{what} on server {server}; nothing was adopted")]
    NotAdoptable {
        /// What is missing or wrong.
        what: String,
        /// The server.
        server: ServerName,
    },
    /// A tenant that cannot be served yet.
    #[error(
        "module \"{module}\" of tenant \"{tenant}\" is not provisioned yet; finish it with: pgtenant tenant reconcile {tenant}"
    )]
    NotWhole {
        /// Its slug.
        tenant: String,
        /// The module.
        module: String,
    },
    /// A server without the credentials that DDL needs.
    #[error("server {server} has no admin secret; give it one with: pgtenant server add {server} … --admin-secret REF")]
    NoAdminSecret {
        /// The server.
        server: ServerName,
    },
    /// A server without the service login that shared pools need.
    #[error(
        "server {server} has no app secret, which shared pools need; give it one with: pgtenant server add {server} … --app-secret REF"
    )]
    NoAppSecret {
        /// The server.
        server: ServerName,
    },
    /// A secret that could not be had.
    #[error("{what} secret of server {server}")]
    Secret {
        /// The server.
        server: ServerName,
        /// Which of its secrets.
        what: &'static str,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// TLS towards a server could not be set up.
    #[error("TLS towards server {server}")]
    Tls {
        /// The server.
        server: ServerName,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// No connection to a server.
    #[error("connect to server {server}, database {database}, as {user}")]
    Connect {
        /// The server.
        server: ServerName,
        /// The database asked for.
        database: String,
        /// The role that would have connected.
        user: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No answer while connecting.
    #[error("server {server} did not answer within {seconds} s")]
    ConnectTimeout {
        /// The server.
        server: ServerName,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A statement failed.
    #[error("{doing} on server {server}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// The server.
        server: ServerName,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A module without migration files.
    #[error(
        "module \"{module}\" has no migrations; say where they are with: pgtenant module add {module} … --migrations DIR"
    )]
    NoMigrations {
        /// The module.
        module: String,
    },
    /// A version that no file has.
    #[error("no migration of module \"{module}\" has the number {version}")]
    NoSuchVersion {
        /// The version.
        version: i64,
        /// The module.
        module: String,
    },
    /// A server that could not be reached a moment ago.
    #[error("server {server} was not tried again: {why}")]
    Down {
        /// The server.
        server: ServerName,
        /// What it failed with then, in a line.
        why: String,
    },
    /// A place whose schema or database is not there.
    #[error("place {place} on server {server} has no such schema")]
    NoSchema {
        /// Database and schema.
        place: String,
        /// The server.
        server: ServerName,
    },
    /// Migrations of an adopted place run as its owner, which must not be an admin.
    #[error(
        "place {place} on server {server} belongs to \"{owner}\", which may do too much for migrations to run as it; give the schema (for public: \
         the database) to a role that may not, with ALTER … OWNER TO"
    )]
    PowerfulOwner {
        /// Database and schema.
        place: String,
        /// Whose it is.
        owner: String,
        /// The server.
        server: ServerName,
    },
    /// Someone else has been at work for too long.
    #[error(
        "{doing} on server {server}: another run is at work there (advisory lock \"{lock}\"); try again when it has ended"
    )]
    Busy {
        /// What was to be done.
        doing: &'static str,
        /// The word that its work is locked by.
        lock: String,
        /// The server.
        server: ServerName,
    },
    /// Transactions that may write a tenant's rows do not end.
    #[error(
        "delete the tenant's rows on server {server}: transactions in database {database} may still write some (processes {processes}); \
         end them, or try again when they have ended"
    )]
    StillWriting {
        /// The server.
        server: ServerName,
        /// The database.
        database: String,
        /// Process ids of their sessions; prepared transactions have none.
        processes: String,
    },
    /// Something puts deleted rows back.
    #[error(
        "delete the tenant's rows on server {server}: something (a trigger?) puts rows back into tables of schema {schema}; \
         nothing was deleted: see to that, and try again"
    )]
    RowsReturn {
        /// The server.
        server: ServerName,
        /// The schema.
        schema: String,
    },
    /// The bookkeeping of a database was written by a later version of this program.
    #[error("a database on server {server} is kept by a newer pgtenant than this one; use that")]
    NewerBooks {
        /// The server.
        server: ServerName,
    },
    /// An object with this name was made by someone else.
    #[error(
        "{kind} \"{name}\" on server {server} is there already and does not belong to this tenant; rename or drop it, or choose another name"
    )]
    Foreign {
        /// What kind of object it is.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The server.
        server: ServerName,
    },
    /// A role that could pass walls.
    #[error(
        "role \"{role}\" on server {server} is a superuser or may bypass row-level security, replicate, or make roles or databases; take that from it first"
    )]
    Powerful {
        /// The role.
        role: String,
        /// The server.
        server: ServerName,
    },
    /// A login's role owns what dropping it would drop.
    #[error(
        "role \"{role}\" on server {server} owns objects, which pgtenant did not make; drop them or give them to another role"
    )]
    Owns {
        /// The role.
        role: String,
        /// The server.
        server: ServerName,
    },
    /// A login's role without a verifier.
    #[error("the login of role \"{role}\" has no password yet; set one with: pgtenant tenant login password")]
    NoVerifier {
        /// The role.
        role: String,
    },
    /// What was provisioned does not hold.
    #[error("place {place} on server {server} is not as it must be: {what}")]
    NotSound {
        /// Database and schema.
        place: String,
        /// The server.
        server: ServerName,
        /// What is wrong.
        what: &'static str,
    },
    /// A directory of migration files could not be read.
    #[error("read migrations in {path}")]
    ReadMigrations {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A migration file whose name gives no version.
    #[error("migration file {path} does not begin with a number, as in 0001_orders.sql")]
    MigrationName {
        /// The file.
        path: PathBuf,
    },
    /// Two migration files with one version.
    #[error("migration files {first} and {second} have the same number")]
    MigrationTwice {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A migration file's text is not as it must be.
    #[error("migration {name}")]
    MigrationText {
        /// The file's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ScriptError,
    },
    /// A migration was applied and its file is gone.
    #[error(
        "migration {name} has been applied to {place} and is not in the module's directory; put the file back, or use the directory it came from"
    )]
    MigrationUnknown {
        /// The name that its file had.
        name: String,
        /// Database and schema.
        place: String,
    },
    /// A migration file came after one with a higher number had been applied.
    #[error(
        "migration {name} has not been applied to {place}, and the later {later} has; give the file a higher number, or allow it with --any-order"
    )]
    MigrationGap {
        /// The file's name.
        name: String,
        /// The name of the last one applied.
        later: String,
        /// Database and schema.
        place: String,
    },
    /// A migration file was changed while it was half done.
    #[error(
        "migration {name} was changed in its first statements, of which {done} have been run in {place}; undo that change and change what follows only"
    )]
    MigrationBegun {
        /// The file's name.
        name: String,
        /// Database and schema.
        place: String,
        /// How many statements are done.
        done: usize,
    },
    /// A migration file was changed after it was applied.
    #[error(
        "migration file {name} was changed after it had been applied to {place}; undo the change and put it into a new file"
    )]
    MigrationChanged {
        /// The file's name.
        name: String,
        /// Database and schema.
        place: String,
    },
    /// A migration file failed.
    #[error("migration {name} in {place} on server {server}")]
    Migration {
        /// The file's name.
        name: String,
        /// Database and schema.
        place: String,
        /// The server.
        server: ServerName,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A migration file ended the transaction it runs in.
    #[error("migration {name} has ended its own transaction; what it did until then holds, and is not recorded")]
    MigrationTransaction {
        /// The file's name.
        name: String,
    },
    /// A module cannot be had with this isolation.
    #[error(
        "module {module} has no database for isolation {isolation}; give it one with: pgtenant module add {module} … --database D"
    )]
    NoDatabase {
        /// The module.
        module: String,
        /// The isolation asked for.
        isolation: &'static str,
    },
    /// Connections to one database serve nobody else's.
    #[error(
        "module {module} gives each tenant a database of its own, whose connections cannot be shared; leave out --pooling shared"
    )]
    SharedDatabases {
        /// The module.
        module: String,
    },
    /// A common schema cannot be named after a tenant.
    #[error(
        "schema pattern \"{pattern}\" of module {module} names a tenant; the schema of isolation shared is common to all"
    )]
    OwnName {
        /// The pattern.
        pattern: String,
        /// The module.
        module: String,
    },
    /// A pattern makes the same name for every tenant.
    #[error(
        "{what} pattern \"{pattern}\" of module {module} makes the same name for every tenant; use {{slug}} or {{id}} in it"
    )]
    SameName {
        /// What is being named.
        what: &'static str,
        /// The pattern.
        pattern: String,
        /// The module.
        module: String,
    },
}
