//! `pgtenant tenant …`

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Context;
use super::output::{Failure, print, print_json, remark, table};
use super::view::{CreatedView, TenantView, print_tenant, url};
use crate::auth::Secret;
use crate::control::{self, Control, DEFAULT_LOGIN, NewTenant, Overrides};
use crate::registry::TenantDetails;
use crate::tenant::{Alias, Isolation, ModuleName, ServerName, Slug, TenantName};

/// Tenants read from the registry at a time.
const PAGE: u32 = 500;
/// Longest password that is read from standard input, in bytes.
const PASSWORD_BYTES_MAX: u64 = 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a tenant, or finish one that an earlier run left unfinished.
    Create(Box<Create>),
    /// All tenants.
    List,
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
    /// The connection string of a tenant's module, without its password.
    Url {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The module; the tenant's default one if absent.
        #[arg(long)]
        module: Option<ModuleName>,
    },
    /// Make what the registry asks for and is not there yet: of one tenant (going over what is there too), or of all.
    Reconcile {
        /// Its slug, id or an alias.
        tenant: Option<TenantName>,
    },
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
    /// What it subscribes to; the first is what a client gets that names none.
    #[arg(long, required = true, value_delimiter = ',')]
    modules: Vec<ModuleName>,
    /// database, schema or shared, instead of the modules' own.
    #[arg(long)]
    isolation: Option<Isolation>,
    /// A server instead of the modules' own.
    #[arg(long)]
    server: Option<ServerName>,
    /// Name of its login.
    #[arg(long, default_value = DEFAULT_LOGIN, value_parser = parse_login)]
    login: String,
    /// Take the password from standard input instead of making one.
    #[arg(long)]
    password_stdin: bool,
}

/// A connection string in JSON.
#[derive(Serialize)]
struct UrlView<'a> {
    tenant: &'a str,
    module: &'a str,
    url: String,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    if let Command::Create(new) = command {
        return create(context, *new).await;
    }
    let control = context.control().await?;
    match command {
        Command::Create(_) => Ok(()),
        Command::List => list(context, &control).await,
        Command::Show { tenant } => show(context, &control.tenant(&tenant).await?),
        Command::Suspend { tenant, grace } => show(context, &control.suspend(&tenant, grace).await?),
        Command::Activate { tenant } => show(context, &control.activate(&tenant).await?),
        Command::Url { tenant, module } => print_url(context, &control.tenant(&tenant).await?, module),
        Command::Reconcile { tenant } => print_list(context, &control.reconcile(tenant.as_ref()).await?),
    }
}

async fn create(context: &Context, new: Create) -> Result<(), Failure> {
    let password = if new.password_stdin { Some(read_password()?) } else { None };
    let given = password.is_some();
    let slug = new.slug.clone();
    let name = TenantName::parse(slug.as_str())?;
    let control = context.control().await?;
    let created = control
        .create(NewTenant {
            slug: new.slug,
            name: new.name,
            contact: new.contact,
            aliases: new.aliases,
            modules: new.modules,
            overrides: Overrides { isolation: new.isolation, server: new.server, ..Overrides::default() },
            login: new.login,
            password,
        })
        .await;
    match created {
        Ok(created) => {
            print_created(context, &created.tenant, created.password.as_ref())?;
            if created.password.is_none() && !given && !context.json() {
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

async fn list(context: &Context, control: &Control) -> Result<(), Failure> {
    let mut tenants: Vec<TenantDetails> = Vec::new();
    loop {
        let after = tenants.last().map(|tenant| tenant.tenant.slug.clone());
        let page = control.registry().tenants(after.as_ref(), PAGE).await?;
        let done = page.len() < PAGE as usize;
        tenants.extend(page);
        if done {
            return print_list(context, &tenants);
        }
    }
}

fn print_list(context: &Context, tenants: &[TenantDetails]) -> Result<(), Failure> {
    if context.json() {
        let views: Vec<_> = tenants.iter().map(|tenant| TenantView::new(tenant, context.proxy())).collect();
        print_json(&views)?;
        return Ok(());
    }
    let mut rows = table(["slug", "name", "status", "modules", "aliases", "tenant_id"]);
    for tenant in tenants {
        let modules: Vec<_> = tenant.placements.iter().map(|placement| placement.module.as_str()).collect();
        let aliases: Vec<_> = tenant.aliases.iter().map(Alias::as_str).collect();
        rows.add_row([
            tenant.tenant.slug.to_string(),
            tenant.tenant.name.clone(),
            tenant.tenant.status.to_string(),
            modules.join(", "),
            aliases.join(", "),
            tenant.tenant.id.to_string(),
        ]);
    }
    print(rows)?;
    Ok(())
}

fn show(context: &Context, tenant: &TenantDetails) -> Result<(), Failure> {
    if context.json() {
        print_json(&TenantView::new(tenant, context.proxy()))?;
    } else {
        print_tenant(tenant, None, context.proxy())?;
    }
    Ok(())
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

/// The first line of standard input.
fn read_password() -> anyhow::Result<Secret> {
    let mut text = String::new();
    std::io::stdin().lock().take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text).context("read the password")?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        bail!("the password on standard input is empty");
    }
    if line.len() as u64 > PASSWORD_BYTES_MAX {
        bail!("the password on standard input is longer than {PASSWORD_BYTES_MAX} bytes");
    }
    Ok(Secret::new(line.to_owned()))
}

/// A login's name: what stands before `@tenant` in a user name.
fn parse_login(text: &str) -> Result<String, &'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.len() <= 63 && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("a login has up to 63 letters, digits, - and _")
    }
}
