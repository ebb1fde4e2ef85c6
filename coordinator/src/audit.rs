//! What a call was about, told by whoever carries it out to whoever notes it.

use std::sync::{Arc, Mutex, PoisonError};

tokio::task_local! {
    static ABOUT: Arc<Mutex<String>>;
}

/// Says which task, agent or token the call under way is about. No secret may stand in it.
pub fn about(what: impl Into<String>) {
    let told = ABOUT.try_with(|about| *about.lock().unwrap_or_else(PoisonError::into_inner) = what.into());
    // Nobody notes what nobody has called.
    let _ = told;
}

/// Carries out a call; gives what it was about, too.
pub async fn noting<F: Future>(call: F) -> (F::Output, String) {
    let told = Arc::<Mutex<String>>::default();
    let ended = ABOUT.scope(told.clone(), call).await;
    let about = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    (ended, about)
}
