//! `pgtenant tenant …`

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use super::context::Context;
use super::list::{self, List};
use super::login::{self, parse_login, read_password};
use super::output::{Failure, or_dash, print, print_json, remark};
use super::source::Source;
use super::view::{CreatedView, TenantView, last_used, print_tenant, url};
use crate::address::Network;
use crate::auth::Secret;
use crate::control::{self, Control, DEFAULT_LOGIN, Limits, NewTenant, Overrides, Subscription};
use crate::limits;
use crate::registry::TenantDetails;
use crate::tenant::{
    Alias, DatabaseName, Isolation, ModuleName, PoolMode, RoleName, ServerName, Slug, TenantId, TenantName,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a tenant, or finish one that an earlier run left unfinished.
    Create(Box<Create>),
    /// Tenants, in the order of their slugs.
    List(List),
    /// One tenant, by any of its names.
    Show {
        /// Its slug, id or an alias.
        tenant: TenantName,
    },
    /// Refuse a tenant's new sessions, on every proxy, and end its running ones after a grace time.
    Suspend {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// How long running sessions may go on.
        #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
        grace: Duration,
    },
    /// Serve a tenant again.
    Activate {
        /// Its slug, id or an alias.
        tenant: TenantName,
    },
    /// Let a tenant take more or less than the proxies' configuration says, from now on; without settings, show it.
    Limits {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// A number for max_clients, connect_rate, max_connections, min_connections, weight or queue_length_max; a time such as 30s for
        /// checkout_timeout, login, idle_in_transaction, client_idle or statement; or `default` for the configuration's.
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<LimitSetting>,
    },
    /// The connection string of a tenant's module, without its password.
    Url {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The module; the tenant's default one if absent.
        #[arg(long)]
        module: Option<ModuleName>,
    },
    /// Give a tenant a module: make its place, or with --existing take one that is there already.
    Subscribe(Box<Subscribe>),
    /// Take a module from a tenant; its data stays unless it is to be dropped.
    Unsubscribe {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The module.
        module: ModuleName,
        /// Drop the tenant's database, schema or rows.
        #[arg(long)]
        drop_data: bool,
    },
    /// Archive a tenant: not served, names and data kept. With --drop-data, drop all that was made for it.
    Delete {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// Drop the tenant's databases, schemas, rows and roles.
        #[arg(long)]
        drop_data: bool,
    },
    /// Further names of a tenant.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// From where a tenant's clients may come: from everywhere, or only from the networks of a list.
    #[command(subcommand)]
    Allow(AllowCommand),
    /// Logins of a tenant.
    #[command(subcommand)]
    Login(login::Command),
    /// Make what the registry asks for and is not there yet: of one tenant (going over what is there too), or of all.
    Reconcile {
        /// Its slug, id or an alias.
        tenant: Option<TenantName>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AliasCommand {
    /// Give a tenant another name.
    Add {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The name.
        alias: Alias,
    },
    /// Take a name from a tenant.
    Remove {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The name.
        alias: Alias,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AllowCommand {
    /// Let clients come from a network, and with the first one from nowhere else.
    Add {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// An address, or a network such as 10.0.0.0/8.
        #[arg(value_name = "CIDR")]
        network: Network,
    },
    /// Take a network from the list; without any, clients may come from everywhere.
    Remove {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The network.
        #[arg(value_name = "CIDR")]
        network: Network,
    },
}

#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// Its slug, id or an alias.
    tenant: TenantName,
    /// The module.
    module: ModuleName,
    /// database, schema or shared, instead of the module's own.
    #[arg(long)]
    isolation: Option<Isolation>,
    /// A server instead of the module's own.
    #[arg(long)]
    server: Option<ServerName>,
    /// A database instead of what the module's settings make.
    #[arg(long)]
    database: Option<DatabaseName>,
    #[command(flatten)]
    limits: LimitFlags,
    /// A schema instead of what the module's settings make.
    #[arg(long)]
    schema: Option<String>,
    /// The role with the rights on the place; the tenant's own if absent.
    #[arg(long)]
    role: Option<RoleName>,
    /// Take a place that is there already: it is checked, its login's verifier is read, and nothing is made.
    #[arg(long)]
    existing: bool,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its short name: lower-case letters, digits, - and _.
    slug: Slug,
    /// Its name for people.
    #[arg(long)]
    name: String,
    /// Mail address of its administrator.
    #[arg(long, value_name = "MAIL")]
    contact: Option<String>,
    /// Another name; may be repeated.
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<Alias>,
    /// What it subscribes to; the first is what a client gets that names none. Without any, it gets a login with its first.
    #[arg(long, value_delimiter = ',')]
    modules: Vec<ModuleName>,
    /// database, schema or shared, instead of the modules' own.
    #[arg(long)]
    isolation: Option<Isolation>,
    /// A server instead of the modules' own.
    #[arg(long)]
    server: Option<ServerName>,
    #[command(flatten)]
    limits: LimitFlags,
    /// Its id, if it has one elsewhere already; otherwise one is made.
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    /// Name of its login.
    #[arg(long, default_value = DEFAULT_LOGIN, value_parser = parse_login)]
    login: String,
    /// Take the password from standard input instead of making one.
    #[arg(long)]
    password_stdin: bool,
}

/// What may differ for one tenant, and may change at any time: `subscribe` on a module that it has already does that.
#[derive(Debug, Clone, Default, Args)]
struct LimitFlags {
    /// Most connections of the tenant's pool, or `default` for the module's own number.
    #[arg(long, value_name = "N|default", value_parser = own::<NonZeroU32>)]
    pool_size: Option<Own<NonZeroU32>>,
    /// session or transaction, or `default` for the module's own.
    #[arg(long, value_name = "MODE|default", value_parser = own::<PoolMode>)]
    pool_mode: Option<Own<PoolMode>>,
}

/// A setting of one tenant.
#[derive(Debug, Clone, Copy)]
enum Own<T> {
    /// The module's holds.
    Modules,
    /// Its own.
    Is(T),
}

impl<T> Own<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::Modules => None,
            Self::Is(value) => Some(value),
        }
    }
}

