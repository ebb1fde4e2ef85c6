//! What all shards of an agent may use together, divided among them.

use dts_proto::v1::{Budgets, SpoolStatus};

use crate::limits::Limits;

/// What a shard would have alone, and what its spool holds.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// By its task.
    pub limits: Limits,
    /// It is not bounded below that.
    pub held: SpoolStatus,
}

/// The limits of every shard, in their order: together within the budgets.
pub fn divide(budgets: &Budgets, claims: &[Claim]) -> Vec<Limits> {
    let column = |budget: u64, of: fn(&Claim) -> (u64, u64)| share(budget, &claims.iter().map(of).collect::<Vec<_>>());
    let memory = column(budgets.memory_bytes, |claim| (claim.limits.spool_memory_bytes, claim.held.memory_bytes));
    let disk = column(budgets.disk_bytes, |claim| (claim.limits.spool_disk_bytes, claim.held.disk_bytes));
    let read = column(budgets.read_bytes_per_second, |claim| (wish(claim.limits.read_bytes_per_second), 0));
    let write = column(budgets.write_bytes_per_second, |claim| (wish(claim.limits.write_bytes_per_second), 0));
    let all = claims.iter().zip(memory).zip(disk).zip(read).zip(write);
    let limits = all.map(|((((claim, memory), disk), read), write)| Limits {
        spool_memory_bytes: memory,
        spool_disk_bytes: disk,
        read_bytes_per_second: rate(read),
        write_bytes_per_second: rate(write),
        ..claim.limits
    });
    limits.collect()
}

/// A rate of 0 is unbounded.
fn wish(rate: u64) -> u64 {
    if rate == 0 { u64::MAX } else { rate }
}

fn rate(share: u64) -> u64 {
    if share == u64::MAX { 0 } else { share.max(1) }
}

/// Everybody gets what it wants, or as much as any other that gets less than it wants; nobody less than it holds.
fn share(budget: u64, wants: &[(u64, u64)]) -> Vec<u64> {
    let at = |level: u64| wants.iter().map(move |(want, held)| (*want).min(level.max(*held)));
    if budget == 0 {
        return at(u64::MAX).collect();
    }
    let fits = |level: u64| at(level).map(u128::from).sum::<u128>() <= u128::from(budget);
    let (mut low, mut high) = (0, u64::MAX);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    at(low).collect()
}

#[cfg(test)]
mod tests {
    use dts_proto::v1;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_wants_little_leaves_the_rest_to_the_others() {
        assert_eq!(share(100, &[(10, 0), (80, 0), (80, 0)]), [10, 45, 45]);
        assert_eq!(share(0, &[(10, 0), (80, 0)]), [10, 80]);
        assert_eq!(share(1000, &[(10, 0), (80, 0)]), [10, 80]);
        // A spool that holds 70 is not told to hold 50.
        assert_eq!(share(100, &[(80, 70), (80, 0)]), [70, 30]);
    }

    #[test]
    fn a_budget_of_bandwidth_bounds_shards_that_had_none() {
        let claim = Claim { limits: Limits::from(v1::Limits::default()), held: SpoolStatus::default() };
        let budgets = Budgets { write_bytes_per_second: 1000, ..Budgets::default() };
        let divided = divide(&budgets, &[claim, claim]);
        assert!(divided.iter().all(|limits| limits.write_bytes_per_second == 500 && limits.read_bytes_per_second == 0));
        assert_eq!(divide(&Budgets::default(), &[claim]), [claim.limits]);
    }

    proptest! {
        #[test]
        fn the_sum_stays_within_the_budget(budget in 1u64..10_000, wants in prop::collection::vec(1u64..5000, 1..20)) {
            let wants: Vec<(u64, u64)> = wants.into_iter().map(|want| (want, 0)).collect();
            let shares = share(budget, &wants);
            prop_assert!(shares.iter().sum::<u64>() <= budget);
            let left = budget - shares.iter().sum::<u64>();
            let short = shares.iter().zip(&wants).filter(|(share, (want, _))| *share < want).count();
            prop_assert!(short == 0 || left < short as u64, "{left} are left, and {short} want more");
        }
    }
}
