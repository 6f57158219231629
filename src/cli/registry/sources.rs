//! Old registries on the command line: `--source` and `--module` in pairs.

use clap::Args;
use clap::error::ErrorKind;

use crate::control::Error;
use crate::control::import::Source;
use crate::tenant::ModuleName;

#[derive(Debug, Args)]
pub(super) struct Sources {
    /// Database of a service with an old public.tenant_registry: a URL, or env:NAME or file:PATH where one is; with its --module, repeatable.
    #[arg(long, value_name = "URL", requires = "module")]
    source: Vec<String>,
    /// The module whose tenants the --source knows, as `module add` has it.
    #[arg(long, value_name = "MODULE", requires = "source")]
    module: Vec<ModuleName>,
}

impl Sources {
    pub(super) const fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// The pairs, in their order. Ends the program with a usage error where one has no partner.
    pub(super) async fn parse(self) -> Result<Vec<Source>, Error> {
        if self.source.len() != self.module.len() {
            let counts =
                format!("{} --source and {} --module; each has one of the other", self.source.len(), self.module.len());
            clap::Error::raw(ErrorKind::WrongNumberOfValues, counts + "\n").exit();
        }
        let mut sources = Vec::with_capacity(self.source.len());
        for (source, module) in self.source.iter().zip(self.module) {
            sources.push(Source::parse(source, module).await?);
        }
        Ok(sources)
    }
}
