//! `pgtenant check`: what is wrong, one line each.

use anyhow::anyhow;

use super::context::Context;
use super::output::{Failure, print, print_json};
use crate::control::{Problem, inspect};

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let problems = match context.control().await {
        Ok(control) => inspect(&control).await?,
        Err(error) => vec![Problem { what: "registry".to_owned(), problem: Failure::from(error).to_string() }],
    };
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
