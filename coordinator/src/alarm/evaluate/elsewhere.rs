//! What holds of agents and of certificates: it is about no task.

use std::time::Duration;

use dts_proto::v1::{Agent, AlarmNeed, AlarmPolicy, AlarmTrigger};

use super::{Condition, Key, World};

/// One that was drained is gone for good reason.
fn is_lost(agent: &Agent) -> bool {
    let drained = agent.cordoned && agent.shards == 0;
    !agent.alive && !drained
}

pub(super) fn lost_agents<'a>(
    policy: &'a AlarmPolicy,
    trigger: &'a AlarmTrigger,
    world: World<'a>,
) -> impl Iterator<Item = Condition> + 'a {
    world.agents.iter().filter(|agent| is_lost(agent)).map(move |agent| {
        let message = match agent.shards {
            0 => format!("agent {} is not heard any more", agent.id),
            shards => {
                format!("agent {} is not heard any more, and nobody has taken its {shards} shards over", agent.id)
            }
        };
        elsewhere(policy, trigger, &agent.id, message)
    })
}

pub(super) fn certificates<'a>(
    policy: &'a AlarmPolicy,
    trigger: &'a AlarmTrigger,
    world: World<'a>,
) -> impl Iterator<Item = Condition> + 'a {
    let limit = world.now + Duration::from_secs(trigger.threshold_seconds.into());
    world.certificates.iter().filter(move |(_, until)| *until < limit).map(move |(file, until)| {
        let message = match until.duration_since(world.now) {
            Ok(left) => format!("certificate {file} expires in {} days", left.as_secs() / 86_400),
            Err(_) => format!("certificate {file} has expired"),
        };
        elsewhere(policy, trigger, file, message)
    })
}

/// What is not about a task.
fn elsewhere(policy: &AlarmPolicy, trigger: &AlarmTrigger, about: &str, message: String) -> Condition {
    Condition {
        key: Key { policy: policy.id.clone(), kind: trigger.kind(), task: String::new(), about: about.to_owned() },
        need: AlarmNeed::NeedsYou,
        task_name: String::new(),
        message,
        reason: None,
        hold: Duration::from_secs(trigger.for_seconds.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use dts_proto::v1::AlarmKind;

    use super::*;
    use crate::alarm::evaluate::conditions;
    use crate::alarm::evaluate::tests::{nothing, policy};

    #[test]
    fn agents_and_certificates_are_not_about_tasks() {
        let now = SystemTime::now();
        let agents = [
            Agent { id: "here".into(), alive: true, ..Agent::default() },
            Agent { id: "gone".into(), alive: false, shards: 2, ..Agent::default() },
            Agent { id: "drained".into(), alive: false, cordoned: true, ..Agent::default() },
        ];
        let day = Duration::from_secs(86_400);
        let certificates = [("a.pem".to_owned(), now + 20 * day), ("b.pem".to_owned(), now - day)];
        let world = World { agents: &agents, certificates: &certificates, now, ..nothing() };
        let lost = conditions(&[policy(AlarmKind::AgentLost, 0)], world);
        assert_eq!(lost.iter().map(|found| found.key.about.as_str()).collect::<Vec<_>>(), ["gone"]);
        let expiring = conditions(&[policy(AlarmKind::Certificate, 30 * 86_400)], world);
        assert_eq!(expiring.len(), 2);
        assert!(expiring[0].message.contains("days") && expiring[1].message.contains("has expired"));
        let few = conditions(&[policy(AlarmKind::Certificate, 10 * 86_400)], world);
        assert_eq!(few.len(), 1);
    }
}
