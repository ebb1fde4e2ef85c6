//! From what holds to what is told: raised once, repeated while it stays, resolved when it is over. Pure.

use std::time::{Duration, SystemTime};

use dts_proto::v1::{Alarm, AlarmDelivery, AlarmEvent, AlarmPolicy};

use super::evaluate::{Condition, Key};

/// Of a policy that does not say.
const REPEAT: Duration = Duration::from_secs(4 * 3600);
/// With the longest pause of five minutes between them that is a day.
const ATTEMPTS: u32 = 300;

/// How often an alarm of this policy is told again.
pub(super) fn repeat(policy: &AlarmPolicy) -> Duration {
    if policy.repeat_seconds == 0 { REPEAT } else { Duration::from_secs(policy.repeat_seconds.into()) }
}

/// A new alarm, owed to every receiver.
pub(super) fn raise(id: String, policy: &AlarmPolicy, condition: &Condition, now: SystemTime) -> Alarm {
    let Key { policy: policy_id, kind, task, about } = condition.key.clone();
    let owed = |name: &String| AlarmDelivery {
        receiver: name.clone(),
        event: AlarmEvent::Raised.into(),
        sequence: 1,
        ..AlarmDelivery::default()
    };
    Alarm {
        id,
        policy_id,
        policy_name: policy.name.clone(),
        kind: kind.into(),
        need: condition.need.into(),
        task_id: task,
        task_name: condition.task_name.clone(),
        about,
        message: condition.message.clone(),
        reason: condition.reason.clone(),
        raised_at: Some(now.into()),
        deliveries: policy.receivers.iter().map(|receiver| owed(&receiver.name)).collect(),
        ..Alarm::default()
    }
}

/// An alarm that is still on, told again if it is time; true if anything changed.
pub(super) fn stays(alarm: &mut Alarm, policy: &AlarmPolicy, condition: &Condition, now: SystemTime) -> bool {
    let every = repeat(policy).as_secs().max(1);
    let on_for =
        alarm.raised_at.and_then(|at| SystemTime::try_from(at).ok()).and_then(|at| now.duration_since(at).ok());
    let due = u32::try_from(on_for.map_or(0, |on| on.as_secs() / every)).unwrap_or(u32::MAX);
    if due <= alarm.repeats {
        return false;
    }
    // After a pause of the coordinator: once, and not for every time that was missed.
    alarm.repeats = due;
    alarm.message.clone_from(&condition.message);
    alarm.reason.clone_from(&condition.reason);
    for delivery in &mut alarm.deliveries {
        // What the receiver does not have yet is on its way as it is.
        if is_done(delivery) {
            owe(delivery, AlarmEvent::Repeated);
        }
    }
    true
}

/// It is over.
pub(super) fn resolve(alarm: &mut Alarm, now: SystemTime) {
    alarm.resolved_at = Some(now.into());
    alarm.deliveries.iter_mut().for_each(|delivery| owe(delivery, AlarmEvent::Resolved));
}

fn owe(delivery: &mut AlarmDelivery, event: AlarmEvent) {
    *delivery = AlarmDelivery {
        receiver: std::mem::take(&mut delivery.receiver),
        event: event.into(),
        sequence: delivery.sequence + 1,
        ..AlarmDelivery::default()
    };
}

/// What became of an attempt; false if the message has been replaced meanwhile.
pub(super) fn attempted(
    alarm: &mut Alarm,
    receiver: &str,
    sequence: u32,
    result: Result<(), String>,
    now: SystemTime,
) -> bool {
    let of = |delivery: &&mut AlarmDelivery| delivery.receiver == receiver && delivery.sequence == sequence;
    let Some(delivery) = alarm.deliveries.iter_mut().find(of) else { return false };
    delivery.attempts += 1;
    match result {
        Ok(()) => (delivery.delivered_at, delivery.error) = (Some(now.into()), String::new()),
        Err(error) => {
            delivery.error = error;
            delivery.given_up = delivery.attempts >= ATTEMPTS;
        }
    }
    true
}

/// Nothing is to be done for it any more.
pub(super) fn is_done(delivery: &AlarmDelivery) -> bool {
    delivery.delivered_at.is_some() || delivery.given_up
}

/// Over, and told or given up.
pub(super) fn is_past(alarm: &Alarm) -> bool {
    alarm.resolved_at.is_some() && alarm.deliveries.iter().all(is_done)
}

/// How long to wait after so many attempts.
pub(super) fn pause(attempts: u32) -> Duration {
    Duration::from_secs(1u64 << attempts.saturating_sub(1).min(9)).min(Duration::from_secs(300))
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{AlarmKind, AlarmNeed, AlarmReceiver};

    use super::*;

    fn policy() -> AlarmPolicy {
        let receivers = ["a", "b"].map(|name| AlarmReceiver { name: name.into(), to: None });
        AlarmPolicy { id: "p".into(), repeat_seconds: 60, receivers: receivers.into(), ..AlarmPolicy::default() }
    }

    fn condition() -> Condition {
        Condition {
            key: Key { policy: "p".into(), kind: AlarmKind::Failed, task: "t".into(), about: String::new() },
            need: AlarmNeed::NeedsYou,
            task_name: "orders".into(),
            message: "the task failed".into(),
            reason: None,
            hold: Duration::ZERO,
        }
    }

    fn told(alarm: &Alarm) -> Vec<(AlarmEvent, u32, bool)> {
        let of = |delivery: &AlarmDelivery| (delivery.event(), delivery.sequence, is_done(delivery));
        alarm.deliveries.iter().map(of).collect()
    }

    #[test]
    fn an_alarm_is_told_to_everybody_repeated_to_those_who_have_it_and_resolved_once() {
        let now = SystemTime::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut alarm = raise("1".into(), &policy(), &condition(), now);
        assert_eq!(told(&alarm), [(AlarmEvent::Raised, 1, false); 2]);
        assert!(attempted(&mut alarm, "a", 1, Ok(()), now));
        assert!(attempted(&mut alarm, "b", 1, Err("no answer".into()), now));
        assert!(!stays(&mut alarm, &policy(), &condition(), at(59)));
        assert!(stays(&mut alarm, &policy(), &condition(), at(200)) && alarm.repeats == 3);
        assert!(!stays(&mut alarm, &policy(), &condition(), at(201)), "missed repeats are not made up for");
        assert_eq!(told(&alarm), [(AlarmEvent::Repeated, 2, false), (AlarmEvent::Raised, 1, false)]);
        resolve(&mut alarm, at(210));
        assert!(!attempted(&mut alarm, "a", 2, Ok(()), at(211)), "an answer to an old message");
        assert_eq!(told(&alarm), [(AlarmEvent::Resolved, 3, false), (AlarmEvent::Resolved, 2, false)]);
        assert!(!is_past(&alarm));
        assert!(attempted(&mut alarm, "a", 3, Ok(()), at(212)) && attempted(&mut alarm, "b", 2, Ok(()), at(212)));
        assert!(is_past(&alarm));
    }

    #[test]
    fn a_receiver_that_never_answers_is_given_up_after_about_a_day() {
        let now = SystemTime::now();
        let mut alarm = raise("1".into(), &policy(), &condition(), now);
        let mut waited = Duration::ZERO;
        while !is_done(&alarm.deliveries[0]) {
            attempted(&mut alarm, "a", 1, Err("no".into()), now);
            waited += pause(alarm.deliveries[0].attempts);
        }
        assert!((23..26).contains(&(waited.as_secs() / 3600)), "{waited:?}");
    }
}
