//! Whether clients should be sent here.

use super::plane::{Phase, Plane};
use crate::registry::Standing;

/// What readiness comes to, with a reason for people.
pub(super) type Readiness = Result<String, String>;

/// Ready is who accepts clients and knows tenants, from the registry or from memory.
pub(super) fn readiness(plane: &impl Plane) -> Readiness {
    match (plane.phase(), plane.registry()) {
        (Phase::Draining, _) => Err("draining".to_owned()),
        (Phase::Serving, Some(registry)) => known(&registry.standing()),
        (Phase::Starting, _) | (_, None) => Err("starting".to_owned()),
    }
}

fn known(standing: &Standing) -> Readiness {
    if standing.reachable {
        return Ok("ready".to_owned());
    }
    let since = standing.age.map_or_else(String::new, |age| format!(" for {} s", age.as_secs()));
    if standing.servable == 0 {
        return Err(format!("the registry cannot be reached{since}, and no tenant is remembered"));
    }
    Ok(format!("ready; the registry cannot be reached{since}, {} tenants are served from memory", standing.servable))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_registry_that_is_down_makes_unready_only_when_nobody_is_remembered() {
        let standing = |reachable, servable| Standing { reachable, age: Some(Duration::from_secs(9)), servable };
        assert_eq!(known(&standing(true, 0)).unwrap(), "ready");
        let text = known(&standing(false, 2)).unwrap();
        assert_eq!(text, "ready; the registry cannot be reached for 9 s, 2 tenants are served from memory");
        let text = known(&standing(false, 0)).unwrap_err();
        assert_eq!(text, "the registry cannot be reached for 9 s, and no tenant is remembered");
        let never = known(&Standing { age: None, ..standing(false, 0) }).unwrap_err();
        assert_eq!(never, "the registry cannot be reached, and no tenant is remembered");
    }
}
