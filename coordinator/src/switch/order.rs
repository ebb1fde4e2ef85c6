//! What the holder of a shard is told, and what it says.

use std::time::{Duration, SystemTime};

use dts_proto::v1::{SwitchOver, SwitchOverOrder, SwitchOverPhase, SwitchOverReport, SwitchOverShard, SwitchOverStep};

/// The order for a shard; none once there is nothing left to do.
pub fn order(switch: &SwitchOver, index: u32) -> Option<SwitchOverOrder> {
    use SwitchOverPhase as P;
    let shard = switch.shards.iter().find(|shard| shard.index == index)?;
    let step = match switch.phase() {
        P::Looking | P::Comparing => SwitchOverStep::Look,
        P::Holding | P::Verifying => SwitchOverStep::Hold,
        P::Closing => SwitchOverStep::Close,
        // One of the shards does it for all.
        P::Completing if index == 0 && super::turns(switch) && switch.shards.iter().all(|shard| shard.finished) => {
            SwitchOverStep::Turn
        }
        P::Completing => SwitchOverStep::Finish,
        P::Returned if !shard.freed && shard.held_at.is_some() => SwitchOverStep::Free,
        _ => return None,
    };
    let known = SwitchOverShard {
        index,
        master: shard.master.clone(),
        method: shard.method.clone(),
        replication_id: shard.replication_id.clone(),
        barrier: shard.barrier,
        writes: shard.writes,
        closed_users: shard.closed_users.clone(),
        ..SwitchOverShard::default()
    };
    let turns = step == SwitchOverStep::Turn;
    Some(SwitchOverOrder {
        number: switch.number,
        step: step.into(),
        spec: switch.spec,
        known: Some(known),
        way_back_task_id: if turns { switch.way_back_task_id.clone() } else { String::new() },
        open: if turns { switch.opens.clone() } else { Vec::new() },
    })
}

/// Takes in what the holder of a shard says, under its epoch; true if it is worth keeping.
pub fn take(switch: &mut SwitchOver, index: u32, epoch: u64, report: &SwitchOverReport) -> bool {
    // What stands in the report of one that is done is what the next one goes by.
    if report.number != switch.number || switch.phase() == SwitchOverPhase::Done {
        return false;
    }
    let holds = matches!(switch.phase(), SwitchOverPhase::Holding | SwitchOverPhase::Verifying);
    let decided = switch.phase() == SwitchOverPhase::Completing;
    let Some(shard) = switch.shards.iter_mut().find(|shard| shard.index == index) else { return false };
    let Some(said) = &report.shard else { return false };
    let (before, turned) = (shard.clone(), switch.turned.clone());
    // Whoever comes after the one that turned does it again.
    if index == 0 && decided {
        switch.turned.clone_from(&report.turned);
    }
    // Whoever comes after the one that held knows less.
    let same = shard.epoch == epoch;
    if same || !holds {
        *shard = SwitchOverShard {
            index,
            epoch: before.epoch,
            held_at: before.held_at,
            write_gap_ms: before.write_gap_ms,
            // What is decided stays so, whoever carries it out: who was closed out is let back in one day.
            reached: said.reached || (decided && before.reached),
            closed: said.closed || (decided && before.closed),
            ..said.clone()
        };
        if said.needs.is_empty() {
            shard.needs.clone_from(&before.needs);
        }
    }
    if shard.held_at.is_none() && report.held_for_ms > 0 {
        shard.held_at = SystemTime::now().checked_sub(Duration::from_millis(report.held_for_ms)).map(Into::into);
    }
    *shard != before || switch.turned != turned
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::Turned;

    use super::*;

    #[test]
    fn an_agent_that_comes_later_does_not_overwrite_what_the_first_one_held() {
        let shard = SwitchOverShard { epoch: 7, barrier: 100, writes: 5, ..SwitchOverShard::default() };
        let mut switch = SwitchOver {
            number: 1,
            phase: SwitchOverPhase::Holding.into(),
            shards: vec![shard],
            ..SwitchOver::default()
        };
        let later = SwitchOverShard { barrier: 900, writes: 9, ..SwitchOverShard::default() };
        let report = SwitchOverReport { number: 1, shard: Some(later), ..SwitchOverReport::default() };
        assert!(!take(&mut switch, 0, 8, &report));
        assert_eq!((switch.shards[0].barrier, switch.shards[0].writes), (100, 5));
        assert!(!take(&mut switch, 0, 7, &SwitchOverReport { number: 2, ..report.clone() }));
        assert!(take(&mut switch, 0, 7, &SwitchOverReport { held_for_ms: 10, ..report }));
        assert_eq!((switch.shards[0].barrier, switch.shards[0].epoch), (900, 7));
        assert!(switch.shards[0].held_at.is_some());
    }

    #[test]
    fn one_turns_for_all_once_all_are_finished_and_whoever_comes_after_it_begins_anew() {
        let shard = |index| SwitchOverShard { index, epoch: 7, closed: true, ..SwitchOverShard::default() };
        let mut switch = SwitchOver {
            number: 1,
            phase: SwitchOverPhase::Completing.into(),
            way_back_task_id: "back".into(),
            shards: vec![shard(0), shard(1)],
            ..SwitchOver::default()
        };
        let step = |switch: &SwitchOver, index| order(switch, index).map(|order| order.step());
        let finished = |index| SwitchOverReport {
            number: 1,
            shard: Some(SwitchOverShard { finished: true, ..shard(index) }),
            ..SwitchOverReport::default()
        };
        take(&mut switch, 0, 7, &finished(0));
        assert_eq!(step(&switch, 0), Some(SwitchOverStep::Finish));
        take(&mut switch, 1, 7, &finished(1));
        assert_eq!([step(&switch, 0), step(&switch, 1)], [Some(SwitchOverStep::Turn), Some(SwitchOverStep::Finish)]);
        let turned = SwitchOverReport { turned: Some(Turned::default()), ..finished(0) };
        assert!(take(&mut switch, 0, 7, &turned) && switch.turned.is_some());
        let known = order(&switch, 0).and_then(|order| order.known);
        let another = SwitchOverReport { number: 1, shard: known, ..SwitchOverReport::default() };
        assert!(take(&mut switch, 0, 8, &another) && switch.turned.is_none());
        assert!(switch.shards[0].closed, "who was closed out has to be let back in one day");
        assert_eq!(step(&switch, 0), Some(SwitchOverStep::Finish));
        switch.set_phase(SwitchOverPhase::Done);
        let late =
            SwitchOverReport { number: 1, shard: Some(SwitchOverShard::default()), ..SwitchOverReport::default() };
        assert!(!take(&mut switch, 0, 8, &late) && switch.shards[0].closed);
        switch.set_phase(SwitchOverPhase::Completing);
        (switch.way_back_task_id, switch.shards[0].finished) = (String::new(), true);
        assert_eq!(step(&switch, 0), Some(SwitchOverStep::Finish), "there is nothing to turn");
    }

    #[test]
    fn a_shard_that_was_never_held_is_not_freed() {
        let mut switch = SwitchOver {
            phase: SwitchOverPhase::Returned.into(),
            shards: vec![SwitchOverShard::default()],
            ..SwitchOver::default()
        };
        assert_eq!(order(&switch, 0), None);
        switch.shards[0].held_at = Some(SystemTime::now().into());
        assert_eq!(order(&switch, 0).map(|order| order.step()), Some(SwitchOverStep::Free));
        switch.shards[0].freed = true;
        assert_eq!(order(&switch, 0), None);
    }
}
