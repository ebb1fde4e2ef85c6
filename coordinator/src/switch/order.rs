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
        // One of the shards does the rest for all.
        P::Completing if index == 0 => super::left_to_do(switch).unwrap_or(SwitchOverStep::Finish),
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
    Some(SwitchOverOrder {
        number: switch.number,
        step: step.into(),
        spec: switch.spec,
        known: Some(known),
        way_back_task_id: if step == SwitchOverStep::Turn { switch.way_back_task_id.clone() } else { String::new() },
        open: if step == SwitchOverStep::Open { switch.opens.clone() } else { Vec::new() },
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
    let before = shard.clone();
    let ready = (switch.turned.is_some(), switch.opened.is_some());
    if index == 0 && decided {
        // Once: behind it others may be let in, whose writes a later place would miss.
        switch.turned = switch.turned.take().or_else(|| report.turned.clone());
        switch.opened = switch.opened.take().or_else(|| report.opened.clone());
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
    *shard != before || ready != (switch.turned.is_some(), switch.opened.is_some())
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{ClosedUser, Opened, Turned};

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
    fn one_turns_for_all_once_all_are_finished_and_then_lets_users_in() {
        use SwitchOverStep as S;
        let shard = |index| SwitchOverShard { index, epoch: 7, closed: true, ..SwitchOverShard::default() };
        let mut switch = SwitchOver {
            number: 1,
            phase: SwitchOverPhase::Completing.into(),
            way_back_task_id: "back".into(),
            opens: vec![ClosedUser::default()],
            shards: vec![shard(0), shard(1)],
            ..SwitchOver::default()
        };
        let step = |switch: &SwitchOver, index| order(switch, index).map(|order| order.step());
        let said =
            |shard: SwitchOverShard| SwitchOverReport { number: 1, shard: Some(shard), ..SwitchOverReport::default() };
        let finished = |index| said(SwitchOverShard { finished: true, ..shard(index) });
        take(&mut switch, 0, 7, &finished(0));
        assert_eq!(step(&switch, 0), Some(S::Finish));
        take(&mut switch, 1, 7, &finished(1));
        assert_eq!([step(&switch, 0), step(&switch, 1)], [Some(S::Turn), Some(S::Finish)]);
        let turned = Turned { target_port: 5, ..Turned::default() };
        assert!(take(&mut switch, 0, 7, &SwitchOverReport { turned: Some(turned.clone()), ..finished(0) }));
        assert_eq!(step(&switch, 0), Some(S::Open));
        // Another agent, which knows nothing of it.
        let known = order(&switch, 0).and_then(|order| order.known).unwrap_or_default();
        take(&mut switch, 0, 8, &said(known));
        assert_eq!((step(&switch, 0), switch.turned.as_ref()), (Some(S::Finish), Some(&turned)));
        assert!(switch.shards[0].closed, "who was closed out has to be let back in one day");
        let again = SwitchOverReport { turned: Some(Turned::default()), ..finished(0) };
        take(&mut switch, 0, 8, &again);
        assert_eq!((step(&switch, 0), switch.turned.as_ref()), (Some(S::Open), Some(&turned)));
        take(&mut switch, 0, 8, &SwitchOverReport { opened: Some(Opened::default()), ..finished(0) });
        assert_eq!(crate::switch::left_to_do(&switch), None);
        switch.set_phase(SwitchOverPhase::Done);
        assert!(!take(&mut switch, 0, 8, &said(SwitchOverShard::default())) && switch.shards[0].closed);
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
