//! Old registries of services, and registry files, merged into the registry, verified and taken back.

mod conflicts;
mod crash;
mod export;
mod merge;
mod old;
mod rollback;
mod sources;
