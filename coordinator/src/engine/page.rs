//! Tasks, a page at a time.

use std::ops::Bound;

use dts_proto::v1::Task;

use super::{Engine, answer};
use crate::store::Store;

impl<S: Store> Engine<S> {
    /// All tasks, oldest first.
    pub async fn list(&self) -> Vec<Task> {
        self.page("", usize::MAX).await.0
    }

    /// Tasks after this id, oldest first, and whether there are more of them. Only those that are given are put together.
    pub async fn page(&self, after: &str, most: usize) -> (Vec<Task>, bool) {
        let world = self.world.lock().await;
        let later = world.tasks.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let mut stored = later.map(|(_, held)| held).filter(|held| held.revision > 0);
        let tasks = stored.by_ref().take(most).map(answer).collect();
        (tasks, stored.next().is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use dts_proto::v1::TaskSpec;

    use super::*;
    use crate::secret::Sealer;
    use crate::store::Embedded;

    #[tokio::test]
    async fn pages_hold_every_task_once_in_the_order_of_all_and_say_which_is_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Arc::new(Sealer::open(&dir.path().join("key")).unwrap());
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let engine = Engine::open(store, sealer, Duration::from_secs(10)).await.unwrap();
        assert_eq!(engine.page("", 2).await, (Vec::new(), false));
        for number in 0..6 {
            let spec = TaskSpec { name: format!("task {number}"), ..TaskSpec::default() };
            engine.create(spec, String::new()).await.unwrap();
        }
        let all = engine.list().await;
        for size in 1..=7 {
            let (mut found, mut after) = (Vec::<Task>::new(), String::new());
            loop {
                let (page, more) = engine.page(&after, size).await;
                assert!(page.len() == size || !more, "a page of {size} is not full");
                found.extend(page);
                after = found.last().map(|task| task.id.clone()).unwrap_or_default();
                assert_eq!(more, found.len() < 6, "pages of {size}");
                if !more {
                    break;
                }
            }
            assert_eq!(found, all, "pages of {size}");
        }
    }
}
