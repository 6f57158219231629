//! Who of several gets how much of something that each of them says it has use for.

/// What one of them says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// How much it has use for.
    pub need: u32,
    /// It is on its way out: it wants no more than that, and nothing is kept ready for it.
    pub leaving: bool,
}

impl Claim {
    const fn stays(&self) -> bool {
        !self.leaving
    }
}

/// Everybody's part of `whole`, in the order of the claims; all together never more than `whole`. Whoever stays gets one at least, if there
/// are as many. Needs are met evenly, the smallest first, and what nobody needs is kept ready evenly for those who stay.
/// Where there are fewer than claims, the next `period` begins with the next claim.
#[must_use]
pub fn partition(whole: u32, claims: &[Claim], period: u64) -> Vec<u32> {
    let staying = count(claims.iter().filter(|claim| claim.stays()).count());
    let least = |claim: &Claim| u32::from(claim.stays() && staying <= whole);
    let mut parts: Vec<u32> = claims.iter().map(least).collect();
    let mut left = whole - parts.iter().sum::<u32>();

    let more: Vec<u32> = claims.iter().zip(&parts).map(|(claim, part)| claim.need.saturating_sub(*part)).collect();
    let mut order = in_turn(claims.len(), whole, period);
    order.sort_by_key(|at| more[*at]);
    left -= pour(left, &order, &mut parts, |at| more[at]);

    let order: Vec<_> = (0..claims.len()).filter(|at| claims[*at].stays()).collect();
    pour(left, &order, &mut parts, |_| u32::MAX);
    parts
}

/// The indexes, from another one on in each period if there is not one for each.
fn in_turn(length: usize, whole: u32, period: u64) -> Vec<usize> {
    let turned = if count(length) > whole { period % (length.max(1) as u64) } else { 0 };
    // Less than the length.
    let first = usize::try_from(turned).unwrap_or(0);
    (first..length).chain(0..first).collect()
}

/// Gives each an even part of what is left, and no more than it can take; how much was given. Those who can take least come first.
fn pour(whole: u32, order: &[usize], parts: &mut [u32], room: impl Fn(usize) -> u32) -> u32 {
    let mut left = whole;
    for (taken, at) in order.iter().enumerate() {
        let even = left.div_ceil(count(order.len() - taken));
        let given = even.min(room(*at));
        parts[*at] += given;
        left -= given;
    }
    whole - left
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stays(need: u32) -> Claim {
        Claim { need, leaving: false }
    }

    fn leaves(need: u32) -> Claim {
        Claim { need, leaving: true }
    }

    #[test]
    fn one_alone_gets_all() {
        assert_eq!(partition(6, &[stays(0)], 0), [6]);
        assert_eq!(partition(6, &[stays(90)], 0), [6]);
    }

    #[test]
    fn needs_are_met_evenly_and_what_nobody_needs_is_kept_ready() {
        assert_eq!(partition(6, &[stays(9), stays(9)], 7), [3, 3]);
        assert_eq!(partition(6, &[stays(0), stays(9)], 7), [1, 5]);
        assert_eq!(partition(10, &[stays(2), stays(9), stays(9)], 7), [2, 4, 4]);
        assert_eq!(partition(10, &[stays(1), stays(3)], 7), [4, 6]);
        assert_eq!(partition(6, &[], 0), [0; 0]);
    }

    #[test]
    fn one_on_its_way_out_gets_what_it_needs_and_hands_over_the_rest() {
        assert_eq!(partition(6, &[leaves(2), stays(0)], 0), [2, 4]);
        assert_eq!(partition(6, &[leaves(0), stays(9)], 0), [0, 6]);
        assert_eq!(partition(6, &[leaves(9), stays(9)], 0), [2, 4]);
        assert_eq!(partition(6, &[leaves(0)], 0), [0]);
    }

    #[test]
    fn where_there_are_too_few_everybody_has_its_turn() {
        let claims = [stays(4); 3];
        let had: Vec<_> = (0..3).map(|period| partition(1, &claims, period)).collect();
        assert_eq!(had, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]);
    }

    proptest! {
        #[test]
        fn parts_are_never_more_than_the_whole_and_nobody_who_stays_is_left_out(
            whole in 0_u32..200,
            said in prop::collection::vec((0_u32..100, any::<bool>()), 0..12),
            period in any::<u64>(),
        ) {
            let claims: Vec<_> = said.into_iter().map(|(need, leaving)| Claim { need, leaving }).collect();
            let parts = partition(whole, &claims, period);
            let sum: u32 = parts.iter().sum();
            let staying = claims.iter().filter(|claim| claim.stays()).count() as u32;
            let needed: u32 = claims.iter().map(|claim| claim.need.max(u32::from(claim.stays()))).sum();
            prop_assert_eq!(parts.len(), claims.len());
            prop_assert!(sum <= whole);
            if staying > 0 {
                prop_assert_eq!(sum, whole, "nothing lies fallow");
            }
            for (part, claim) in parts.iter().zip(&claims) {
                if claim.leaving {
                    prop_assert!(*part <= claim.need);
                } else if staying <= whole {
                    prop_assert!(*part >= 1);
                }
                if needed <= whole {
                    prop_assert!(*part >= claim.need);
                } else {
                    // An even part, less what the least of others may take of it.
                    let even = whole.saturating_sub(staying) / claims.len() as u32;
                    prop_assert!(*part >= claim.need.min(even));
                }
            }
        }
    }
}
