//! The pgtenant binary.

fn main() {}
