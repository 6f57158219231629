//! Migrations over a fleet, by the command: what becomes of every place, and of runs that fail, meet, or break off.

mod fleet;
mod places;
mod run;
mod safety;
mod statements;
