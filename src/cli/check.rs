//! `pgtenant check`: what is wrong, one line each.

use anyhow::{Context as _, anyhow};

use super::context::Context;
use super::output::{Failure, print, print_json};
use crate::config::Config;
use crate::control::{Problem, inspect};
use crate::net::tls;

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let mut problems = Vec::new();
    match context.config() {
        Ok(config) => note(&mut problems, "configuration", check_tls(&config)),
        Err(error) => note(&mut problems, "configuration", Err(error)),
    }
    match read(context).await {
        Ok(found) => problems.extend(found),
        // What the configuration says of the registry is wrong, and has been said.
        Err(_) if !problems.is_empty() => {}
        Err(error) => note(&mut problems, "registry", Err(error)),
    }
    if context.json() {
        print_json(&problems)?;
    } else {
        for Problem { what, problem } in &problems {
            print(format_args!("{what}: {problem}"))?;
        }
    }
    match problems.len() {
        0 if context.json() => Ok(()),
        0 => Ok(print("Nothing is wrong.")?),
        1 => Err(anyhow!("one thing is wrong").into()),
        n => Err(anyhow!("{n} things are wrong").into()),
    }
}

/// What is wrong with the registry, the servers in it and the places on them.
async fn read(context: &Context) -> anyhow::Result<Vec<Problem>> {
    let source = context.source().await?;
    let inventory = source.inventory().await?;
    Ok(inspect(&inventory, &source.tenants().await?).await)
}

/// The proxy's certificate and key can be used.
fn check_tls(config: &Config) -> anyhow::Result<()> {
    let listen = &config.listen;
    if let (Some(certificate), Some(key)) = (&listen.tls_certificate, &listen.tls_key) {
        tls::server_config(certificate, key, listen.client_ca.as_deref()).context("listen")?;
    }
    Ok(())
}

/// Each line of an error is one thing that is wrong.
fn note(problems: &mut Vec<Problem>, what: &str, outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        let text = format!("{error:#}");
        let text = text.strip_prefix(what).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
        problems.extend(text.lines().map(|line| Problem { what: what.to_owned(), problem: line.trim().to_owned() }));
    }
}
