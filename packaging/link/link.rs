//! Build script: has the linker put the functions of order.ld side by side.
//!
//! Only in release builds for Linux, and only for the program. `PGTENANT_LINK_ORDER=0` leaves it out, for linkers that take no scripts
//! (mold, for one; lld and GNU ld do).

use std::env;
use std::path::Path;

fn main() -> Result<(), env::VarError> {
    println!("cargo::rerun-if-changed=packaging/link/order.ld");
    println!("cargo::rerun-if-env-changed=PGTENANT_LINK_ORDER");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let order = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("packaging/link/order.ld");
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && !is("PGTENANT_LINK_ORDER", "0") {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", order.display());
    }
    Ok(())
}
