//! What many tenants have in common, kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Before so many are there, nobody looks which of them are still in use.
const FEW: usize = 16;

/// Values of which each is kept once, for as long as somebody has it.
#[derive(Debug)]
pub(super) struct Common<T> {
    known: HashSet<Arc<T>>,
    /// So many are there when those that nobody has are next thrown away.
    full_at: usize,
}

impl<T> Default for Common<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), full_at: FEW }
    }
}

impl<T: Eq + Hash> Common<T> {
    /// Takes the equal value that others have, if there is one, else makes this one theirs.
    pub(super) fn share(&mut self, own: &mut Arc<T>) {
        if let Some(common) = self.known.get(own) {
            *own = Arc::clone(common);
            return;
        }
        if self.known.len() >= self.full_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.full_at = FEW.max(2 * self.known.len());
        }
        self.known.insert(Arc::clone(own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_others_stay_apart() {
        let mut common = Common::default();
        let mut values = ["a", "b", "a", "b"].map(|text| Arc::new(text.to_owned()));
        for value in &mut values {
            common.share(value);
        }
        assert!(Arc::ptr_eq(&values[0], &values[2]) && Arc::ptr_eq(&values[1], &values[3]));
        assert_eq!((values[0].as_str(), values[1].as_str()), ("a", "b"));
    }

    #[test]
    fn what_nobody_has_any_more_is_thrown_away() {
        let mut common = Common::default();
        let mut kept = Arc::new(0);
        common.share(&mut kept);
        for number in 1..1000 {
            common.share(&mut Arc::new(number));
        }
        assert!(common.known.len() <= 2 * FEW, "{}", common.known.len());
        let mut again = Arc::new(0);
        common.share(&mut again);
        assert!(Arc::ptr_eq(&kept, &again));
    }
}
