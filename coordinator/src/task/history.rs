//! What happened to a task: a bounded list, stored with it.

use std::time::SystemTime;

use dts_proto::v1::{Reason, TaskEvent};

use super::Stored;

/// How many events are kept.
const KEPT: usize = 100;

impl Stored {
    /// Adds an event under the present state; stored with the next change.
    pub fn note(&mut self, message: impl Into<String>, reason: Option<Reason>) {
        let state = self.task.as_ref().map_or(0, |task| task.state);
        self.events.push(TaskEvent { at: Some(SystemTime::now().into()), state, message: message.into(), reason });
        let over = self.events.len().saturating_sub(KEPT);
        self.events.drain(..over);
        self.forgotten += over as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_kept_and_the_rest_is_counted() {
        let mut stored = Stored::default();
        for number in 0..KEPT + 7 {
            stored.note(number.to_string(), None);
        }
        assert_eq!((stored.events.len(), stored.forgotten), (KEPT, 7));
        assert_eq!(stored.events[0].message, "7");
    }
}
