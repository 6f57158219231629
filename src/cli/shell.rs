//! What the program tells shells and `man` of itself: completions and manual pages, made of the command line's own definition.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde::Serialize;

use super::Cli;
use super::context::Context;
use super::output::{Failure, print, print_json, print_raw};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell that is to complete pgtenant's commands. Bash: `source <(pgtenant completions bash)` in ~/.bashrc;
    /// zsh: into a file _pgtenant on $fpath; fish: into ~/.config/fish/completions/pgtenant.fish.
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write a page for each command into this directory (made if missing), for example ~/.local/share/man/man1.
    /// Without it, pgtenant(1) goes to standard output.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Pages {
    pages: Vec<String>,
}

/// Prints the script that a shell reads.
pub(super) fn completions(shell: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell.shell, &mut Cli::command(), "pgtenant", &mut script);
    Ok(print_raw(&script)?)
}

/// Prints or writes the manual.
pub(super) fn man(context: &Context, man: &Man) -> Result<(), Failure> {
    let Some(directory) = &man.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return Ok(print_raw(&page)?);
    };
    let pages = write_pages(directory).with_context(|| format!("write manual pages to {}", directory.display()))?;
    if context.json() {
        print_json(&Pages { pages })?;
    } else {
        print(format_args!("{} manual pages written to {}", pages.len(), directory.display()))?;
    }
    Ok(())
}

/// Writes a page for each command; the files' names.
fn write_pages(directory: &Path) -> io::Result<Vec<String>> {
    std::fs::create_dir_all(directory)?;
    // `pgtenant help …` is no page of its own: each page is its command's help.
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let (mut pages, mut left) = (Vec::new(), vec![root]);
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().cloned());
        let page = clap_mangen::Man::new(command).manual("pgtenant");
        page.generate_to(directory)?;
        pages.push(page.get_filename());
    }
    pages.sort_unstable();
    Ok(pages)
}