fn own<T: FromStr>(text: &str) -> Result<Own<T>, T::Err> {
    if text == "default" { Ok(Own::Modules) } else { text.parse().map(Own::Is) }
}

impl LimitFlags {
    fn limits(self) -> Limits {
        Limits {
            pool_mode: self.pool_mode.map(Own::value),
            pool_size: self.pool_size.map(|size| size.value().map(NonZeroU32::get)),
        }
    }
}

/// One of a tenant's own limits; none: the configuration's again.
#[derive(Debug, Clone)]
pub(super) struct LimitSetting {
    key: String,
    value: Option<serde_json::Value>,
}

impl FromStr for LimitSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
        let value = match value {
            "default" => None,
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(number.parse::<u32>().map_err(|error| error.to_string())?.into())
            }
            time => Some(time.into()),
        };
        // Whether there is such a key, and this is a value of its kind.
        let single = serde_json::json!({ key: value });
        serde_json::from_value::<limits::Own>(single).map_err(|error| error.to_string())?;
        Ok(Self { key: key.to_owned(), value })
    }
}

async fn limits(context: &Context, name: &TenantName, settings: &[LimitSetting]) -> Result<(), Failure> {
    if settings.is_empty() {
        let source = context.source().await?;
        return show(context, &source, &source.tenant(name).await?).await;
    }
    let control = context.control().await?;
    let mut limits = serde_json::to_value(&control.tenant(name).await?.tenant.limits).map_err(anyhow::Error::from)?;
    for setting in settings {
        limits[&setting.key] = setting.value.clone().unwrap_or_default();
    }
    let limits: limits::Own = serde_json::from_value(limits).map_err(anyhow::Error::from)?;
    let changed = control.set_limits(name, &limits).await?;
    show_changed(context, control, &changed).await
}

/// A connection string in JSON.
#[derive(Serialize)]
struct UrlView<'a> {
    tenant: &'a str,
    module: &'a str,
    url: String,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(new) => create(context, *new).await,
        Command::List(list) => list::list(context, list).await,
        Command::Show { tenant } => {
            let source = context.source().await?;
            show(context, &source, &source.tenant(&tenant).await?).await
        }
        Command::Limits { tenant, settings } => limits(context, &tenant, &settings).await,
        Command::Url { tenant, module } => print_url(context, &context.source().await?.tenant(&tenant).await?, module),
        Command::Suspend { tenant, grace } => {
            let control = context.control().await?;
            let suspended = control.suspend(&tenant, grace).await?;
            show_changed(context, control, &suspended).await
        }
        Command::Activate { tenant } => {
            let control = context.control().await?;
            let activated = control.activate(&tenant).await?;
            show_changed(context, control, &activated).await
        }
        Command::Subscribe(wanted) => subscribe(context, *wanted).await,
        Command::Unsubscribe { tenant, module, drop_data } => {
            let control = context.control().await?;
            let left = control.unsubscribe(&tenant, &module, drop_data).await?;
            show_changed(context, control, &left).await
        }
        Command::Delete { tenant, drop_data } => delete(context, &tenant, drop_data).await,
        Command::Alias(AliasCommand::Add { tenant, alias }) => {
            let control = context.control().await?;
            let named = control.add_alias(&tenant, &alias).await?;
            show_changed(context, control, &named).await
        }
        Command::Alias(AliasCommand::Remove { tenant, alias }) => {
            let control = context.control().await?;
            let named = control.remove_alias(&tenant, &alias).await?;
            show_changed(context, control, &named).await
        }
        Command::Allow(AllowCommand::Add { tenant, network }) => {
            let control = context.control().await?;
            let changed = control.allow(&tenant, network).await?;
            show_changed(context, control, &changed).await
        }
        Command::Allow(AllowCommand::Remove { tenant, network }) => {
            let control = context.control().await?;
            let changed = control.disallow(&tenant, network).await?;
            show_changed(context, control, &changed).await
        }
        Command::Login(command) => login::run(context, &context.control().await?, command).await,
        Command::Reconcile { tenant } => reconcile(context, tenant.as_ref()).await,
    }
}

