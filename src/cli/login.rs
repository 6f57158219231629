//! `pgtenant tenant login …`, and passwords from standard input.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde::Serialize;

use super::context::Context;
use super::output::{Failure, print, print_json, remark};
use crate::auth::Secret;
use crate::control::{Control, LoginMade};
use crate::tenant::TenantName;

/// Longest password that is read from standard input, in bytes.
const PASSWORD_BYTES_MAX: u64 = 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Give a tenant another login, with the tenant's rights.
    Add {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The login.
        #[arg(value_parser = parse_login)]
        login: String,
        /// Take the password from standard input instead of making one.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Take a login from a tenant, and end its sessions.
    Remove {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The login.
        login: String,
    },
    /// Give a login another password, on all servers.
    Password {
        /// Its slug, id or an alias.
        tenant: TenantName,
        /// The login.
        login: String,
        /// Take the password from standard input instead of making one.
        #[arg(long)]
        password_stdin: bool,
    },
}

/// A login in JSON.
#[derive(Serialize)]
struct LoginView<'a> {
    tenant: &'a str,
    login: &'a str,
    role: &'a str,
    password: Option<&'a str>,
}

/// A login that is no more, in JSON.
#[derive(Serialize)]
struct LoginRemoved<'a> {
    tenant: &'a str,
    login: &'a str,
    result: &'static str,
}

pub(super) async fn run(context: &Context, control: &Control, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { tenant, login, password_stdin } => {
            let password = password_stdin.then(read_password).transpose()?;
            let given = password.is_some();
            print_login(context, &control.add_login(&tenant, &login, password).await?, given, "has")
        }
        Command::Password { tenant, login, password_stdin } => {
            let password = password_stdin.then(read_password).transpose()?;
            let given = password.is_some();
            print_login(
                context,
                &control.set_password(&tenant, &login, password).await?,
                given,
                "has a new password for",
            )
        }
        Command::Remove { tenant, login } => {
            let left = control.remove_login(&tenant, &login).await?;
            let tenant = left.tenant.slug.as_str();
            if context.json() {
                print_json(&LoginRemoved { tenant, login: &login, result: "removed" })?;
            } else {
                print(format_args!("Tenant {tenant} has no login {login} any more."))?;
            }
            Ok(())
        }
    }
}

fn print_login(context: &Context, made: &LoginMade, given: bool, verb: &str) -> Result<(), Failure> {
    let LoginMade { tenant, login, role, password } = made;
    let password = password.as_ref().map(Secret::expose);
    if context.json() {
        print_json(&LoginView { tenant, login, role, password })?;
        return Ok(());
    }
    print(format_args!("Tenant {tenant} {verb} login {login} (role {role})."))?;
    match password {
        Some(password) => {
            print(format_args!("password: {password}"))?;
            remark("The password is shown this once; it is kept nowhere.");
        }
        None if given => {}
        None => remark("It was there already and keeps its password."),
    }
    Ok(())
}

/// The first line of standard input.
pub(super) fn read_password() -> anyhow::Result<Secret> {
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
pub(super) fn parse_login(text: &str) -> Result<String, &'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !text.is_empty() && text.len() <= 63 && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("a login has up to 63 letters, digits, -, _ and dots")
    }
}
