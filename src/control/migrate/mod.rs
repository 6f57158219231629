//! Fleet migration: brings all places of a registry, or some, to the version of their modules' files, side by side.

mod crew;
mod fleet;
mod outcome;
mod run;

pub use fleet::{Fleet, Selection};
pub use outcome::{Outcome, Problem, Standing, Whose};
pub use run::{Halt, Report, RunConfig, Stopped, examine, run};
