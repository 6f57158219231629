//! A check: its name, the wall that it tries, and how.

use std::pin::Pin;
use std::time::Duration;

use super::error::Error;
use super::scene::Scene;
use super::verdict::{Finding, Verdict, Wall};
use super::{catalogs, identity, leftovers, places, plans, rows, settings, signals, startup};

/// Longest time that a check may take: a hang is a finding too.
const PATIENCE: Duration = Duration::from_secs(90);

/// What playing a check comes to, once it is played.
pub(super) type Played<'a> = Pin<Box<dyn Future<Output = Result<Verdict, Error>> + Send + 'a>>;

/// Something that one tenant tries on another.
pub struct Check {
    /// What is tried, in a few words.
    pub name: &'static str,
    wall: Wall,
    play: for<'a> fn(&'a Scene) -> Played<'a>,
}

impl Check {
    pub(super) const fn new(name: &'static str, wall: Wall, play: for<'a> fn(&'a Scene) -> Played<'a>) -> Self {
        Self { name, wall, play }
    }

    /// Plays it between the two tenants of a scene.
    pub async fn run(&self, scene: &Scene) -> Finding {
        let played = match tokio::time::timeout(PATIENCE, (self.play)(scene)).await {
            Ok(played) => played,
            Err(_) => Err(Error::Absent("its end")),
        };
        Finding::new(self.name, self.wall, scene.ground, played)
    }
}

/// All checks, in the order in which they are played and told.
pub fn all() -> impl Iterator<Item = &'static Check> {
    let groups = [
        places::CHECKS,
        rows::CHECKS,
        identity::CHECKS,
        settings::CHECKS,
        startup::CHECKS,
        leftovers::CHECKS,
        plans::CHECKS,
        signals::CHECKS,
        catalogs::CHECKS,
        identity::LAST,
    ];
    groups.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let names: Vec<_> = super::all().map(|check| check.name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert!(names.len() >= 30, "{}", names.len());
    }
}
