//! The commands: what a person types, wired to the parts that do it.