async fn reconcile(context: &Context, tenant: Option<&TenantName>) -> Result<(), Failure> {
    let control = context.control().await?;
    let done = control.reconcile(tenant).await?;
    list::print_these(context, &Source::Database(control), &done.tenants).await?;
    let mut failures = done.failures.into_iter();
    let Some((_, first)) = failures.next() else { return Ok(()) };
    for (_, error) in failures {
        remark(format_args!("pgtenant: {}", Failure::from(error)));
    }
    Err(first.into())
}

async fn create(context: &Context, new: Create) -> Result<(), Failure> {
    let password = if new.password_stdin { Some(read_password()?) } else { None };
    let given = password.is_some();
    let slug = new.slug.clone();
    let name = TenantName::parse(slug.as_str())?;
    let control = context.control().await?;
    let created = control
        .create(NewTenant {
            id: new.id.map(TenantId),
            slug: new.slug,
            name: new.name,
            contact: new.contact,
            aliases: new.aliases,
            modules: new.modules,
            overrides: Overrides {
                isolation: new.isolation,
                server: new.server,
                database: None,
                limits: new.limits.limits(),
            },
            login: new.login,
            password,
        })
        .await;
    match created {
        Ok(created) => {
            print_created(context, &created.tenant, created.password.as_ref())?;
            if !created.tenant.logins.is_empty() && created.password.is_none() && !given && !context.json() {
                remark(format_args!(
                    "{slug} was there already; its password was shown when it was made and is kept nowhere"
                ));
            }
            Ok(())
        }
        Err(control::Error::Unfinished { password, source }) => {
            print_created(context, &control.tenant(&name).await?, Some(&password))?;
            Err((*source).into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn subscribe(context: &Context, wanted: Subscribe) -> Result<(), Failure> {
    let control = context.control().await?;
    let overrides = Overrides {
        isolation: wanted.isolation,
        server: wanted.server,
        database: wanted.database,
        limits: wanted.limits.limits(),
    };
    let subscription = Subscription {
        module: wanted.module,
        overrides,
        schema: wanted.schema,
        role: wanted.role,
        existing: wanted.existing,
    };
    match control.subscribe(&wanted.tenant, &subscription).await {
        Ok(created) => Ok(print_created(context, &created.tenant, created.password.as_ref())?),
        Err(control::Error::Unfinished { password, source }) => {
            print_created(context, &control.tenant(&wanted.tenant).await?, Some(&password))?;
            Err((*source).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// A tenant that is no more, in JSON.
#[derive(Serialize)]
struct Deleted<'a> {
    tenant: &'a str,
    result: &'static str,
}

async fn delete(context: &Context, name: &TenantName, drop_data: bool) -> Result<(), Failure> {
    let control = context.control().await?;
    let slug = control.tenant(name).await?.tenant.slug;
    match control.delete(name, drop_data).await? {
        Some(archived) => show_changed(context, control, &archived).await,
        None if context.json() => Ok(print_json(&Deleted { tenant: slug.as_str(), result: "deleted" })?),
        None => Ok(print(format_args!("Tenant {slug} deleted, with its data."))?),
    }
}

fn print_created(context: &Context, tenant: &TenantDetails, password: Option<&Secret>) -> anyhow::Result<()> {
    if context.json() {
        return print_json(&CreatedView::new(tenant, password, context.proxy()));
    }
    print_tenant(tenant, password, context.proxy())?;
    if password.is_some() {
        remark("The password is shown this once; it is kept nowhere.");
    }
    Ok(())
}

async fn show(context: &Context, source: &Source, tenant: &TenantDetails) -> Result<(), Failure> {
    let uses = source.activity(std::slice::from_ref(tenant)).await?;
    let used = uses.get(&tenant.tenant.id).copied().unwrap_or_default();
    if context.json() {
        print_json(&TenantView::new(tenant, used, context.proxy()))?;
        return Ok(());
    }
    print_tenant(tenant, None, context.proxy())?;
    print(format_args!("last used: {}", or_dash(last_used(used))))?;
    Ok(())
}

/// Shows a tenant that was just changed.
async fn show_changed(context: &Context, control: Control, tenant: &TenantDetails) -> Result<(), Failure> {
    show(context, &Source::Database(control), tenant).await
}

fn print_url(context: &Context, tenant: &TenantDetails, module: Option<ModuleName>) -> Result<(), Failure> {
    let slug = tenant.tenant.slug.as_str();
    let only = || match tenant.placements.as_slice() {
        [only] => Some(only.module.clone()),
        _ => None,
    };
    let module = module.or_else(|| tenant.tenant.default_module.clone()).or_else(only);
    let Some(module) = module else {
        return Err(anyhow::anyhow!("tenant \"{slug}\" has no default module; say which with --module").into());
    };
    if tenant.placements.iter().all(|placement| placement.module != module) {
        let (tenant, module) = (slug.to_owned(), module.to_string());
        return Err(control::Error::NotSubscribed { tenant, module }.into());
    }
    let url = url(tenant, module.as_str(), None, context.proxy());
    if context.json() {
        print_json(&UrlView { tenant: slug, module: module.as_str(), url })?;
    } else {
        print(url)?;
    }
    Ok(())
}
